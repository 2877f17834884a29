"""LongRecipe's transformation: uniform, at segment starts only, and up to the top of the window."""

from collections import Counter

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from longspan.positions import LongRecipe
from longspan.positions.documents import open_documents
from longspan.positions.longrecipe import add_random_cuts, bounded_shifts, composition_shifts
from tests.positions.single import one_document


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
    positions = one_document(method, num_tokens, starts, num_tokens + spare, np.random.default_rng(seed))
    jumps = np.flatnonzero(np.diff(positions) != 1) + 1
    assert set(jumps) <= set(starts[1:])


def shifts_of(variant: str, num_segments: list[int], unused: list[int], rng: np.random.Generator) -> np.ndarray:
    shifts = composition_shifts if variant == "composition" else bounded_shifts
    return shifts(np.array(num_segments), np.array(unused), rng)


@pytest.mark.parametrize("packed", [False, True])
def test_every_composition_is_equally_likely(packed: bool) -> None:
    """3 segments, 3 unused positions: 10 ways to share them between two gaps and the tail. 9 degrees of freedom."""
    rng = np.random.default_rng(0)
    segments, unused, part = ([4, 3, 2], [50, 3, 9], slice(4, 7)) if packed else ([3], [3], slice(0, 3))
    counts = Counter(tuple(shifts_of("composition", segments, unused, rng)[part].tolist()) for _ in range(10_000))
    assert all(first == 0 and second <= third <= 3 for first, second, third in counts)
    assert chi_square(counts, 10) < 30


@pytest.mark.parametrize(("segments", "unused", "ways"), [([5], [2], 15), ([3, 2], [200, 30], 31)])
def test_composition_is_uniform_for_dense_and_for_sparse_bars(
    segments: list[int], unused: list[int], ways: int
) -> None:
    """5 segments, 2 unused: C(6, 4) = 15 compositions; 2 segments, 30 unused: 31 gaps."""
    rng = np.random.default_rng(1)
    own = slice(-segments[-1], None)
    counts = Counter(tuple(shifts_of("composition", segments, unused, rng)[own].tolist()) for _ in range(1000 * ways))
    assert chi_square(counts, ways) < 2.5 * ways


@pytest.mark.parametrize("packed", [False, True])
def test_bounded_gaps_are_alike_and_mirrored_where_they_overrun(packed: bool) -> None:
    """3 segments, 3 unused positions: gaps from {0..3}; (3, 2) overruns and counts for (0, 1)."""
    expected: Counter = Counter()
    for first in range(4):
        for second in range(4):
            fits = first + second <= 3
            expected[(first, second) if fits else (3 - first, 3 - second)] += 1000
    rng = np.random.default_rng(0)
    segments, unused, part = ([4, 3, 2], [50, 3, 9], slice(4, 7)) if packed else ([3], [3], slice(0, 3))
    counts = Counter(tuple(np.diff(shifts_of("bounded", segments, unused, rng)[part]).tolist()) for _ in range(16_000))
    assert set(counts) == set(expected)
    assert sum((counts[gaps] - many) ** 2 / many for gaps, many in expected.items()) < 30


def test_bounded_gaps_stay_below_their_bound() -> None:
    rng = np.random.default_rng(0)
    drawn = np.concatenate([np.diff(shifts_of("bounded", [11], [100], rng)) for _ in range(500)])
    assert drawn.max() == 20
    assert drawn.min() == 0


def test_bounded_gaps_vanish_when_segments_outnumber_unused_positions() -> None:
    assert not shifts_of("bounded", [50], [20], np.random.default_rng(0)).any()


@pytest.mark.parametrize("variant", ["composition", "bounded"])
def test_one_segment_has_no_gap(variant: str) -> None:
    assert shifts_of(variant, [1], [100], np.random.default_rng(0)).tolist() == [0]
    assert shifts_of(variant, [1, 1, 1], [0, 5, 9], np.random.default_rng(0)).tolist() == [0, 0, 0]


def test_bounded_variant_has_no_hole_at_gap_zero() -> None:
    """Eq. 6 as printed adds 1 to every gap: three segments of 3 tokens would start at 0, 4, 8 even at gap 0."""
    positions = one_document(LongRecipe(variant="bounded"), 9, np.array([0, 3, 6]), 9, np.random.default_rng(0))
    assert positions.tolist() == [0, 1, 2, 3, 4, 5, 6, 7, 8]


@pytest.mark.parametrize(("num_segments", "num_tokens"), [(2, 24), (12, 24), (24, 24)])
def test_the_top_of_the_window_is_reached(num_segments: int, num_tokens: int) -> None:
    """The mean last position is its expectation, target - 1 - unused / segments.

    Random cuts are off: the first case has two segments.
    """
    target, runs = 80, 4000
    starts = np.linspace(0, num_tokens, num_segments, endpoint=False).astype(np.int64)
    rng = np.random.default_rng(3)
    last = [one_document(LongRecipe(min_segments=1), num_tokens, starts, target, rng)[-1] for _ in range(runs)]
    unused = target - num_tokens
    expected = target - 1 - unused / num_segments
    assert abs(np.mean(last) - expected) < 5 * np.std(last) / np.sqrt(runs)


@given(st.lists(st.integers(1, 60), min_size=1, max_size=6), st.integers(1, 80), st.integers(0, 2**32))
def test_random_cuts_fill_up_to_the_least_number_of_segments(lengths: list[int], least: int, seed: int) -> None:
    documents = open_documents(np.cumsum([0, *lengths]), 60)
    given_starts = np.union1d(np.arange(0, documents.num_tokens, 9), documents.begins)
    starts, split = add_random_cuts(given_starts, documents, least, np.random.default_rng(seed))
    own = np.diff(np.searchsorted(given_starts, documents.boundaries))
    assert np.array_equal(np.diff(split), np.maximum(own, np.minimum(least, lengths)))
    assert np.array_equal(starts.searchsorted(documents.boundaries), split)
    assert set(given_starts) <= set(starts)
    assert np.all(np.diff(starts) > 0)


def test_a_single_sentence_is_cut_at_uniform_places() -> None:
    rng = np.random.default_rng(0)
    documents = open_documents(np.array([0, 11]), 11)
    counts = Counter(int(add_random_cuts(np.array([0]), documents, 2, rng)[0][1]) for _ in range(10_000))
    assert set(counts) == set(range(1, 11))
    assert chi_square(counts, 10) < 30


def test_a_single_sentence_is_not_left_without_a_gap() -> None:
    rng = np.random.default_rng(0)
    starts = np.array([0])
    jumped = sum(one_document(LongRecipe(min_segments=2), 50, starts, 5000, rng)[-1] > 49 for _ in range(100))
    assert jumped == 100
    assert one_document(LongRecipe(min_segments=1), 50, starts, 5000, rng)[-1] == 49
