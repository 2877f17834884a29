"""A micro-batch: several samples in one row of tokens, with everything the step needs, as plain arrays.

A pure function of (plan rows, tokens, recipe, seed): nothing here knows a rank, a worker or the order of arrival.
`source` calls it with the tokens that it has read.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from longspan.errors import DataError
from longspan.positions import Contiguous, LongRecipe, PositionMethod, sample_positions, segment_starts

IGNORE = -100
PAD = 0
"""Id of the tokens that fill a sample up: never a target, and in a segment of their own, so no id is wrong."""
_POSITION_STREAM = 0x705
_NO_DRAWS = np.random.default_rng(0)
"""For the method that draws nothing: making a generator takes longer than its positions."""
_T = TypeVar("_T", np.int32, np.float32)

Tokens = tuple[NDArray[np.uint32], NDArray[np.float32] | None]
"""Tokens end to end, and the weight of each as a target, or None for ones."""


@dataclass(frozen=True)
class Sample:
    """One row of the sample plan.

    Attributes:
        index: global sample index.
        offsets: int64 [num_spans], first token of each span in the global token stream of the corpus.
        lengths: int32 [num_spans], tokens; together at most `BatchSettings.sample_length`.
        document: int64 [num_spans]: spans of one number are of one document, with a splice between them where text was
            left out; rising, but for interleaved samples, which know no document mask. None: every span is a document
            of its own.
        positions: float32 [num_tokens] of the tokens of all spans; None: those of the method.
    """

    index: int
    offsets: NDArray[np.int64]
    lengths: NDArray[np.int32]
    document: NDArray[np.int64] | None = None
    positions: NDArray[np.float32] | None = None

    @property
    def document_lengths(self) -> NDArray[np.int32]:
        """Tokens of each document, int32 [num_documents]."""
        if self.document is None:
            return self.lengths
        return np.add.reduceat(self.lengths, np.flatnonzero(np.diff(self.document, prepend=-1)))


@dataclass(frozen=True)
class BatchSettings:
    """What of the recipe and the manifest decides the arrays of a sample."""

    sample_length: int
    target_length: int
    method: PositionMethod
    document_mask: bool
    seed: int
    ends_segment: NDArray[np.bool_]
    """bool [vocab_size], True for tokens after which LongRecipe may open a gap (`segments.segment_ends`)."""


@dataclass(frozen=True)
class MicroBatch:
    """`num_tokens` = samples x sample_length; labels[i] is the token after i, or -100 where there is no target.

    Attributes:
        first_sample: global index of the first sample.
        input_ids, labels: int32 [num_tokens].
        positions, loss_weight: float32 [num_tokens].
        cu_seqlens: int32 [num_segments + 1], where attention may not cross; the padding of a sample is a segment.
    """

    first_sample: int
    input_ids: NDArray[np.int32]
    positions: NDArray[np.float32]
    labels: NDArray[np.int32]
    loss_weight: NDArray[np.float32]
    cu_seqlens: NDArray[np.int32]

    @property
    def num_tokens(self) -> int:
        return len(self.input_ids)


def spans_of(samples: Sequence[Sample]) -> tuple[NDArray[np.int64], NDArray[np.int32]]:
    """Offsets and lengths of all spans of the samples, in order: what `corpus.reader.TokenReader.gather` takes."""
    offsets, lengths = [sample.offsets for sample in samples], [sample.lengths for sample in samples]
    return np.concatenate(offsets), np.concatenate(lengths)


def make_micro_batch(samples: Sequence[Sample], tokens: Tokens, settings: BatchSettings) -> MicroBatch:
    """The samples, side by side in one row. Positions of a sample depend on (seed, global sample index) only.

    Args:
        samples: at least one.
        tokens: of all spans of all samples (`spans_of`), end to end: ids uint32 and weights float32 [num_read].

    Raises:
        DataError: a sample has more tokens than `sample_length`, or a document is longer than the target window.
    """
    width = settings.sample_length
    sizes = [int(sample.lengths.sum()) for sample in samples]
    for sample, size in zip(samples, sizes, strict=True):
        if not 0 < size <= width:
            raise DataError(
                f"sample {sample.index}: the plan gives it {size} tokens, but data.sample_length is {width};"
                " remove RUN/plan and run the same command again, which makes it anew"
            )
    ids = _padded(tokens[0].view(np.int32), sizes, width, np.int32(PAD))
    weight = None if tokens[1] is None else _padded(tokens[1], sizes, width, np.float32(0))
    spans = [_with_padding(sample.lengths, width - size) for sample, size in zip(samples, sizes, strict=True)]
    labels, loss_weight = _targets(ids, weight, np.cumsum(np.concatenate(spans)), sizes, width)
    parts = [s.document_lengths if settings.document_mask else s.lengths.sum(keepdims=True) for s in samples]
    segments = [_with_padding(part, width - size) for part, size in zip(parts, sizes, strict=True)]
    return MicroBatch(
        first_sample=samples[0].index,
        input_ids=ids,
        positions=_positions(samples, sizes, ids, settings),
        labels=labels,
        loss_weight=loss_weight,
        cu_seqlens=np.concatenate([[0], np.cumsum(np.concatenate(segments))]).astype(np.int32),
    )


def split_rows(row: MicroBatch, first_samples: Sequence[int]) -> list[MicroBatch]:
    """The micro-batches of equal size that `row` was made of, as views: made in one, they cost fewer small steps.

    Args:
        first_samples: of each of them.
    """
    size = row.num_tokens // len(first_samples)
    cuts = np.searchsorted(row.cu_seqlens, np.arange(len(first_samples) + 1) * size).tolist()
    batches = []
    for number, first_sample in enumerate(first_samples):
        part = slice(number * size, (number + 1) * size)
        batches.append(
            MicroBatch(
                first_sample=first_sample,
                input_ids=row.input_ids[part],
                positions=row.positions[part],
                labels=row.labels[part],
                loss_weight=row.loss_weight[part],
                cu_seqlens=row.cu_seqlens[cuts[number] : cuts[number + 1] + 1] - np.int32(number * size),
            )
        )
    return batches


def _with_padding(lengths: NDArray[np.integer], padding: int) -> NDArray[np.int64]:
    return np.append(lengths, padding).astype(np.int64) if padding else lengths.astype(np.int64)


def _padded(values: NDArray[_T], sizes: list[int], width: int, fill: _T) -> NDArray[_T]:
    """[num_samples * width]: `sizes[i]` of the values, then `fill` up to `width`, for each sample."""
    if values.size == len(sizes) * width:
        return values
    rows = np.full((len(sizes), width), fill, values.dtype)
    begin = 0
    for row, size in zip(rows, sizes, strict=True):
        row[:size] = values[begin : begin + size]
        begin += size
    return rows.reshape(-1)


def _targets(
    ids: NDArray[np.int32],
    weight: NDArray[np.float32] | None,
    span_ends: NDArray[np.int64],
    sizes: list[int],
    width: int,
) -> tuple[NDArray[np.int32], NDArray[np.float32]]:
    """Labels and their weights. The target of token i is token i + 1, with that token's weight; the last token of a
    span has none, so no target crosses a document boundary or a splice.
    """
    labels = np.empty_like(ids)
    labels[:-1] = ids[1:]
    loss_weight = np.ones(ids.size, np.float32)
    if weight is not None:
        loss_weight[:-1] = weight[1:]
        labels[loss_weight == 0] = IGNORE
    labels[span_ends - 1], loss_weight[span_ends - 1] = IGNORE, 0
    for number, size in enumerate(sizes):
        padding = slice(number * width + size, (number + 1) * width)
        labels[padding], loss_weight[padding] = IGNORE, 0
    return labels, loss_weight


def _positions(
    samples: Sequence[Sample], sizes: list[int], ids: NDArray[np.int32], settings: BatchSettings
) -> NDArray[np.float32]:
    width, method = settings.sample_length, settings.method
    starts = np.zeros(0, np.int64)
    if isinstance(method, LongRecipe):  # the only method that asks where segments begin
        starts = segment_starts(ids, settings.ends_segment)
    rows = []
    for number, (sample, size) in enumerate(zip(samples, sizes, strict=True)):
        lengths = sample.document_lengths if settings.document_mask else np.array([size])
        cu_seqlens = np.zeros(lengths.size + 1, np.int64)
        np.cumsum(lengths, out=cu_seqlens[1:])
        begin = number * width
        own = starts
        if starts.size and (len(samples) > 1 or size < width):
            own = starts[slice(*starts.searchsorted([begin, begin + size]))] - begin
        if isinstance(method, LongRecipe) and sample.document is not None:  # a gap may open at a splice too
            own = np.union1d(own, np.cumsum(sample.lengths, dtype=np.int64) - sample.lengths)
        rng = _NO_DRAWS if isinstance(method, Contiguous) else _position_rng(settings.seed, sample.index)
        if sample.positions is None:
            rows.append(sample_positions(method, cu_seqlens, own, settings.target_length, rng))
        else:
            rows.append(sample.positions)
        if size < width:
            rows.append(np.arange(width - size, dtype=np.float32))
    return rows[0] if len(rows) == 1 else np.concatenate(rows)


def _position_rng(seed: int, index: int) -> np.random.Generator:
    """Random numbers of a sample's positions. From an array of words: numpy takes a list apart three times as long."""
    words = np.array([seed & 0xFFFFFFFF, seed >> 32, _POSITION_STREAM, index & 0xFFFFFFFF, index >> 32], np.uint32)
    return np.random.Generator(np.random.PCG64(words))
