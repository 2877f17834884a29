"""The sample plan: for every training sample, the pieces of documents whose tokens it takes.

Built once on the driver from the document index and the recipe; `corpus.plan_table` stores it, `feed/` reads its rows.

What holds when a plan is built again with other arguments (same corpus and seed):
- Sample k of a source is always the same tokens, whatever the mix, the steps and the batch size: only where it stands
  in the run can change.
- With one source, more steps only append. With several, the order inside a mix phase is a permutation of that phase's
  samples, so a longer phase is dealt anew, while the phases before it stay as they were.
"""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from longspan.errors import ConfigError
from longspan.sampling.streams import Spans, stream_spans

_MIX, _STREAM = 11, 12
"""Tags that keep the order of a mix phase and the streams of the sources apart."""


@dataclass(frozen=True)
class Plan:
    """Samples in the order in which a run takes them; sample i is row i // global_batch_size of the optimizer steps.

    Attributes:
        source_names: names that `source` counts.
        sample_length: tokens of every sample.
        source: int16 [num_samples].
        span_offsets: int64 [num_samples + 1]; sample i has spans span_offsets[i] to span_offsets[i + 1].
        span_document: int32 [num_spans], document number in the manifest's index.
        span_start: int32 [num_spans], first token within the document.
        span_length: int32 [num_spans]; those of a sample add up to `sample_length`.
    """

    source_names: tuple[str, ...]
    sample_length: int
    source: NDArray[np.int16]
    span_offsets: NDArray[np.int64]
    span_document: NDArray[np.int32]
    span_start: NDArray[np.int32]
    span_length: NDArray[np.int32]

    @property
    def num_samples(self) -> int:
        return int(self.source.size)

    @property
    def fingerprint(self) -> str:
        """Hash of everything above: two plans with the same one feed the same tokens in the same order."""
        head = f"{self.source_names}:{self.sample_length}".encode()
        digest = hashlib.sha256(head)
        for column in (self.source, self.span_offsets, self.span_document, self.span_start, self.span_length):
            digest.update(column.astype(column.dtype.newbyteorder("<")).tobytes())
        return digest.hexdigest()[:32]


def build_plan(
    source_id: NDArray[np.int16],
    length: NDArray[np.int32],
    source_names: Sequence[str],
    *,
    mix: Sequence[tuple[int, Mapping[str, float]]],
    steps: int,
    global_batch_size: int,
    sample_length: int,
    upsample: tuple[int, float] | None,
    seed: int,
) -> Plan:
    """Plan of `steps * global_batch_size` samples of exactly `sample_length` tokens, each from one source.

    Inside a mix phase every source gets its exact share of the samples (largest remainder) in a seeded order. A source
    is an endless stream of its documents, a new seeded permutation every epoch, cut into samples end to end: each of
    its tokens is used once in an epoch, but for the copies that `upsample` adds.

    Args:
        source_id: int16 [num_documents], the document's place in `source_names`.
        length: int32 [num_documents], tokens of each document; empty ones are passed over.
        source_names: the manifest's sources.
        mix: (from_step, weights) phases, from_step rising from 0.
        steps: optimizer steps.
        global_batch_size: samples an optimizer step.
        sample_length: tokens a sample.
        upsample: (threshold, ratio) or None; see `streams.epoch_documents`.
        seed: the recipe's seed.

    Raises:
        ConfigError: the mix names a source that the manifest lacks, or one without tokens; phases are out of order.
    """
    usable = np.bincount(source_id[length > 0], minlength=len(source_names)) > 0
    _check_mix(mix, steps, source_names, usable)
    borders = [step * global_batch_size for step, _ in mix] + [steps * global_batch_size]
    phases = []
    for phase, (_, weights) in enumerate(mix):
        shares = np.array([float(weights.get(name, 0.0)) for name in source_names])
        counts = exact_counts(shares, borders[phase + 1] - borders[phase])
        rng = np.random.default_rng([seed, _MIX, phase])
        phases.append(rng.permutation(np.repeat(np.arange(len(source_names), dtype=np.int16), counts)))
    source = np.concatenate(phases)
    totals = np.bincount(source, minlength=len(source_names))

    parts = []
    for number in np.flatnonzero(totals).tolist():
        documents = np.flatnonzero((source_id == number) & (length > 0)).astype(np.int32)
        # Keyed by the name, so that a source added to the manifest leaves the others' streams as they are.
        name = int.from_bytes(hashlib.sha256(source_names[number].encode()).digest()[:8], "little")
        parts.append(
            stream_spans(
                documents,
                length[documents],
                num_samples=int(totals[number]),
                sample_length=sample_length,
                upsample=upsample,
                seed=[seed, _STREAM, name],
            )
        )
    return _dealt_out(parts, source, tuple(source_names), sample_length)


