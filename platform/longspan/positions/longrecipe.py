"""LongRecipe's position-index transformation: segments keep their order and inside, gaps open between them.

Called by `assign`. The segments are those of the text that is really trained on (after selection); the released code
takes them from the unselected text: its gaps fall inside sentences, its windows stay half empty.
"""

from typing import assert_never

import numpy as np

from longspan.positions.documents import Documents, place_pieces
from longspan.positions.methods import Int64Array, LongRecipe, PositionArray
from longspan.positions.subsets import below, sorted_subsets


def longrecipe_positions(
    method: LongRecipe, documents: Documents, starts: Int64Array, rng: np.random.Generator
) -> PositionArray:
    """Positions of all documents of a sample under LongRecipe.

    Args:
        method: the variant and the least number of segments.
        documents: of the sample.
        starts: int64 [num_segments] token indices, strictly increasing, with every document's first token.
        rng: of the sample.

    Returns:
        float32 [num_tokens], strictly increasing from 0 in each document; steps other than 1 only at segment starts.
    """
    starts, split = add_random_cuts(starts, documents, method.min_segments, rng)
    num_segments = split[1:] - split[:-1]
    match method.variant:
        case "composition":
            shifts = composition_shifts(num_segments, documents.unused, rng)
        case "bounded":
            shifts = bounded_shifts(num_segments, documents.unused, rng)
        case _:
            assert_never(method.variant)
    if len(num_segments) > 1:
        shifts -= documents.begins.repeat(num_segments)
    lengths = np.empty_like(starts)
    np.subtract(starts[1:], starts[:-1], out=lengths[:-1])
    lengths[-1] = documents.num_tokens - starts[-1]
    return place_pieces(shifts, lengths, documents.num_tokens)


def add_random_cuts(
    starts: Int64Array, documents: Documents, min_segments: int, rng: np.random.Generator
) -> tuple[Int64Array, Int64Array]:
    """Segment starts with random extra cuts, so that no document has fewer than min(min_segments, its tokens).

    The places of a document that start no segment are shared out into as many equal stretches as cuts are missing, and
    one place of each stretch is drawn.

    Returns the int64 starts, sorted, and int64 [num_documents + 1] where those of each document begin and end among
    them. The starts are unchanged, and `rng` is not touched, when there are enough already.
    """
    split = starts.searchsorted(documents.boundaries)
    num_segments = split[1:] - split[:-1]
    missing = np.minimum(min_segments, documents.lengths) - num_segments
    if missing.max() <= 0:
        return starts, split
    missing = np.maximum(missing, 0)
    # Numbered without the starts, the free places of a document are consecutive.
    free_before = starts - np.arange(len(starts))
    stretch = (documents.lengths - num_segments) // np.maximum(missing, 1)
    total = missing.cumsum()
    drawn = (np.arange(total[-1]) - (total - missing).repeat(missing) + rng.random(total[-1])) * stretch.repeat(missing)
    places = drawn.astype(np.int64) + free_before[split[:-1]].repeat(missing)
    cuts = places + free_before.searchsorted(places, side="right")
    split[1:] += total
    return np.sort(np.concatenate([starts, cuts])), split


def composition_shifts(num_segments: Int64Array, num_unused: Int64Array, rng: np.random.Generator) -> Int64Array:
    """Unused positions before each segment: a uniform composition into the gaps between segments and the tail.

    Stars and bars: a bar for each gap, in as many slots as there are bars and unused positions; every way to share the
    unused positions between the gaps and the tail after the last segment is equally likely. The i-th bar has as many
    unused positions before it as its slot less i. LongRecipe, Algorithm 1, with the list length corrected (the printed
    one overruns the window).

    Returns int64 [num_segments.sum()], from 0 and not falling inside a document, at most its num_unused.
    """
    num_bars = num_segments - 1
    bars, offsets = sorted_subsets(num_unused + num_bars, num_bars, rng)
    shifts = bars - np.arange(len(bars))
    if len(offsets) > 1:
        shifts += (num_segments.cumsum() - num_segments - offsets).repeat(num_segments)
    return shifts


def bounded_shifts(num_segments: Int64Array, num_unused: Int64Array, rng: np.random.Generator) -> Int64Array:
    """Unused positions before each segment: gaps uniform on {0..M}.

    LongRecipe, Eq. 6. The paper never gives M; here M = floor(2 * num_unused / num_gaps), so that the mean sum fills
    the window. Where the gaps of a document overrun it, each is mirrored (M less the gap): their sum is symmetric about
    a mean of at most num_unused, so that always fits. With more than 2 * num_unused gaps M is 0 and nothing moves.

    Returns int64 [num_segments.sum()], from 0 and not falling inside a document, at most its num_unused.
    """
    largest = 2 * num_unused // np.maximum(num_segments - 1, 1)
    begins = num_segments.cumsum() - num_segments
    gaps = below((largest + 1).repeat(num_segments), rng)
    gaps[begins] = 0
    overruns = np.add.reduceat(gaps, begins) > num_unused
    if overruns.any():
        gaps = np.where(overruns.repeat(num_segments), largest.repeat(num_segments) - gaps, gaps)
        gaps[begins] = 0
    sums = gaps.cumsum()
    return sums if len(begins) == 1 else sums - sums[begins].repeat(num_segments)
