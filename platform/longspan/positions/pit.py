"""LongRecipe's position-index transformation: segments keep their order and inside, gaps open between them.

Called by `assign` for one document. The segments are those of the text that is really trained on (after selection);
the released code takes them from the unselected text: its gaps fall inside sentences, its windows stay half empty.
"""

from typing import assert_never

import numpy as np
import numpy.typing as npt

from longspan.positions.methods import IntArray, LongRecipe, PositionArray, contiguous_positions


def longrecipe_positions(
    method: LongRecipe, num_tokens: int, segment_starts: IntArray, target_length: int, rng: np.random.Generator
) -> PositionArray:
    """Positions of one document under LongRecipe.

    Args:
        method: the variant and the least number of segments.
        num_tokens: tokens in the document, 1 <= num_tokens <= target_length.
        segment_starts: [num_segments] token indices, strictly increasing, first 0.
        target_length: positions are drawn from [0, target_length).
        rng: the document's random numbers.

    Returns:
        float32 [num_tokens], strictly increasing from 0; steps other than 1 only at segment starts.
    """
    starts = add_random_cuts(segment_starts, num_tokens, method.min_segments, rng)
    num_segments, num_unused = len(starts), target_length - num_tokens
    match method.variant:
        case "composition":
            gaps = composition_gaps(num_segments, num_unused, rng)
        case "bounded":
            gaps = bounded_gaps(num_segments, num_unused, rng)
        case _:
            assert_never(method.variant)
    # Whole numbers below 2**24, so float32 all the way is exact, and half the memory traffic of int64.
    shifts = gaps.cumsum().astype(np.float32)
    lengths = np.empty_like(starts)
    np.subtract(starts[1:], starts[:-1], out=lengths[:-1])
    lengths[-1] = num_tokens - starts[-1]
    positions: PositionArray = shifts.repeat(lengths)
    positions += contiguous_positions(num_tokens)
    return positions


def add_random_cuts(
    segment_starts: IntArray, num_tokens: int, min_segments: int, rng: np.random.Generator
) -> npt.NDArray[np.int64]:
    """Segment starts with uniformly drawn extra cuts, so that there are min(min_segments, num_tokens) of them.

    Returns the int64 starts, sorted; unchanged, and without touching `rng`, when there are enough already.
    """
    starts = segment_starts.astype(np.int64)
    num_missing = min(min_segments, num_tokens) - len(starts)
    if num_missing <= 0:
        return starts
    is_free = np.ones(num_tokens, dtype=np.bool_)
    is_free[0] = False
    is_free[starts] = False
    return np.sort(np.concatenate([starts, rng.choice(np.flatnonzero(is_free), num_missing, replace=False)]))


def composition_gaps(num_segments: int, num_unused: int, rng: np.random.Generator) -> npt.NDArray[np.int64]:
    """Gap before each segment: a uniform composition of the unused positions into the gaps and the tail.

    Stars and bars: num_segments - 1 distinct bars among num_unused + num_segments - 1 slots; every way to share
    `num_unused` positions between the num_segments - 1 gaps and the tail after the last segment is equally likely.
    LongRecipe, Algorithm 1, with the list length corrected (the printed one overruns the window).

    Returns int64 [num_segments], first 0, sum <= num_unused.
    """
    num_slots = num_unused + num_segments - 1
    bars = rng.choice(num_slots, num_segments - 1, replace=False, shuffle=False)
    bars.sort()
    gaps = np.zeros(num_segments, dtype=np.int64)
    gaps[1:] = bars
    gaps[2:] -= bars[:-1] + 1
    return gaps


def bounded_gaps(num_segments: int, num_unused: int, rng: np.random.Generator) -> npt.NDArray[np.int64]:
    """Gap before each segment: independent, uniform on {0..M}, drawn again as a whole until they fit the window.

    LongRecipe, Eq. 6. The paper never gives M; here M = floor(2 * num_unused / (num_segments - 1)), so that the mean
    sum fills the window. The sum is symmetric about a mean <= num_unused: at least every second draw fits. With more
    than 2 * num_unused + 1 segments M is 0 and the positions are contiguous.

    Returns int64 [num_segments], first 0, sum <= num_unused.
    """
    gaps = np.zeros(num_segments, dtype=np.int64)
    if num_segments == 1:
        return gaps
    largest = 2 * num_unused // (num_segments - 1)
    while True:
        gaps[1:] = rng.integers(0, largest, size=num_segments - 1, endpoint=True)
        if gaps.sum() <= num_unused:
            return gaps
