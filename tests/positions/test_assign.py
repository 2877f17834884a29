"""What every method promises: shape, order, range, determinism, and clear refusals; for one document and for many."""

import hashlib

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from longspan.errors import ConfigError, DataError
from longspan.positions import (
    CREAM,
    E2LLM,
    MAX_TARGET_LENGTH,
    Contiguous,
    LongRecipe,
    PoSE,
    PositionMethod,
    RandPos,
    coverage_unit,
    sample_positions,
)

METHODS: list[PositionMethod] = [
    Contiguous(),
    LongRecipe(min_segments=1),
    LongRecipe(),
    LongRecipe(variant="bounded", min_segments=1),
    LongRecipe(variant="bounded", min_segments=5),
    PoSE(),
    PoSE(num_chunks=4),
    PoSE(num_chunks=3, last_chunk="suffix"),
    PoSE(num_chunks=1),
    RandPos(),
    CREAM(),
    CREAM(sigma=0.5),
    E2LLM(window=1),
    E2LLM(window=1, num_sinks=1),
]
"""E2-LLM's window is set to a share of the target by `fitted`."""
methods = st.sampled_from(METHODS)
seeds = st.integers(0, 2**32)
NOTHING = np.zeros(0, np.int64)


def fitted(method: PositionMethod, target_length: int, share: int = 3) -> PositionMethod:
    return E2LLM(-(-target_length // share), method.num_sinks) if isinstance(method, E2LLM) else method


@st.composite
def samples(draw: st.DrawFn, max_documents: int = 8) -> tuple[np.ndarray, np.ndarray, int]:
    """(cu_seqlens, segment_starts, target_length): few or many documents, the target just enough or far more."""
    sizes = st.one_of(st.integers(1, 12), st.integers(1, 200))
    cu_seqlens = np.cumsum([0, *draw(st.lists(sizes, min_size=1, max_size=max_documents))])
    starts = sorted(draw(st.sets(st.integers(0, int(cu_seqlens[-1]) - 1), max_size=40)))
    spare = draw(st.one_of(st.integers(0, 5), st.integers(0, 5000)))
    return cu_seqlens, np.array(starts, np.int64), int(np.diff(cu_seqlens).max()) + spare


def check_promises(method: PositionMethod, positions: np.ndarray, cu_seqlens: np.ndarray, target_length: int) -> None:
    assert positions.dtype == np.float32
    assert positions.shape == (cu_seqlens[-1],)
    assert positions.flags.writeable
    assert not positions[cu_seqlens[:-1]].any()
    limit = method.window if isinstance(method, E2LLM) else target_length
    assert positions.max() < limit
    steps = np.delete(np.diff(positions), cu_seqlens[1:-1] - 1)
    assert (steps > 0).all()
    if not isinstance(method, E2LLM):
        assert (steps >= 1).all()
        assert np.array_equal(positions, np.rint(positions))


@given(methods, samples(), seeds)
@settings(deadline=None, max_examples=200)
def test_packed_documents_increase_from_zero_within_the_target(method: PositionMethod, sample, seed: int) -> None:
    cu_seqlens, starts, target = sample
    method = fitted(method, target)
    positions = sample_positions(method, cu_seqlens, starts, target, np.random.default_rng(seed))
    check_promises(method, positions, cu_seqlens, target)


@given(methods, samples(max_documents=1), seeds)
@settings(deadline=None, max_examples=100)
def test_one_document_increases_from_zero_within_the_target(method: PositionMethod, sample, seed: int) -> None:
    cu_seqlens, starts, target = sample
    method = fitted(method, target)
    positions = sample_positions(method, cu_seqlens, starts, target, np.random.default_rng(seed))
    check_promises(method, positions, cu_seqlens, target)


@pytest.mark.parametrize("method", METHODS, ids=repr)
def test_promises_hold_for_ten_thousand_packed_documents(method: PositionMethod) -> None:
    """50 samples of 200 documents of 1 to 60 tokens."""
    method = fitted(method, 150)
    rng = np.random.default_rng(0)
    for _ in range(50):
        cu_seqlens = np.cumsum([0, *rng.integers(1, 61, 200).tolist()])
        starts = np.flatnonzero(rng.random(cu_seqlens[-1]) < 0.1)
        check_promises(method, sample_positions(method, cu_seqlens, starts, 150, rng), cu_seqlens, 150)


@pytest.mark.parametrize("method", METHODS, ids=repr)
def test_promises_hold_in_a_thousand_draws_of_one_document(method: PositionMethod) -> None:
    method = fitted(method, 150)
    rng, whole, starts = np.random.default_rng(0), np.array([0, 60]), np.arange(0, 60, 11)
    drawn = np.stack([sample_positions(method, whole, starts, 150, rng) for _ in range(1000)])
    assert not drawn[:, 0].any()
    assert (np.diff(drawn, axis=1) >= (1e-3 if isinstance(method, E2LLM) else 1)).all()
    assert drawn.max() < (method.window if isinstance(method, E2LLM) else 150)


@given(methods, samples(), seeds)
@settings(deadline=None)
def test_same_seed_same_positions(method: PositionMethod, sample, seed: int) -> None:
    cu_seqlens, starts, target = sample
    first, second = (
        sample_positions(fitted(method, target), cu_seqlens, starts, target, np.random.default_rng(seed))
        for _ in range(2)
    )
    assert np.array_equal(first, second)


@pytest.mark.parametrize("cu_seqlens", [[0, 100], [0, 41, 100]], ids=["one document", "packed"])
@pytest.mark.parametrize("method", [m for m in METHODS if m not in (Contiguous(), PoSE(1))], ids=repr)
def test_other_seeds_other_positions(method: PositionMethod, cu_seqlens: list[int]) -> None:
    method = fitted(method, 1000, share=10)
    starts = np.arange(0, 100, 10)
    drawn = {
        sample_positions(method, np.array(cu_seqlens), starts, 1000, np.random.default_rng(seed)).tobytes()
        for seed in range(20)
    }
    assert len(drawn) == 20


@given(methods, st.integers(1, 50), seeds)
@settings(deadline=None)
def test_a_full_window_leaves_no_gaps(method: PositionMethod, num_tokens: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    method = fitted(method, num_tokens, share=1)
    positions = sample_positions(method, np.array([0, num_tokens]), NOTHING, num_tokens, rng)
    assert np.array_equal(positions, np.arange(num_tokens))


@pytest.mark.parametrize("method", METHODS, ids=repr)
def test_a_document_is_drawn_alike_alone_and_packed(method: PositionMethod) -> None:
    """The mean position of every token, over many draws: packing shares the draws out, it does not bend them."""
    method = fitted(method, 400, share=10)
    starts, rng = np.arange(0, 40, 8), np.random.default_rng(0)
    packed_starts = np.concatenate([starts + 25, np.array([65, 70])])
    runs = 1000
    alone = np.stack([sample_positions(method, np.array([0, 40]), starts, 400, rng) for _ in range(runs)])
    cu_seqlens = np.array([0, 25, 65, 80])
    packed = np.stack([sample_positions(method, cu_seqlens, packed_starts, 400, rng)[25:65] for _ in range(runs)])
    error = np.sqrt((alone.var(axis=0) + packed.var(axis=0)) / runs)
    assert (np.abs(alone.mean(axis=0) - packed.mean(axis=0)) <= 5 * error + 1e-6).all()


def test_segments_of_one_document_do_not_reach_into_the_next() -> None:
    """Gaps at the listed starts and nowhere else, in each document, with no random cuts."""
    cu_seqlens, starts = np.array([0, 20, 45, 60]), np.array([5, 12, 20, 30, 52])
    rng = np.random.default_rng(0)
    for variant in ("composition", "bounded"):
        steps = np.stack(
            [np.diff(sample_positions(LongRecipe(variant, 1), cu_seqlens, starts, 900, rng)) for _ in range(50)]
        )
        assert set(np.flatnonzero((steps != 1).any(axis=0)) + 1) == {5, 12, 20, 30, 45, 52}


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
    arguments = (np.array([0, 4000]), np.arange(0, 4000, 4), MAX_TARGET_LENGTH, np.random.default_rng(0))
    positions = sample_positions(LongRecipe(), *arguments)
    assert np.all(np.diff(positions.astype(np.float64)) >= 1)
    assert positions[-1] > 0.95 * MAX_TARGET_LENGTH


@pytest.mark.parametrize("window", [1, 3, 5_000_000, 2**22 + 1, 2**23])
def test_scaled_positions_are_told_apart_at_their_largest_target(window: int) -> None:
    """2**23 positions in windows of any size: neighbours never round to one float32."""
    whole = np.array([0, 2**23])
    positions = sample_positions(E2LLM(window), whole, NOTHING, 2**23, np.random.default_rng(0))
    assert (np.diff(positions) > 0).all()
    assert positions[-1] < window


def test_the_random_stream_is_pinned() -> None:
    """A run that is resumed elsewhere must see the same positions: any change here changes every sample."""
    digest = hashlib.sha256()
    for method in METHODS:
        for cu_seqlens in ([0, 300, 777, 1000], [0, 1000]):
            rng = np.random.default_rng(2027)
            starts = np.arange(0, 1000, 13)
            positions = sample_positions(fitted(method, 8192), np.array(cu_seqlens), starts, 8192, rng)
            digest.update(positions.tobytes())
    assert digest.hexdigest()[:16] == "be7b4681b147cb57"


@pytest.mark.parametrize("method", METHODS, ids=repr)
def test_positions_are_the_callers_own(method: PositionMethod) -> None:
    arguments = (fitted(method, 900), np.array([0, 50]), np.array([0, 7]), 900)
    first = sample_positions(*arguments, np.random.default_rng(0))
    expected = first.copy()
    first += 1
    assert np.array_equal(sample_positions(*arguments, np.random.default_rng(0)), expected)


def test_only_scaled_positions_need_a_unit() -> None:
    assert coverage_unit(E2LLM(window=4096), 81_920) == 20
    assert {coverage_unit(method, 81_920) for method in METHODS if not isinstance(method, E2LLM)} == {1}


@pytest.mark.parametrize("target_length", [0, -1, MAX_TARGET_LENGTH + 1])
def test_rejects_a_target_that_float32_cannot_count(target_length: int) -> None:
    with pytest.raises(ConfigError, match=r"data\.target_length"):
        sample_positions(Contiguous(), np.array([0, 1]), NOTHING, target_length, np.random.default_rng(0))


@pytest.mark.parametrize("method", METHODS, ids=repr)
def test_rejects_a_document_longer_than_the_target(method: PositionMethod) -> None:
    with pytest.raises(DataError, match=r"document 1 of the sample \(tokens 50 to 151\) has 101 tokens"):
        sample_positions(method, np.array([0, 50, 151]), NOTHING, 100, np.random.default_rng(0))


def test_rejects_a_sample_longer_than_float32_can_count() -> None:
    cu_seqlens = np.array([0, 2**24, 2**24 + 1])
    with pytest.raises(DataError, match="a sample of 16777217 tokens"):
        sample_positions(Contiguous(), cu_seqlens, NOTHING, 2**24, np.random.default_rng(0))


@pytest.mark.parametrize("starts", [[0, 5, 5], [0, 7, 5], [0, 10], [-1, 3]])
def test_rejects_segment_starts_that_do_not_describe_the_sample(starts: list[int]) -> None:
    with pytest.raises(DataError, match=r"segment_starts must be strictly increasing within \[0, 10\)"):
        sample_positions(LongRecipe(), np.array([0, 10]), np.array(starts), 20, np.random.default_rng(0))


@pytest.mark.parametrize("cu_seqlens", [[], [1, 5], [0, 5, 5], [0, 5, 3]])
def test_rejects_boundaries_that_do_not_increase_from_zero(cu_seqlens: list[int]) -> None:
    with pytest.raises(DataError, match="cu_seqlens must be strictly increasing from 0"):
        sample_positions(Contiguous(), np.array(cu_seqlens, np.int64), NOTHING, 20, np.random.default_rng(0))


def test_long_boundaries_are_shortened_in_the_message() -> None:
    with pytest.raises(DataError, match=r"\[0, 0, 0, 0, 0, 0, 0, 0, \.\.\.\] \(100 values\)"):
        sample_positions(Contiguous(), np.zeros(100, np.int64), NOTHING, 20, np.random.default_rng(0))


def test_no_tokens_no_positions() -> None:
    assert sample_positions(LongRecipe(), np.array([0]), NOTHING, 20, np.random.default_rng(0)).shape == (0,)


@pytest.mark.parametrize(
    ("method", "target_length", "message"),
    [
        (E2LLM(200), 100, r"positions\.window is 200, above data\.target_length 100"),
        (E2LLM(200), 2**23 + 1, "told apart in float32 up to 8388608"),
    ],
)
def test_rejects_scales_that_do_not_fit(method: E2LLM, target_length: int, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        sample_positions(method, np.array([0, 10]), NOTHING, target_length, np.random.default_rng(0))


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: LongRecipe(variant="uniform"), r"positions\.variant is 'uniform'; known are composition and bounded"),
        (lambda: LongRecipe(segments="word"), r"positions\.segments is 'word'; known are sentence and paragraph"),
        (lambda: LongRecipe(min_segments=0), r"positions\.min_segments is 0; it must be 1 or more"),
        (lambda: PoSE(num_chunks=0), r"positions\.num_chunks is 0"),
        (lambda: PoSE(last_chunk="top"), r"positions\.last_chunk is 'top'; known are random and suffix"),
        (lambda: CREAM(sigma=0.0), r"positions\.sigma is 0\.0"),
        (lambda: CREAM(sigma=float("nan")), r"positions\.sigma is nan"),
        (lambda: E2LLM(window=0), r"positions\.window is 0"),
        (lambda: E2LLM(window=8, num_sinks=0), r"positions\.num_sinks is 0"),
    ],
)
def test_rejects_bad_method_settings(make, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        make()
