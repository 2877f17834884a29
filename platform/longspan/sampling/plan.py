"""The sample plan: for every training sample, the pieces of documents whose tokens it takes, part by part.

A stream of parts, so that a plan of any length is built in the memory of one window a source. `corpus.plan_table`
stores the parts, `feed/` reads their rows, `planner/` counts them.

What holds when a plan is built again with other arguments (same corpus and seed):
- Sample k of a source is always the same tokens, whatever the mix, the steps, the batch size and `part_samples`: only
  where it stands in the run can change.
- More steps only append. A ramp that gets longer, or a limit that starts to hold, changes the mix itself.
- No document of a source comes again before all of its epoch have come.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from longspan.errors import ConfigError
from longspan.sampling.deal import dealt, open_line, within_limits
from longspan.sampling.mix import asked_mixture
from longspan.sampling.packing import Samples, joined, pack_best_fit, pack_sequential
from longspan.sampling.settings import MixPoint, PlanSettings, Upsample
from longspan.sampling.table import CorpusTable
from longspan.sampling.windows import Source, open_source, stream_windows

__all__ = ["MixPoint", "PlanPart", "PlanSettings", "Upsample", "plan_parts"]

_WINDOW_SAMPLES = 4
_GOLDEN = 0.6180339887498949


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
        ConfigError: the settings do not fit the corpus or each other, raised by the call; or a source has a little less
            than its limit on repetition should allow, raised by the part in which it ends.
    """
    names = table.source_names
    _check(settings, names)
    mixture = asked_mixture(settings, names, table.source_tokens)
    used = np.flatnonzero(mixture.begin.any(axis=0) | mixture.end.any(axis=0)).tolist()
    lines, most_tokens = {}, np.full(len(names), np.inf)
    for number in used:
        source = open_source(table, number, settings)
        limit = settings.max_epochs.get(names[number])
        most_tokens[number] = math.inf if limit is None else limit * source.epoch_tokens
        lines[number] = open_line(_source_samples(source, settings, limit), source.key, settings)
    mixture = within_limits(mixture, lines, most_tokens, settings, names)
    return _in_parts(dealt(mixture, lines, settings, names), part_samples)


def _check(settings: PlanSettings, names: tuple[str, ...]) -> None:
    for name in settings.max_epochs:
        if name not in names:
            raise ConfigError(f"data.repetition.by_source.{name}: not in the manifest; it has {list(names)}")
    for name, upsample in settings.upsample.items():
        if name not in names:
            raise ConfigError(f"data.upsample.by_source.{name}: not in the manifest; it has {list(names)}")
        if upsample.ratio < 1:
            raise ConfigError(f"data.upsample: ratio {upsample.ratio} for {name} is below 1; give 1 or more")


def _source_samples(source: Source, settings: PlanSettings, limit: float | None) -> Iterator[Samples]:
    """The source's samples, window by window, those of a window in a seeded order; not more epochs than `limit`."""
    num_epochs = None if limit is None else math.ceil(limit)
    windows = stream_windows(source, settings.shuffle, settings.shuffle_tokens, num_epochs)
    pack = pack_best_fit if settings.packing == "best_fit" else pack_sequential
    left = math.inf if limit is None else limit * source.epoch_tokens
    for samples, window in pack(windows, settings.sample_length):
        if settings.shuffle:
            # The seam of the epoch before stays in front, and this epoch's own is not among them yet.
            rng = np.random.default_rng([*source.key, window.epoch, _WINDOW_SAMPLES, window.number])
            num_seams = int((samples.epoch != window.epoch).sum())
            order = _shuffled(samples.between(num_seams, samples.num_samples), source, rng)
            samples = samples.reordered(np.concatenate([np.arange(num_seams), num_seams + order]))
        tokens = np.cumsum(samples.tokens)
        fitting = int(np.searchsorted(tokens, left, side="right"))
        yield samples.between(0, fitting)
        if fitting < samples.num_samples:
            return
        left -= int(tokens[-1])


def _shuffled(samples: Samples, source: Source, rng: np.random.Generator) -> NDArray[np.int64]:
    """A random order of the samples; where long documents are upsampled, with about as much of them in any part.

    Samples are put in the order of their share of such documents, and then taken in steps of the golden ratio.
    """
    if source.upsample is None:
        return rng.permutation(samples.num_samples)
    is_long = np.asarray(source.table.length[samples.document]) >= source.upsample.threshold
    ends = np.concatenate([[0], np.cumsum(np.where(is_long, samples.length, 0), dtype=np.int64)])
    share = np.diff(ends[samples.span_offsets]) / samples.tokens
    rank = np.empty(share.size)
    rank[np.lexsort((rng.random(share.size), share))] = np.arange(share.size)
    return np.argsort((rank * _GOLDEN + rng.random()) % 1.0, kind="stable")


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
