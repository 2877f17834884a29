"""Coverage is exact, and reproduces the distances that the LongRecipe paper reports."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from longspan.errors import ConfigError, DataError
from longspan.positions import (
    Contiguous,
    LongRecipe,
    PoSE,
    PositionMethod,
    RandPos,
    distance_histogram,
    document_positions,
    measure_coverage,
)
from longspan.positions.coverage import Coverage

# LongRecipe (arXiv 2409.00509), Fig. 3: mean token distance by target length, 30 % of the tokens.
FIGURE_3_LONGRECIPE = {20_000: 6557, 32_000: 10514, 64_000: 21125, 80_000: 26327, 128_000: 42147}
FIGURE_3_RPES = {20_000: 6666, 32_000: 10663, 64_000: 21335, 80_000: 26667, 128_000: 42275}


def coverage_of(method: PositionMethod, num_tokens: int, target: int, runs: int, segment: int = 88) -> Coverage:
    rng = np.random.default_rng(0)
    starts = np.arange(0, num_tokens, segment)
    whole = np.array([0, num_tokens])
    return measure_coverage(
        ((document_positions(method, num_tokens, starts, target, rng), whole) for _ in range(runs)), target
    )


@pytest.mark.parametrize("target", FIGURE_3_LONGRECIPE)
def test_longrecipe_mean_token_distance_is_the_papers(target: int) -> None:
    coverage = coverage_of(LongRecipe(), int(target * 0.3), target, runs=1_600_000 // target)
    assert coverage.mean_token_distance == pytest.approx(FIGURE_3_LONGRECIPE[target], rel=0.03)
    assert coverage.mean_segment_length == pytest.approx(88, rel=0.03)


@pytest.mark.parametrize("target", FIGURE_3_RPES)
def test_randpos_mean_token_distance_is_the_papers(target: int) -> None:
    coverage = coverage_of(RandPos(), int(target * 0.3), target, runs=5)
    assert coverage.mean_token_distance == pytest.approx(FIGURE_3_RPES[target], rel=0.03)
    assert coverage.mean_segment_length == pytest.approx(1 / 0.7, rel=0.03)


def test_pose_mean_token_distance_is_its_expectation() -> None:
    """A third of the sample inside the chunks, half the unused window across them for a third of the pairs."""
    coverage = coverage_of(PoSE(), 600, 2000, runs=2000)
    assert coverage.mean_token_distance == pytest.approx(600 / 3 + 1400 / 6, rel=0.03)


def test_contiguous_sees_only_distances_within_the_sample() -> None:
    coverage = coverage_of(Contiguous(), 250, 1001, runs=1)
    assert coverage.largest_position == 249
    assert coverage.mean_last_position == 249
    assert coverage.share_of_distances_seen == pytest.approx(0.249)
    assert coverage.mean_segment_length == 250
    assert coverage.distance_counts[:4].tolist() == [0, 249, 248, 247]
    assert coverage.num_documents == 1


def test_a_document_boundary_ends_a_run() -> None:
    positions = np.array([0, 1, 2, 0, 1, 2, 3, 4, 5], dtype=np.float32)
    coverage = measure_coverage([(positions, np.array([0, 3, 9]))], 10)
    assert coverage.mean_segment_length == 4.5
    assert coverage.mean_last_position == 3.5


def test_longrecipe_sees_nearly_every_distance_of_the_window() -> None:
    coverage = coverage_of(LongRecipe(), 2400, 8000, runs=40)
    assert coverage.share_of_distances_seen > 0.99
    assert coverage.largest_position > 7900


@given(st.lists(st.sets(st.integers(0, 59), min_size=1, max_size=60), min_size=1, max_size=4), st.integers(60, 70))
def test_counts_agree_with_all_pairs(documents: list[set[int]], target: int) -> None:
    occupied = [sorted(document) for document in documents]
    positions = np.array([p for document in occupied for p in document], dtype=np.float32)
    cu_seqlens = np.cumsum([0, *map(len, occupied)])
    expected = np.zeros(target, dtype=np.int64)
    for document in occupied:
        for i, early in enumerate(document):
            for late in document[i + 1 :]:
                expected[late - early] += 1
    coverage = measure_coverage([(positions, cu_seqlens)], target)
    assert coverage.distance_counts.tolist() == expected.tolist()
    assert coverage.num_documents == len(documents)
    assert coverage.largest_position == max(map(max, documents))


def test_short_and_long_documents_are_counted_alike() -> None:
    """One document above the limit for counting by pairs, one below it, packed: the sum of each alone."""
    rng = np.random.default_rng(0)
    long = np.sort(rng.choice(3000, 900, replace=False)).astype(np.float32)
    short = np.sort(rng.choice(3000, 20, replace=False)).astype(np.float32)
    packed = measure_coverage([(np.concatenate([long, short]), np.array([0, 900, 920]))], 3000)
    expected = np.zeros(3000, dtype=np.int64)
    for document in (long, short):
        differences = (document[None, :] - document[:, None]).astype(np.int64)
        expected += np.bincount(differences[differences > 0], minlength=3000)
    assert packed.distance_counts.tolist() == expected.tolist()
    pairs = expected.sum()
    assert packed.mean_token_distance == pytest.approx((np.arange(3000) * expected).sum() / pairs)


def test_histogram_shares_add_up_to_one() -> None:
    edges, shares = distance_histogram(coverage_of(Contiguous(), 100, 400, runs=1), num_bins=4)
    assert edges.tolist() == [0, 100, 200, 300, 400]
    assert shares.tolist() == [1, 0, 0, 0]


def test_no_samples_give_empty_coverage() -> None:
    coverage = measure_coverage([], 10)
    assert coverage.num_documents == 0
    assert coverage.largest_position == -1
    assert coverage.share_of_distances_seen == 0
    assert distance_histogram(coverage, 2)[1].tolist() == [0, 0]


@pytest.mark.parametrize(
    ("positions", "message"),
    [
        ([0, 1, 10], r"increase strictly within \[0, 10\)"),
        ([-1, 1], "increase strictly"),
        ([0, 2, 2], "increase strictly"),
        ([0, 0.5], "fractional"),
        ([], "without tokens"),
    ],
)
def test_rejects_positions_that_no_method_gives(positions: list[float], message: str) -> None:
    array = np.array(positions, dtype=np.float32)
    with pytest.raises(DataError, match=message):
        measure_coverage([(array, np.array([0, len(array)]))], 10)


def test_rejects_a_target_outside_the_range() -> None:
    with pytest.raises(ConfigError, match=r"data\.target_length is 0"):
        measure_coverage([], 0)
