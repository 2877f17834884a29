"""A micro-batch: several samples in one row of tokens, with everything the step needs, as plain arrays.

A pure function of (plan rows, tokens, recipe, seed): nothing here knows a rank, a worker or the order of arrival.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from longspan.positions import PositionMethod, sample_positions, segment_starts

IGNORE = -100
_POSITION_STREAM = 0x705

Tokens = tuple[NDArray[np.uint32], NDArray[np.float32] | None]
ReadDocument = Callable[[int, int, int], Tokens]
"""(document, start, length) -> (tokens, weight of each token as a target or None for ones)."""


@dataclass(frozen=True)
class Sample:
    """One row of the sample plan: `index` is the global sample index, the spans name its documents."""

    index: int
    documents: NDArray[np.int32]
    starts: NDArray[np.int32]
    lengths: NDArray[np.int32]


@dataclass(frozen=True)
class BatchSettings:
    """What of the recipe and the manifest decides the arrays of a sample."""

    target_length: int
    method: PositionMethod
    document_mask: bool
    seed: int
    ends_sentence: NDArray[np.bool_]


@dataclass(frozen=True)
class MicroBatch:
    """`num_tokens` = samples x sample_length; labels[i] is the token after i, or -100 where there is no target."""

    first_sample: int
    input_ids: NDArray[np.int32]
    positions: NDArray[np.float32]
    labels: NDArray[np.int32]
    loss_weight: NDArray[np.float32]
    cu_seqlens: NDArray[np.int32]

    @property
    def num_tokens(self) -> int:
        return len(self.input_ids)


def make_micro_batch(samples: list[Sample], read: ReadDocument, settings: BatchSettings) -> MicroBatch:
    """The samples, side by side in one row. Positions of a sample depend on (seed, global sample index) only.

    Raises:
        DataError: a document is longer than the target window, or cannot be read (named by `read`).
    """
    parts = [_sample_arrays(sample, read, settings) for sample in samples]
    ids, positions, labels, weights = (
        np.concatenate(column) for column in zip(*(part[:4] for part in parts), strict=True)
    )
    lengths = np.concatenate([part[4] for part in parts])
    return MicroBatch(
        first_sample=samples[0].index,
        input_ids=ids,
        positions=positions,
        labels=labels,
        loss_weight=weights,
        cu_seqlens=np.concatenate([[0], np.cumsum(lengths)]).astype(np.int32),
    )


def _sample_arrays(
    sample: Sample, read: ReadDocument, settings: BatchSettings
) -> tuple[NDArray[np.int32], NDArray[np.float32], NDArray[np.int32], NDArray[np.float32], NDArray[np.int64]]:
    spans = [
        read(int(document), int(start), int(length))
        for document, start, length in zip(sample.documents, sample.starts, sample.lengths, strict=True)
    ]
    tokens = np.concatenate([span for span, _ in spans]).astype(np.int32)
    weight = np.concatenate([np.ones(len(span), np.float32) if weights is None else weights for span, weights in spans])
    span_ends = np.cumsum(sample.lengths, dtype=np.int64)

    # The target of token i is token i + 1, with that token's weight; the last token of a span has none, so no target
    # crosses a document boundary or a splice.
    labels = np.full(len(tokens), IGNORE, np.int32)
    loss_weight = np.zeros(len(tokens), np.float32)
    labels[:-1], loss_weight[:-1] = tokens[1:], weight[1:]
    labels[span_ends - 1], loss_weight[span_ends - 1] = IGNORE, 0
    labels[loss_weight == 0] = IGNORE

    lengths = sample.lengths.astype(np.int64) if settings.document_mask else np.array([len(tokens)])
    cu_seqlens = np.concatenate([[0], np.cumsum(lengths)])
    rng = np.random.default_rng([settings.seed, _POSITION_STREAM, sample.index])
    positions = sample_positions(
        settings.method,
        cu_seqlens,
        segment_starts(tokens, settings.ends_sentence),
        settings.target_length,
        rng,
    )
    return tokens, positions, labels, loss_weight, lengths
