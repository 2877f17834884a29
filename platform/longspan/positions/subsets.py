"""Random choices without replacement for many documents at once: the draws behind the methods.

Exact: every set is equally likely. Which way is quick depends on how full the choice is, so there are three.
"""

import math

import numpy as np
from numpy.typing import NDArray

from longspan.positions.methods import Int64Array

_DENSE = 8
"""More than one place in so many is dense: drawing until there are enough would repeat itself."""
_LONG = 2048
"""Longer dense ranges are worth a Python step of their own, which marks the places; shorter ones are sorted together.
"""
_BELOW_ONE = 1 - 2.0**-50


def sorted_subsets(sizes: Int64Array, counts: Int64Array, rng: np.random.Generator) -> tuple[Int64Array, Int64Array]:
    """For each document a 0 and `counts[d]` distinct numbers of 1..sizes[d], rising; every set is equally likely.

    Args:
        sizes: int64 [num_documents], 0 to 2**25.
        counts: int64 [num_documents], 0 to sizes[d].
        rng: how often it is called depends on what it gives, and on nothing else but the arguments.

    Returns:
        numbers int64 [(counts + 1).sum()], the documents' end to end, those of document d raised by offsets[d]; and the
        offsets, int64 [num_documents], which keep the documents apart in one sorted array.
    """
    offsets = (sizes + 1).cumsum() - sizes - 1
    is_sparse = counts * _DENSE <= sizes
    if is_sparse.all():
        return _by_rejection(offsets, sizes, counts, rng), offsets
    is_marked = ~is_sparse & (sizes > _LONG)
    is_short = ~(is_sparse | is_marked)
    parts = [_by_marks(int(offsets[d]), int(sizes[d]), int(counts[d]), rng) for d in np.flatnonzero(is_marked)]
    if is_short.any():
        parts.append(_by_keys(offsets[is_short], sizes[is_short], counts[is_short], rng))
    if is_sparse.any():
        parts.append(_by_rejection(offsets[is_sparse], sizes[is_sparse], counts[is_sparse], rng))
    numbers = parts[0] if len(parts) == 1 else np.concatenate(parts)
    if len(sizes) > 1 or is_short.any():
        numbers.sort(kind="stable")  # which merges what is sorted already
    return numbers, offsets


def below(limits: Int64Array, rng: np.random.Generator) -> Int64Array:
    """One uniform whole number of 0..limits[i]-1 for each i; limits up to 2**25, against which 2**53 is plenty."""
    return np.asarray((rng.random(len(limits)) * limits).astype(np.int64))


def _by_rejection(offsets: Int64Array, sizes: Int64Array, counts: Int64Array, rng: np.random.Generator) -> Int64Array:
    """Draw as many as are missing until no two are alike: uniform, since all sets of new numbers are alike."""
    numbers = _sorted_draws(offsets, sizes, counts, rng)
    while True:
        is_repeated: NDArray[np.bool_] = numbers[1:] == numbers[:-1]
        if not is_repeated.any():
            return numbers
        owner = offsets.searchsorted(numbers[1:][is_repeated], side="right") - 1
        drawn = below(sizes[owner], rng) + offsets[owner] + 1
        numbers = np.concatenate([numbers[:1], numbers[1:][~is_repeated], drawn])
        numbers.sort(kind="stable")


def _sorted_draws(offsets: Int64Array, sizes: Int64Array, counts: Int64Array, rng: np.random.Generator) -> Int64Array:
    """A 0 and `counts[d]` numbers of 1..sizes[d] for each document, rising, some of them perhaps alike.

    The sums of c + 1 exponential steps, but for the last, as shares of the last, are c sorted uniform numbers: no sort.
    """
    sums = np.zeros(int(counts.sum()) + len(counts) + 1)
    steps = rng.standard_exponential(out=sums[1:])
    steps.cumsum(out=steps)
    # In place from here on: new memory for every step would cost as much as the arithmetic.
    shares = sums[:-1]
    if len(sizes) == 1:
        shares *= sizes[0] * _BELOW_ONE / sums[-1]
        numbers = shares.astype(np.int64)
        numbers += offsets[0] + 1
        numbers[0] = offsets[0]
        return numbers
    repeats = counts + 1
    ends = repeats.cumsum()
    begins = ends - repeats
    before = sums[begins]
    scales = sizes * _BELOW_ONE / (sums[ends] - before)
    shares -= before.repeat(repeats)
    shares *= scales.repeat(repeats)
    numbers = shares.astype(np.int64)
    numbers += (offsets + 1).repeat(repeats)
    numbers[begins] = offsets
    return numbers


def _by_keys(offsets: Int64Array, sizes: Int64Array, counts: Int64Array, rng: np.random.Generator) -> Int64Array:
    """Give every place a random key and take the places with the lowest ones; not sorted."""
    begins = sizes.cumsum() - sizes
    order = (rng.random(int(sizes.sum())) + np.arange(len(sizes)).repeat(sizes)).argsort()
    rank = np.arange(len(order)) - begins.repeat(sizes)
    chosen = order[rank < counts.repeat(sizes)] + (offsets - begins + 1).repeat(counts)
    return np.concatenate([offsets, chosen])


def _by_marks(offset: int, size: int, count: int, rng: np.random.Generator) -> Int64Array:
    """Mark every place with the same odds, somewhat fewer places than are wanted, then drawn places until there are
    enough. Where more than half are wanted, those are marked that are not.

    Places with the same odds are, whatever their number, a uniform set of that number, and a uniform set with drawn
    places added is one too. A random byte a place costs less than drawing every place that is wanted.
    """
    fewer = min(count, size - count)
    odds = max(0, int(256 * (fewer - 4 * math.sqrt(fewer)) / size))
    is_marked = np.zeros(size + 1, np.bool_)
    missing = -1
    while missing < 0:  # too many: less than once in 30,000 times
        draws = rng.integers(2**64, size=-(-size // 8), dtype=np.uint64).view(np.uint8)
        np.less(draws[:size], odds, out=is_marked[1:])
        missing = fewer - int(np.count_nonzero(is_marked))
    while missing:
        is_marked[(rng.random(missing) * size).astype(np.int64) + 1] = True
        missing = fewer - int(np.count_nonzero(is_marked))
    wanted = is_marked if fewer == count else ~is_marked
    wanted[0] = True
    numbers = np.flatnonzero(wanted)
    numbers += offset
    return numbers
