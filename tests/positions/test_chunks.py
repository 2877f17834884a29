"""PoSE, CREAM and E2-LLM follow their own papers, one document or many."""

from collections import Counter
from itertools import pairwise
from math import erf, sqrt

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from longspan.positions import CREAM, E2LLM, PoSE, PositionMethod, sample_positions
from longspan.positions.chunks import _truncated_normal
from tests.positions.single import one_document

NOTHING = np.zeros(0, np.int64)


def positions_of(method: PositionMethod, num_tokens: int, target_length: int, rng: np.random.Generator) -> np.ndarray:
    return one_document(method, num_tokens, NOTHING, target_length, rng)


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


def test_pose_mean_last_position_is_its_expectation() -> None:
    rng = np.random.default_rng(0)
    last = [positions_of(PoSE(), 24, 80, rng)[-1] for _ in range(4000)]
    assert abs(np.mean(last) - (23 + 56 / 2)) < 5 * np.std(last) / np.sqrt(4000)


def test_pose_skips_grow_from_chunk_to_chunk() -> None:
    """u_i ~ U{u_(i-1)..}: the last of many skips is near the top, unlike that of a single one."""
    rng = np.random.default_rng(0)
    last = [positions_of(PoSE(num_chunks=8), 24, 80, rng)[-1] for _ in range(1000)]
    assert np.mean(last) > 78


@given(st.integers(2, 5), st.lists(st.integers(2, 60), min_size=1, max_size=5), st.integers(0, 2**32))
@settings(deadline=None)
def test_pose_suffix_puts_the_last_chunk_at_the_end_of_the_window(chunks: int, lengths: list[int], seed: int) -> None:
    cu_seqlens = np.cumsum([0, *lengths])
    positions = sample_positions(PoSE(chunks, "suffix"), cu_seqlens, NOTHING, 200, np.random.default_rng(seed))
    assert (positions[cu_seqlens[1:] - 1] == 199).all()


def cream_parts(num_tokens: int, target: int, runs: int, method: CREAM) -> list[tuple[int, int, int]]:
    """(head, tail, last position of the middle) of each draw, where all three stand apart."""
    rng = np.random.default_rng(0)
    parts = []
    for _ in range(runs):
        positions = positions_of(method, num_tokens, target, rng)
        assert positions[0] == 0
        assert positions[-1] == target - 1
        jumps = np.flatnonzero(np.diff(positions) != 1) + 1
        if len(jumps) == 2:
            parts.append((int(jumps[0]), num_tokens - int(jumps[1]), int(positions[jumps[1] - 1])))
    return parts


def test_cream_heads_and_tails_are_a_third_or_four_times_the_factor() -> None:
    """900 tokens for 7,200: factor 8, so 300 or 32, in turn."""
    parts = cream_parts(900, 7200, 4000, CREAM())
    counts = Counter((head, tail) for head, tail, _ in parts)
    assert set(counts) == {(300, 300), (32, 32)}
    assert abs(counts[(300, 300)] / len(parts) - 0.5) < 0.04


