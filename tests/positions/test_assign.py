"""What every method promises: shape, order, range, determinism, and clear refusals."""

import hashlib
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from longspan.errors import ConfigError, DataError
from longspan.positions import (
    MAX_TARGET_LENGTH,
    Contiguous,
    LongRecipe,
    PoSE,
    PositionMethod,
    RandPos,
    assign_positions,
    document_positions,
    sample_positions,
)

METHODS: list[PositionMethod] = [
    Contiguous(),
    LongRecipe(),
    LongRecipe(variant="composition", min_segments=5),
    LongRecipe(variant="bounded", min_segments=1),
    PoSE(),
    PoSE(num_chunks=4),
    RandPos(),
]
methods = st.sampled_from(METHODS)
seeds = st.integers(0, 2**32)


@st.composite
def documents(draw: st.DrawFn) -> tuple[int, np.ndarray, int]:
    """(num_tokens, segment_starts, target_length) with the target from just enough to far more."""
    num_tokens = draw(st.integers(1, 200))
    inner = draw(st.sets(st.integers(1, num_tokens - 1), max_size=40)) if num_tokens > 1 else set()
    target_length = num_tokens + draw(st.one_of(st.integers(0, 5), st.integers(0, 5000)))
    return num_tokens, np.array([0, *sorted(inner)]), target_length


@given(methods, documents(), seeds)
def test_positions_increase_from_zero_within_the_target(method: PositionMethod, document, seed: int) -> None:
    num_tokens, starts, target_length = document
    positions = document_positions(method, num_tokens, starts, target_length, np.random.default_rng(seed))
    assert positions.dtype == np.float32
    assert positions.shape == (num_tokens,)
    assert positions[0] == 0
    assert positions[-1] < target_length
    assert np.all(np.diff(positions) >= 1)
    assert np.array_equal(positions, np.rint(positions))


@given(methods, documents(), seeds)
def test_same_seed_same_positions(method: PositionMethod, document, seed: int) -> None:
    first = document_positions(method, *document, np.random.default_rng(seed))
    second = document_positions(method, *document, np.random.default_rng(seed))
    assert np.array_equal(first, second)


@pytest.mark.parametrize("method", METHODS[1:], ids=repr)
def test_other_seeds_other_positions(method: PositionMethod) -> None:
    starts = np.arange(0, 100, 10)
    drawn = {document_positions(method, 100, starts, 1000, np.random.default_rng(seed)).tobytes() for seed in range(20)}
    assert len(drawn) == 20


