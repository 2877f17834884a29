"""Chunks of a sample's documents interleaved as they are fed, so that every source can be trained as CIP or UtK.

`source` and `launch.survey` call it between reading and making a micro-batch; `corpus.synthesis.interleave` makes the
order. Nothing here knows a rank, a batch or the order of arrival.

The papers' way (LongSkywork's CIP, 2406.00605, and UtK, 2409.04774) is without a document mask: the tokens come in the
new order, positions run on over the sample, attention goes everywhere. With a document mask a token meets its own
document only, and RoPE sees differences of positions: so the same is had by leaving the tokens where they are and
giving each the position that it has in the new order. That way is ours.
"""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from longspan.config.data import Interleave
from longspan.corpus.synthesis.interleave import Pieces, interleave, shuffle_chunks, splices, token_indices
from longspan.feed.batch import Sample, Tokens

_INTERLEAVE_STREAM = 0xC19


def interleave_samples(
    samples: Sequence[Sample], tokens: Tokens, rule: Interleave, *, document_mask: bool, seed: int
) -> tuple[list[Sample], Tokens]:
    """The samples as they are trained on, and their tokens. A function of (seed, global sample index) for each sample.

    Without a document mask the spans of a sample are its pieces in the new order: no target crosses a splice. With one
    they stay documents, with positions that begin at 0 in each, rise, and stay below the tokens of the sample; every
    target inside a document is kept, since its text goes on there.

    Args:
        samples: each span a document of its own.
        tokens: of all spans of all samples (`batch.spans_of`), end to end; so are those returned.
    """
    made, places = [], []
    begin = 0
    for sample in samples:
        starts = np.cumsum(sample.lengths, dtype=np.int64) - sample.lengths
        pieces = _pieces(rule, sample, seed)
        order = token_indices(pieces, starts)
        if document_mask:
            made.append(replace(sample, positions=_positions(order, starts, sample.lengths)))
        else:
            made.append(_reordered(sample, starts, order, splices(pieces)))
            places.append(begin + order)
            begin += order.size
    if document_mask:
        return made, tokens
    at = np.concatenate(places)
    return made, (tokens[0][at], None if tokens[1] is None else tokens[1][at])


def _pieces(rule: Interleave, sample: Sample, seed: int) -> Pieces:
    rng = np.random.default_rng([seed, _INTERLEAVE_STREAM, sample.index])
    if rule.method == "utk":
        return shuffle_chunks(rng, sample.lengths, chunks=rule.chunks or (1, 3), cut=rule.cut)
    return interleave(rng, sample.lengths, chunks=rule.chunks or 2, cut=rule.cut)


def _positions(
    order: NDArray[np.int64], starts: NDArray[np.int64], lengths: NDArray[np.integer]
) -> NDArray[np.float32]:
    """Place of each token in the new order, from that of its document's first token."""
    place = np.empty_like(order)
    place[order] = np.arange(order.size)
    return (place - np.repeat(place[starts], lengths)).astype(np.float32)


def _reordered(sample: Sample, starts: NDArray[np.int64], order: NDArray[np.int64], jumps: NDArray[np.int64]) -> Sample:
    begins = np.concatenate([[0], jumps])
    document = np.searchsorted(starts, order[begins], side="right") - 1
    offsets = sample.offsets[document] + order[begins] - starts[document]
    return Sample(sample.index, offsets, np.diff(begins, append=order.size).astype(np.int32), document)