def exact_counts(shares: NDArray[np.float64], total: int) -> NDArray[np.int64]:
    """`total` split in proportion to `shares` into whole numbers (largest remainder; ties go to the first).

    Args:
        shares: float64 [num_parts], none negative, not all 0.

    Returns:
        int64 [num_parts], each within 1 of its exact share, 0 where the share is 0; their sum is `total`.
    """
    # Scaled by the largest first: the sum of huge weights must not overflow.
    quota: NDArray[np.float64] = shares / shares.max()
    quota = quota / quota.sum() * total
    counts: NDArray[np.int64] = np.floor(quota).astype(np.int64)
    remainder = np.where(shares > 0, quota - counts, -1.0)
    counts[np.argsort(-remainder, kind="stable")[: total - int(counts.sum())]] += 1
    return counts


def _dealt_out(parts: list[Spans], source: NDArray[np.int16], names: tuple[str, ...], sample_length: int) -> Plan:
    """The samples of all streams (source by source in `parts`) in the order of `source`."""
    # The j-th sample of a source in the run is sample j of its stream; a stable sort by source lines the two up.
    in_run = np.argsort(source, kind="stable")
    spans_in_stream = np.concatenate([np.bincount(part.sample) for part in parts])
    first_in_stream = np.cumsum(spans_in_stream) - spans_in_stream
    num_spans, first = np.empty(source.size, dtype=np.int64), np.empty(source.size, dtype=np.int64)
    num_spans[in_run], first[in_run] = spans_in_stream, first_in_stream
    offsets = np.concatenate([[0], np.cumsum(num_spans)])
    take = np.arange(offsets[-1]) + np.repeat(first - offsets[:-1], num_spans)
    return Plan(
        source_names=names,
        sample_length=sample_length,
        source=source,
        span_offsets=offsets,
        span_document=np.concatenate([part.document for part in parts])[take],
        span_start=np.concatenate([part.start for part in parts])[take],
        span_length=np.concatenate([part.length for part in parts])[take],
    )


def _check_mix(
    mix: Sequence[tuple[int, Mapping[str, float]]], steps: int, names: Sequence[str], usable: NDArray[np.bool_]
) -> None:
    from_steps = [step for step, _ in mix]
    if not from_steps or from_steps[0] != 0 or sorted(set(from_steps)) != from_steps or from_steps[-1] >= steps:
        raise ConfigError(f"data.mix: from_step must rise from 0 and stay below train.steps {steps}, not {from_steps}")
    for phase, (_, weights) in enumerate(mix):
        if not any(weight > 0 for weight in weights.values()):
            raise ConfigError(f"data.mix.{phase}.weights: needs at least one source with a weight above 0")
        for name, weight in weights.items():
            where = f"data.mix.{phase}.weights.{name}"
            if name not in names:
                raise ConfigError(f"{where}: not in the manifest; it has {list(names)}")
            if weight > 0 and not usable[list(names).index(name)]:
                raise ConfigError(
                    f"{where}: the manifest has no token of this source; leave it out or prepare it again"
                )
