"""PoSE and RandPos follow their own papers, not LongRecipe's copy of them."""

from collections import Counter

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from longspan.positions import PoSE, RandPos, document_positions


def positions_of(method: PoSE | RandPos, num_tokens: int, target_length: int, rng: np.random.Generator) -> np.ndarray:
    return document_positions(method, num_tokens, np.array([0]), target_length, rng)


@given(st.integers(1, 5), st.integers(1, 100), st.integers(0, 1000), st.integers(0, 2**32))
def test_pose_has_at_most_one_jump_fewer_than_chunks(chunks: int, num_tokens: int, spare: int, seed: int) -> None:
    positions = positions_of(PoSE(num_chunks=chunks), num_tokens, num_tokens + spare, np.random.default_rng(seed))
    assert np.count_nonzero(np.diff(positions) != 1) <= chunks - 1


def test_pose_skip_and_first_chunk_are_uniform() -> None:
    """5 tokens for 9 positions: 4 first lengths times 5 skips; a skip of 0 hides the first length (1 outcome)."""
    rng = np.random.default_rng(0)
    counts = Counter(tuple(positions_of(PoSE(), 5, 9, rng).tolist()) for _ in range(20_000))
    contiguous = counts.pop((0, 1, 2, 3, 4))
    assert len(counts) == 16
    assert sum((count - 1000) ** 2 / 1000 for count in counts.values()) < 45
    assert abs(contiguous - 4000) < 300


def test_pose_samples_are_not_mostly_contiguous() -> None:
    """In LongRecipe's repository 57 % of the samples keep positions 0..n-1 at this size; the definition gives 1.8 %."""
    rng = np.random.default_rng(0)
    contiguous = sum(positions_of(PoSE(), 24, 80, rng)[-1] == 23 for _ in range(2000))
    assert contiguous < 80


def test_pose_mean_last_position_is_its_expectation() -> None:
    rng = np.random.default_rng(0)
    last = [positions_of(PoSE(), 24, 80, rng)[-1] for _ in range(4000)]
    assert abs(np.mean(last) - (23 + 56 / 2)) < 5 * np.std(last) / np.sqrt(4000)


def test_pose_skips_grow_from_chunk_to_chunk() -> None:
    """u_i ~ U{u_(i-1)..}: the last of many skips is near the top, unlike that of a single one."""
    rng = np.random.default_rng(0)
    last = [positions_of(PoSE(num_chunks=8), 24, 80, rng)[-1] for _ in range(1000)]
    assert np.mean(last) > 78


def test_randpos_differences_are_those_of_a_sorted_sample() -> None:
    """2 tokens of 4 positions: distances 1, 2, 3 in the ratio 3 : 2 : 1."""
    rng = np.random.default_rng(0)
    counts = Counter(int(positions_of(RandPos(), 2, 4, rng)[1]) for _ in range(12_000))
    assert {distance: round(counts[distance] / 2000, 1) for distance in counts} == {1: 3.0, 2: 2.0, 3: 1.0}
