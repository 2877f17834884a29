"""The sample plan: for every training sample, the pieces of documents whose tokens it takes, part by part.

A stream of parts, so that a plan of any length is built in the memory of one window a source. `corpus.plan_table`
stores the parts, `feed/` reads their rows, `planner/` counts them.

What holds when a plan is built again with other arguments (same corpus and seed):
- Sample k of a source is always the same tokens, whatever the mix, the steps, the batch size and `part_samples`: only
  where it stands in the run can change.
- With one source, more steps only append. With several, the last block of a mix segment is dealt anew when the segment
  grows; all before it stays as it was. A ramp that gets longer, or a limit that starts to hold, changes the mix itself.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from longspan.errors import ConfigError
from longspan.sampling.mix import Mixture, asked_mixture, block_sources, limited_mixture, total_counts
from longspan.sampling.packing import Samples, joined, pack_best_fit, pack_sequential
from longspan.sampling.settings import MixPoint, PlanSettings, Upsample
from longspan.sampling.table import CorpusTable
from longspan.sampling.windows import Source, open_source, stream_windows

__all__ = ["MixPoint", "PlanPart", "PlanSettings", "Upsample", "plan_parts", "planned_mixture"]

_WINDOW_SAMPLES = 4


@dataclass(frozen=True)
class PlanPart:
    """Neighbouring samples of a run; sample i of the run is taken at optimizer step i // global_batch_size.

    Attributes:
        first_sample: place of the part's first sample in the run.
        source: int16 [num_samples], place in the corpus's source names.
        span_offsets: int64 [num_samples + 1], from 0; sample i has spans span_offsets[i] to span_offsets[i + 1].
        document: int64 [num_spans], document number in the corpus.
        offset: int64 [num_spans], first token of the span in the global token stream.
        length: int32 [num_spans], tokens, at least 1; those of a sample add up to at most `sample_length`, and what
            is missing is padding.
        epoch: int32 [num_samples], epoch (from 0) of its source that the sample begins in.
    """

    first_sample: int
    source: NDArray[np.int16]
    span_offsets: NDArray[np.int64]
    document: NDArray[np.int64]
    offset: NDArray[np.int64]
    length: NDArray[np.int32]
    epoch: NDArray[np.int32]

    @property
    def num_samples(self) -> int:
        return int(self.source.size)


def plan_parts(table: CorpusTable, settings: PlanSettings, part_samples: int = 16384) -> Iterator[PlanPart]:
    """The plan of `settings.steps * settings.global_batch_size` samples, each from one source, in parts.

    Args:
        table: the corpus.
        settings: what is asked for.
        part_samples: samples of every part but the last.

    Raises:
        ConfigError: the settings do not fit the corpus or each other; raised by the call, before the first part.
    """
    mixture, sources = _open(table, settings)
    streams = {
        number: _source_samples(sources[number], settings) for number in np.flatnonzero(total_counts(mixture)).tolist()
    }
    return _in_parts(_dealt(mixture, streams, settings.shuffle), part_samples)


def planned_mixture(table: CorpusTable, settings: PlanSettings) -> Mixture:
    """The mix that `plan_parts` deals by, after the limits on repetition.

    Raises:
        ConfigError: as `plan_parts`.
    """
    return _open(table, settings)[0]


def _open(table: CorpusTable, settings: PlanSettings) -> tuple[Mixture, dict[int, Source]]:
    names = table.source_names
    asked = asked_mixture(settings, names, table.source_tokens)
    for name, upsample in settings.upsample.items():
        if name not in names:
            raise ConfigError(f"data.upsample.by_source.{name}: not in the manifest; it has {list(names)}")
        if upsample.ratio < 1:
            raise ConfigError(f"data.upsample: ratio {upsample.ratio} for {name} is below 1; give 1 or more")
    used = np.flatnonzero(asked.begin.any(axis=0) | asked.end.any(axis=0)).tolist()
    sources = {number: open_source(table, number, settings) for number in used}
    epoch_tokens = np.zeros(len(names))
    for number, source in sources.items():
        epoch_tokens[number] = source.epoch_tokens
    return limited_mixture(asked, settings, names, epoch_tokens), sources


def _source_samples(source: Source, settings: PlanSettings) -> Iterator[Samples]:
    """The source's samples, window by window, those of a window in a seeded order."""
    windows = stream_windows(source, settings.shuffle, settings.shuffle_tokens)
    pack = pack_best_fit if settings.packing == "best_fit" else pack_sequential
    for samples, window in pack(windows, settings.sample_length):
        if settings.shuffle:
            rng = np.random.default_rng([*source.key, window.epoch, _WINDOW_SAMPLES, window.number])
            samples = samples.reordered(rng.permutation(samples.num_samples))
        yield samples


def _dealt(
    mixture: Mixture, streams: dict[int, Iterator[Samples]], shuffle: bool
) -> Iterator[tuple[NDArray[np.int16], Samples]]:
    """Blocks of the run: the source of each sample, and the samples."""
    ready: dict[int, tuple[Samples, int]] = {}
    for block in block_sources(mixture, shuffle):
        taken = []
        for number, count in enumerate(np.bincount(block).tolist()):
            if count:
                samples, ready[number] = _take(streams[number], ready.get(number), count)
                taken.append(samples)
        # The j-th sample of a source in the block is the j-th of those taken; a stable sort by source lines them up.
        order = np.empty(block.size, dtype=np.int64)
        order[np.argsort(block, kind="stable")] = np.arange(block.size)
        yield block, joined(taken).reordered(order)


def _take(
    stream: Iterator[Samples], ready: tuple[Samples, int] | None, count: int
) -> tuple[Samples, tuple[Samples, int]]:
    """The next `count` samples of a stream; and the window in hand (`ready`), with how many of it are taken."""
    window, used = ready or (next(stream), 0)
    parts = []
    while True:
        stop = min(used + count, window.num_samples)
        parts.append(window.between(used, stop))
        count -= stop - used
        if count == 0:
            return joined(parts), (window, stop)
        window, used = next(stream), 0


def _in_parts(blocks: Iterator[tuple[NDArray[np.int16], Samples]], part_samples: int) -> Iterator[PlanPart]:
    first = held = 0
    sources: list[NDArray[np.int16]] = []
    parts: list[Samples] = []
    for source, samples in blocks:
        sources.append(source)
        parts.append(samples)
        held += source.size
        while held >= part_samples:
            last = source.size - (held - part_samples)
            yield _part(first, [*sources[:-1], sources[-1][:last]], [*parts[:-1], parts[-1].between(0, last)])
            first, held = first + part_samples, held - part_samples
            source, samples = source[last:], samples.between(last, samples.num_samples)
            sources, parts = [source], [samples]
    if held:
        yield _part(first, sources, parts)


def _part(first: int, sources: list[NDArray[np.int16]], parts: list[Samples]) -> PlanPart:
    samples = joined(parts)
    return PlanPart(
        first_sample=first,
        source=np.concatenate(sources),
        span_offsets=samples.span_offsets,
        document=samples.document,
        offset=samples.offset,
        length=samples.length,
        epoch=samples.epoch,
    )