@given(methods, st.integers(1, 50), seeds)
def test_a_full_window_leaves_no_gaps(method: PositionMethod, num_tokens: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    positions = document_positions(method, num_tokens, np.array([0]), num_tokens, rng)
    assert np.array_equal(positions, np.arange(num_tokens))


@given(methods, st.lists(st.integers(1, 60), min_size=1, max_size=6), st.integers(0, 500), seeds)
def test_every_document_of_a_sample_has_its_own_positions(
    method: PositionMethod, lengths: list[int], spare: int, seed: int
) -> None:
    cu_seqlens = np.cumsum([0, *lengths])
    target_length = max(lengths) + spare
    starts = np.arange(0, cu_seqlens[-1], 7)
    packed = sample_positions(method, cu_seqlens, starts, target_length, np.random.default_rng(seed))
    assert packed.dtype == np.float32
    rng = np.random.default_rng(seed)
    for begin, end in pairwise(cu_seqlens):
        own = starts[(starts > begin) & (starts < end)] - begin
        alone = document_positions(method, end - begin, np.array([0, *own]), target_length, rng)
        assert np.array_equal(packed[begin:end], alone)


@given(methods, st.lists(st.integers(1, 30), min_size=1, max_size=20), st.integers(0, 500), seeds)
def test_segment_lengths_are_another_way_to_say_segment_starts(
    method: PositionMethod, lengths: list[int], spare: int, seed: int
) -> None:
    total = sum(lengths)
    starts = np.cumsum([0, *lengths[:-1]])
    by_lengths = assign_positions(method, np.array(lengths), total + spare, np.random.default_rng(seed))
    by_starts = document_positions(method, total, starts, total + spare, np.random.default_rng(seed))
    assert np.array_equal(by_lengths, by_starts)


def test_unsigned_boundaries_are_read_like_signed_ones() -> None:
    arguments = (np.array([0, 30, 50]), np.array([0, 10, 35]))
    signed = sample_positions(LongRecipe(), *arguments, 900, np.random.default_rng(1))
    unsigned = sample_positions(LongRecipe(), *(a.astype(np.uint32) for a in arguments), 900, np.random.default_rng(1))
    assert np.array_equal(signed, unsigned)
    with pytest.raises(DataError, match="cu_seqlens must be strictly increasing"):
        sample_positions(
            LongRecipe(), np.array([0, 30, 20], dtype=np.uint32), np.array([0]), 900, np.random.default_rng(1)
        )


def test_positions_stay_exact_at_the_largest_target() -> None:
    positions = document_positions(
        LongRecipe(), 4000, np.arange(0, 4000, 4), MAX_TARGET_LENGTH, np.random.default_rng(0)
    )
    assert np.all(np.diff(positions.astype(np.float64)) >= 1)
    assert positions[-1] > 0.95 * MAX_TARGET_LENGTH


def test_the_random_stream_is_pinned() -> None:
    """A run that is resumed elsewhere must see the same positions: any change here changes every sample."""
    digest = hashlib.sha256()
    for method in METHODS:
        cu_seqlens, starts = np.array([0, 300, 777, 1000]), np.arange(0, 1000, 13)
        digest.update(sample_positions(method, cu_seqlens, starts, 8192, np.random.default_rng(2027)).tobytes())
    assert digest.hexdigest()[:16] == "7de775773cd877ff"


@pytest.mark.parametrize("method", METHODS, ids=repr)
def test_positions_are_the_callers_own(method: PositionMethod) -> None:
    cu_seqlens, starts = np.array([0, 50]), np.array([0, 7])
    first = sample_positions(method, cu_seqlens, starts, 900, np.random.default_rng(0))
    expected = first.copy()
    first += 1
    assert np.array_equal(sample_positions(method, cu_seqlens, starts, 900, np.random.default_rng(0)), expected)


@pytest.mark.parametrize("num_tokens", [20, 500])
def test_randpos_is_the_sorted_draw_in_narrow_and_in_wide_windows(num_tokens: int) -> None:
    drawn = np.sort(np.random.default_rng(3).choice(4096, num_tokens, replace=False, shuffle=False))
    positions = document_positions(RandPos(), num_tokens, np.array([0]), 4096, np.random.default_rng(3))
    assert np.array_equal(positions, drawn - drawn[0])


@pytest.mark.parametrize("target_length", [0, -1, MAX_TARGET_LENGTH + 1])
def test_rejects_a_target_that_float32_cannot_count(target_length: int) -> None:
    rng = np.random.default_rng(0)
    with pytest.raises(ConfigError, match=r"data\.target_length"):
        document_positions(Contiguous(), 1, np.array([0]), target_length, rng)
    with pytest.raises(ConfigError, match=r"data\.target_length"):
        sample_positions(Contiguous(), np.array([0, 1]), np.array([0]), target_length, rng)


@pytest.mark.parametrize("method", METHODS, ids=repr)
def test_rejects_a_document_longer_than_the_target(method: PositionMethod) -> None:
    with pytest.raises(DataError, match=r"101 tokens does not fit data\.target_length 100"):
        document_positions(method, 101, np.array([0]), 100, np.random.default_rng(0))
    with pytest.raises(DataError, match=r"document 1 of the sample \(tokens 50 to 151\) has 101 tokens"):
        sample_positions(method, np.array([0, 50, 151]), np.array([0]), 100, np.random.default_rng(0))


@pytest.mark.parametrize(
    ("starts", "message"),
    [
        ([], "must begin with 0"),
        ([1, 5], "must begin with 0"),
        ([0, 5, 5], "strictly increasing"),
        ([0, 7, 5], "strictly increasing"),
        ([0, 10], "strictly increasing within"),
        ([-1, 3], "strictly increasing within"),
    ],
)
def test_rejects_segment_starts_that_do_not_describe_the_document(starts: list[int], message: str) -> None:
    with pytest.raises(DataError, match=message):
        document_positions(LongRecipe(), 10, np.array(starts, dtype=np.int64), 20, np.random.default_rng(0))


@pytest.mark.parametrize("cu_seqlens", [[], [1, 5], [0, 5, 5], [0, 5, 3]])
def test_rejects_boundaries_that_do_not_increase_from_zero(cu_seqlens: list[int]) -> None:
    with pytest.raises(DataError, match="cu_seqlens must be strictly increasing from 0"):
        sample_positions(
            Contiguous(), np.array(cu_seqlens, dtype=np.int64), np.array([0]), 20, np.random.default_rng(0)
        )


def test_long_boundaries_are_shortened_in_the_message() -> None:
    with pytest.raises(DataError, match=r"\[0, 0, 0, 0, 0, 0, 0, 0, \.\.\.\] \(100 values\)"):
        sample_positions(Contiguous(), np.zeros(100, dtype=np.int64), np.array([0]), 20, np.random.default_rng(0))


def test_no_tokens_no_positions() -> None:
    rng = np.random.default_rng(0)
    nothing = np.zeros(0, dtype=np.int64)
    assert document_positions(LongRecipe(), 0, nothing, 20, rng).shape == (0,)
    assert sample_positions(LongRecipe(), np.array([0]), nothing, 20, rng).shape == (0,)


def test_rejects_bad_method_settings() -> None:
    with pytest.raises(ConfigError, match=r"positions\.variant is 'uniform'"):
        LongRecipe(variant="uniform")  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match=r"positions\.min_segments is 0"):
        LongRecipe(min_segments=0)
    with pytest.raises(ConfigError, match=r"positions\.num_chunks is 0"):
        PoSE(num_chunks=0)
