"""Formulas for the base of RoPE: what to set rope_theta to for a longer window, and whether a base is large enough.

Used by recipes and `planner` to choose and to judge a `RopeSettings.rope_theta`. The formulas are named one by one
because they differ widely: from 8k to 128k, static NTK gives 8.4 million and dynamic NTK 131.5 million.
"""

import math
from functools import lru_cache

import numpy as np

from longspan.errors import ConfigError

# Step of the geometric grid of bases that `theta_lower_bound` searches.
THETA_GRID_RATIO = 1.005
# Offsets are evaluated as (multiple of this) + (rest), so that few cosines are needed and BLAS does the work.
_BLOCK = 128


def ntk_theta(theta: float, factor: float, head_dim: int) -> float:
    """Static NTK-aware base: theta * factor ** (d / (d - 2)), d = rotated dimensions of a head (papers.md 4.4)."""
    return float(theta * factor ** _ntk_exponent(head_dim))


def dynamic_ntk_theta(theta: float, factor: float, length: int, original: int, head_dim: int) -> float:
    """Dynamic NTK base of Hugging Face: theta * (factor * length / original - (factor - 1)) ** (d / (d - 2)).

    Lengths below `original` count as `original`, which gives `theta` itself. With factor = length / original it grows
    with the square of the factor. LongRecipe's bases 48.9M, 131.5M and 13.5M are this formula.
    """
    stretch = factor * max(length, original) / original - (factor - 1)
    return float(theta * stretch ** _ntk_exponent(head_dim))


def critical_dimension_theta(theta: float, length: int, original: int) -> float:
    """Base that keeps the critical dimension in its trained range: theta ** (ln(length/2pi) / ln(original/2pi)).

    Liu et al., "Scaling laws of RoPE-based extrapolation" (arXiv 2310.05209); used as the start of LongRoPE2.
    """
    _check_period(length)
    _check_period(original)
    return float(theta ** (math.log(length / math.tau) / math.log(original / math.tau)))


def critical_dimension(theta: float, original: int, head_dim: int) -> int:
    """Number of frequency pairs that complete a full turn within `original` tokens: ceil(d/2 * log_theta(L/2pi)).

    35 for Llama-3-8B (theta 500,000, 8,192 tokens, d = 128). arXiv 2310.05209.
    """
    _check_period(original)
    return math.ceil(head_dim / 2 * math.log(original / math.tau) / math.log(theta))


def first_negative_distance(theta: float, length: int, head_dim: int) -> int | None:
    """Smallest distance m < length with sum_i cos(m * theta ** (-2i/d)) < 0; None when there is none.

    Up to that distance a similar token scores above a random one on average, so a base is good for a window of that
    length. "Base of RoPE bounds context length" (arXiv 2405.14591). Exact for every m, about 0.1 s at 1M tokens.
    """
    _check_head_dim(head_dim)
    return _first_negative(theta, 0, length, head_dim)


def theta_warning(theta: float, length: int, head_dim: int) -> str | None:
    """One line for the user when a base is too small for a window of `length` tokens; None when it is not.

    For plain RoPE only: the frequencies of the scaled types are no powers of one base.
    """
    distance = first_negative_distance(theta, length, head_dim)
    if distance is None:
        return None
    larger = THETA_GRID_RATIO ** _next_good_index(math.ceil(math.log(theta, THETA_GRID_RATIO)), length, head_dim)
    return (
        f"rope.rope_theta {theta:,.0f}: a token {distance:,} tokens back scores below a random one on average, inside "
        f"the target window of {length:,} (arXiv 2405.14591); a larger base, for example {larger:,.0f}, would not"
    )


@lru_cache(maxsize=256)
def theta_lower_bound(length: int, head_dim: int) -> float:
    """Smallest base, on a grid of 0.5 % steps, for which no distance below `length` has a negative sum.

    The sum is that of `first_negative_distance`; all m < length are checked. The set of good bases is not an interval:
    below the value returned, single good bases can hide between grid points (4.9M at 128k, where the grid finds 8.7M
    and the paper 7.8M), but their neighbours are bad, so they are no use as a limit. Seconds at 1M tokens, then cached.

    Args:
        length: window in tokens, 1 or more.
        head_dim: rotated dimensions of a head, even.
    """
    _check_head_dim(head_dim)
    if length < 1:
        raise ConfigError(f"the window must be 1 token or more to have a lower bound of rope.rope_theta, got {length}")
    return THETA_GRID_RATIO ** _grid_index(length, head_dim)


@lru_cache(maxsize=256)
def _grid_index(length: int, head_dim: int) -> int:
    # A base that is good for a window is good for every shorter one, so the shorter window's answer is a safe start.
    return _next_good_index(1 if length <= 1024 else _grid_index(length // 4, head_dim), length, head_dim)


def _next_good_index(index: int, length: int, head_dim: int) -> int:
    """First index from `index` on whose base has no negative sum below `length`."""
    witness = 0
    while True:
        theta = THETA_GRID_RATIO**index
        # The negative dip that rejected the last base moves slowly with the base: look there first.
        near = _first_negative(theta, int(witness * 0.98), min(int(witness * 1.02) + 1, length), head_dim)
        found = _first_negative(theta, 0, length, head_dim) if near is None else near
        if found is None:
            return index
        witness, index = found, index + 1


def _first_negative(theta: float, start: int, stop: int, head_dim: int) -> int | None:
    """First m in [start, stop) with a negative sum, from cos(a + b) = cos a cos b - sin a sin b as a matrix product."""
    frequencies = theta ** (-2.0 * np.arange(head_dim // 2) / head_dim)
    inside = np.outer(frequencies, np.arange(_BLOCK))
    table = np.concatenate([np.cos(inside), -np.sin(inside)])
    rows = 4
    while start < stop:
        angles = np.outer(start + _BLOCK * np.arange(rows), frequencies)
        sums = np.concatenate([np.cos(angles), np.sin(angles)], axis=1) @ table
        negative = np.flatnonzero(sums.ravel() < 0)
        if len(negative):
            found = start + int(negative[0])
            return found if found < stop else None
        start += rows * _BLOCK
        # Bad bases fail early: begin small, and grow only while nothing is found.
        rows = min(rows * 2, 512)
    return None


def _ntk_exponent(head_dim: int) -> float:
    _check_head_dim(head_dim)
    if head_dim == 2:
        raise ConfigError("NTK scaling of rope.rope_theta needs 4 rotated dimensions or more, got 2")
    return head_dim / (head_dim - 2)


def _check_head_dim(head_dim: int) -> None:
    if head_dim < 2 or head_dim % 2:
        raise ConfigError(
            f"RoPE turns pairs of dimensions: the rotated dimensions must be even and above 0, got {head_dim}"
        )


def _check_period(length: int) -> None:
    if length <= math.tau:
        raise ConfigError(f"a window of {length} tokens is shorter than one turn (2 pi); give 7 tokens or more")
