"""LongRecipe's transformation: uniform, at segment starts only, and up to the top of the window."""

from collections import Counter

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from longspan.positions import LongRecipe, document_positions
from longspan.positions.pit import add_random_cuts, bounded_gaps, composition_gaps


def chi_square(counts: Counter, num_outcomes: int) -> float:
    expected = counts.total() / num_outcomes
    unseen = num_outcomes - len(counts)
    return sum((count - expected) ** 2 / expected for count in counts.values()) + unseen * expected


@given(
    st.sampled_from(["composition", "bounded"]),
    st.integers(1, 150).flatmap(lambda n: st.tuples(st.just(n), st.sets(st.integers(1, max(n - 1, 1)), max_size=30))),
    st.integers(0, 2000),
    st.integers(0, 2**32),
)
def test_gaps_open_only_at_segment_starts(variant, document, spare: int, seed: int) -> None:
    num_tokens, inner = document
    starts = np.array([0, *sorted(start for start in inner if start < num_tokens)])
    method = LongRecipe(variant=variant, min_segments=1)
    positions = document_positions(method, num_tokens, starts, num_tokens + spare, np.random.default_rng(seed))
    jumps = np.flatnonzero(np.diff(positions) != 1) + 1
    assert set(jumps) <= set(starts[1:])


@pytest.mark.parametrize("gaps_of", [composition_gaps, bounded_gaps])
def test_every_way_to_fill_a_tiny_window_is_equally_likely(gaps_of) -> None:
    """3 segments, 3 unused positions: 10 ways to share them between two gaps and the tail. 9 degrees of freedom."""
    rng = np.random.default_rng(0)
    counts = Counter(tuple(gaps_of(3, 3, rng).tolist()) for _ in range(10_000))
    assert all(gaps[0] == 0 and sum(gaps) <= 3 for gaps in counts)
    assert chi_square(counts, 10) < 30


def test_composition_is_uniform_when_gaps_outnumber_unused_positions() -> None:
    """5 segments, 2 unused: C(6, 4) = 15 compositions."""
    rng = np.random.default_rng(1)
    counts = Counter(tuple(composition_gaps(5, 2, rng).tolist()) for _ in range(15_000))
    assert chi_square(counts, 15) < 40


def test_bounded_gaps_stay_below_their_bound() -> None:
    rng = np.random.default_rng(0)
    drawn = np.concatenate([bounded_gaps(11, 100, rng)[1:] for _ in range(500)])
    assert drawn.max() == 20
    assert drawn.min() == 0


def test_bounded_gaps_vanish_when_segments_outnumber_unused_positions() -> None:
    assert not bounded_gaps(50, 20, np.random.default_rng(0)).any()


@pytest.mark.parametrize("gaps_of", [composition_gaps, bounded_gaps])
def test_one_segment_has_no_gap(gaps_of) -> None:
    assert gaps_of(1, 100, np.random.default_rng(0)).tolist() == [0]
    assert gaps_of(1, 0, np.random.default_rng(0)).tolist() == [0]


def test_bounded_variant_has_no_hole_at_gap_zero() -> None:
    """Eq. 6 as printed adds 1 to every gap: three segments of 3 tokens would start at 0, 4, 8 even at gap 0."""
    positions = document_positions(LongRecipe(variant="bounded"), 9, np.array([0, 3, 6]), 9, np.random.default_rng(0))
    assert positions.tolist() == [0, 1, 2, 3, 4, 5, 6, 7, 8]


@pytest.mark.parametrize(("num_segments", "num_tokens"), [(2, 24), (12, 24), (24, 24)])
def test_the_top_of_the_window_is_reached(num_segments: int, num_tokens: int) -> None:
    """The mean last position is its expectation, target - 1 - unused / segments.

    In the released code positions of the unselected text are cut to the selected text's length, so the last one
    averages half to two thirds of the window.
    """
    target, runs = 80, 4000
    starts = np.linspace(0, num_tokens, num_segments, endpoint=False).astype(np.int64)
    rng = np.random.default_rng(3)
    last = [document_positions(LongRecipe(), num_tokens, starts, target, rng)[-1] for _ in range(runs)]
    unused = target - num_tokens
    expected = target - 1 - unused / num_segments
    assert abs(np.mean(last) - expected) < 5 * np.std(last) / np.sqrt(runs)


def test_the_whole_window_is_reached_at_the_papers_size() -> None:
    """24,000 tokens for 80,000 positions in sentences of 88 tokens: 55,900 and less in the released code."""
    rng = np.random.default_rng(0)
    starts = np.arange(0, 24_000, 88)
    last = [document_positions(LongRecipe(), 24_000, starts, 80_000, rng)[-1] for _ in range(50)]
    assert np.mean(last) > 79_500


def test_no_contiguous_head_before_the_first_gap() -> None:
    """The released code keeps about the first quarter of every sample contiguous; Algorithm 1 does not."""
    rng = np.random.default_rng(0)
    starts = np.arange(0, 2400, 8)
    positions = document_positions(LongRecipe(), 2400, starts, 8000, rng)
    assert np.flatnonzero(np.diff(positions) != 1)[0] < 80


def test_a_first_segment_of_one_token_still_starts_at_zero() -> None:
    """The released code drops index 0 as "false" and patches it back as the second segment's start minus 1."""
    for seed in range(20):
        positions = document_positions(LongRecipe(), 5, np.array([0, 1]), 500, np.random.default_rng(seed))
        assert positions[0] == 0
        assert np.array_equal(np.diff(positions[1:]), [1, 1, 1])


@given(st.integers(1, 60), st.integers(1, 80), st.integers(0, 2**32))
def test_random_cuts_fill_up_to_the_least_number_of_segments(num_tokens: int, least: int, seed: int) -> None:
    given_starts = np.arange(0, num_tokens, 9)
    starts = add_random_cuts(given_starts, num_tokens, least, np.random.default_rng(seed))
    assert len(starts) == max(len(given_starts), min(least, num_tokens))
    assert set(given_starts) <= set(starts)
    assert np.all(np.diff(starts) > 0)
    assert starts[0] >= 0
    assert starts[-1] < num_tokens


def test_a_single_sentence_is_cut_at_uniform_places() -> None:
    rng = np.random.default_rng(0)
    counts = Counter(int(add_random_cuts(np.array([0]), 11, 2, rng)[1]) for _ in range(10_000))
    assert set(counts) == set(range(1, 11))
    assert chi_square(counts, 10) < 30


def test_a_single_sentence_is_not_left_without_a_gap() -> None:
    rng = np.random.default_rng(0)
    jumped = sum(document_positions(LongRecipe(), 50, np.array([0]), 5000, rng)[-1] > 49 for _ in range(100))
    assert jumped == 100
    switched_off = document_positions(LongRecipe(min_segments=1), 50, np.array([0]), 5000, rng)
    assert switched_off[-1] == 49