def test_cream_middles_lie_where_the_truncated_gaussian_puts_them() -> None:
    """The mean of the last position, by summing over r and its uniform interval."""
    tokens, target, head = 900, 7200, 32
    ends = [end for own, _, end in cream_parts(tokens, target, 6000, CREAM()) if own == head]
    weight = [0.5 * (1 + erf((r + 1 - 9) / 3 / sqrt(2))) - 0.5 * (1 + erf((r - 9) / 3 / sqrt(2))) for r in range(2, 16)]
    middle = tokens - 2 * head
    means = [(head + r * (middle - 1) // 2 + r * tokens // 2 - head - 1) / 2 for r in range(2, 16)]
    expected = np.dot(weight, means) / sum(weight)
    assert abs(np.mean(ends) - expected) < 5 * np.std(ends) / np.sqrt(len(ends))


def test_cream_with_a_narrow_gaussian_keeps_to_the_middle() -> None:
    wide = np.std([end for *_, end in cream_parts(900, 7200, 1000, CREAM(5.0))])
    narrow = np.std([end for *_, end in cream_parts(900, 7200, 1000, CREAM(0.1))])
    assert narrow < 0.6 * wide


@pytest.mark.parametrize("bound", [0.0, 0.3, 2.0, 9.0])
def test_normal_numbers_are_truncated_and_symmetric(bound: float) -> None:
    draws = np.linspace(0, 1, 20_001)
    numbers = _truncated_normal(draws, np.full_like(draws, bound))
    assert np.abs(numbers).max() <= bound
    np.testing.assert_allclose(numbers, -numbers[::-1], atol=2e-3)
    share = np.mean(np.abs(numbers) < 1)
    assert share == pytest.approx(min(1.0, erf(1 / sqrt(2)) / erf(bound / sqrt(2))) if bound else 1.0, abs=1e-3)


@given(st.lists(st.integers(1, 100), min_size=1, max_size=5), st.integers(1, 6), st.integers(0, 2**32))
@settings(deadline=None)
def test_e2llm_is_one_scale_a_sample_and_one_offset_after_the_sinks(lengths: list[int], sinks: int, seed: int) -> None:
    """Positions times g are whole: 0, 1, 2 and 3, then a stretch that t moves, with g t below g L."""
    window, target = 100, 800
    cu_seqlens = np.cumsum([0, *lengths])
    rng = np.random.default_rng(seed)
    positions = sample_positions(E2LLM(window, sinks), cu_seqlens, NOTHING, target, rng)
    own = [positions[begin:end].astype(np.float64) for begin, end in pairwise(cu_seqlens)]
    # One step of 1 / g at least, unless the sinks end before it.
    steps = np.concatenate([np.delete(np.diff(part), np.s_[sinks - 1 : sinks]) for part in own])
    if len(steps) == 0:
        return
    scale = round(1 / float(steps[0]))
    assert 1 <= scale <= target // window
    np.testing.assert_allclose(steps * scale, 1, atol=0.01)
    for part in own:
        whole = np.rint(part * scale)
        np.testing.assert_allclose(part * scale, whole, atol=1e-3)
        assert whole[:sinks].tolist() == list(range(min(sinks, len(part))))
        assert whole[-1] < scale * window


def scale_and_offset(window: int, target: int, num_tokens: int, runs: int) -> list[tuple[int, int]]:
    rng = np.random.default_rng(0)
    drawn = []
    for _ in range(runs):
        positions = positions_of(E2LLM(window), num_tokens, target, rng).astype(np.float64)
        scale = round(1 / positions[1])
        drawn.append((scale, round(positions[4] * scale) - 4))
    return drawn


def test_e2llm_draws_every_scale_and_every_offset_alike() -> None:
    """G = {1..20}, and for each g offsets of {0..g L - R} (Eq. 7)."""
    drawn = scale_and_offset(window=8, target=160, num_tokens=8, runs=20_000)
    scales = Counter(scale for scale, _ in drawn)
    assert set(scales) == set(range(1, 21))
    assert sum((count - 1000) ** 2 / 1000 for count in scales.values()) < 45
    offsets = Counter(offset for scale, offset in drawn if scale == 5)
    assert set(offsets) == set(range(33))
    assert {offset for scale, offset in drawn if scale == 1} == {0}


def test_e2llm_leaves_out_the_scales_that_the_text_does_not_fit() -> None:
    """20 tokens in a window of 8: g from 3 on, where the paper would start outside the window."""
    scales = {scale for scale, _ in scale_and_offset(window=8, target=64, num_tokens=20, runs=300)}
    assert scales == {3, 4, 5, 6, 7, 8}


def test_e2llm_reaches_the_top_of_its_window_and_no_further() -> None:
    rng = np.random.default_rng(0)
    last = [positions_of(E2LLM(4096), 4096, 81_920, rng)[-1] for _ in range(300)]
    assert 4000 < max(last) < 4096
