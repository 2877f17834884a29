"""LongAlign's loss for packed data: every sequence counts alike, however many targets it has.

`source` calls it on a finished micro-batch. Arithmetic on plain arrays: nothing here knows a rank or the global batch.
"""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from longspan.feed.batch import MicroBatch, Sample

_LEAST = np.finfo(np.float32).tiny
"""A weight that rounds to 0 would take its token out of the targets."""


def weigh_sequences(row: MicroBatch, samples: Sequence[Sample]) -> MicroBatch:
    """`row` with the loss weights of each sequence divided by their sum, so that they add up to 1.

    A sequence is what a sample has of one document; a document that is cut into two samples is two sequences. With
    weights 0 and 1 the N targets of a sequence get 1 / N each; other weights of the corpus keep their proportions in
    it. The weights of a global batch then add up to the number M of its sequences that have a target (to float32's
    rounding), and divided by their sum they are those of (1 / M) sum_i (1 / N_i) sum_t CE (2401.18058, section 3.2).

    Args:
        row: of `batch.make_micro_batch`.
        samples: those that it was made of.
    """
    owner = _sequence_of_tokens(samples, row.num_tokens)
    total = np.bincount(owner, weights=row.loss_weight)[owner]
    is_target = row.loss_weight > 0
    weight = np.zeros(row.num_tokens)
    np.divide(row.loss_weight, total, out=weight, where=is_target)
    weight[is_target] = np.maximum(weight[is_target], _LEAST)
    return replace(row, loss_weight=weight.astype(np.float32))


def _sequence_of_tokens(samples: Sequence[Sample], num_tokens: int) -> NDArray[np.int64]:
    """int64 [num_tokens], number of each token's sequence in the row. Padding goes with the last one of its sample: it
    has no weight.
    """
    width = num_tokens // len(samples)
    numbers, counts, used = [], [], 0
    for sample in samples:
        # Not by the number's change: chunks of one document may lie apart.
        documents = np.arange(sample.lengths.size)
        if sample.document is not None:
            documents = np.unique(sample.document, return_inverse=True)[1].astype(np.int64)
        padded = sample.lengths.astype(np.int64)
        padded[-1] += width - int(padded.sum())
        numbers.append(documents + used)
        counts.append(padded)
        used += int(documents.max()) + 1
    return np.repeat(np.concatenate(numbers), np.concatenate(counts))
