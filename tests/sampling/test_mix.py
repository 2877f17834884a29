"""The mix: shares over the run, blocks of it, and what limits on repetition leave."""

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from longspan.errors import ConfigError
from longspan.sampling.mix import BLOCK_SAMPLES, Mixture, asked_mixture, blocks, limited_mixture, shares_at
from longspan.sampling.plan import MixPoint
from tests.sampling.corpora import NAMES, settings_of

TOKENS = np.array([10_000, 1000, 100_000])
FULL = np.full(3, 32.0)


def asked_of(**changes: Any) -> Mixture:
    return asked_mixture(settings_of(**changes), NAMES, TOKENS)


def expected_samples(mixture: Mixture, fill: np.ndarray) -> np.ndarray:
    """Samples of each source, block by block: as many tokens as its share, divided by the tokens of its samples."""
    total = np.zeros(fill.size)
    for size, shares in blocks(mixture):
        total += size * (shares / fill) / (shares / fill).sum()
    return total


def test_phases_keep_their_shares_and_a_ramp_moves_linearly() -> None:
    mix = (MixPoint(0, {"books": 1}, ramp=True), MixPoint(1000, {"web": 5}), MixPoint(1500, {"books": 3, "code": 1}))
    mixture = asked_of(mix=mix, steps=2000, global_batch_size=40)
    at = np.array([0, 19_999, 20_000, 39_999, 40_000, 59_999, 60_000, 79_999])
    web = shares_at(mixture, at)[:, 2]
    assert web == pytest.approx([0.5 / 40_000, 0.5, 0.5, 1, 1, 1, 0, 0], abs=1e-4)
    assert shares_at(mixture, at)[-1].tolist() == [0.75, 0.25, 0]
    sizes, shares = zip(*blocks(mixture), strict=True)
    assert sum(sizes) == 80_000
    assert max(sizes) == BLOCK_SAMPLES
    assert max(sizes[:64]) == 40_000 // 64
    assert np.abs(np.diff([row[2] for row in shares[:64]]) - 1 / 64).max() < 1e-9
    begins = np.cumsum(sizes) - sizes
    middle = shares_at(mixture, np.array(begins + np.array(sizes) // 2))
    assert np.abs(middle - np.array(shares)).max() < 1e-4


def test_a_ramp_of_few_samples_is_not_flat() -> None:
    mix = (MixPoint(0, {"books": 1}, ramp=True), MixPoint(40, {"web": 1}))
    found = list(blocks(asked_of(mix=mix, steps=50, global_batch_size=10)))
    assert [size for size, _ in found] == [16] * 25 + [100]
    assert [round(float(row[2]), 2) for _, row in found[:3]] == [0.02, 0.06, 0.1]


@settings(deadline=None, max_examples=60)
@given(
    weights=st.lists(st.tuples(*[st.just(0.0) | st.floats(1e-6, 1)] * 3).filter(any), min_size=1, max_size=3),
    limits=st.tuples(*[st.floats(0.1, 500) | st.just(np.inf)] * 3),
    fill=st.tuples(*[st.floats(1, 32)] * 3),
    steps=st.integers(5, 300),
)
def test_limits_leave_no_source_more_than_it_has(
    weights: list[tuple[float, float, float]],
    limits: tuple[float, float, float],
    fill: tuple[float, float, float],
    steps: int,
) -> None:
    points = tuple(MixPoint(number, dict(zip(NAMES, row, strict=True))) for number, row in enumerate(weights))
    asked = asked_of(mix=points, steps=steps)
    capacity, filled = np.array(limits), np.array(fill)
    mixture = limited_mixture(asked, capacity, filled)
    for shares in (mixture.begin, mixture.end):
        assert np.abs(shares.sum(axis=1) - 1).max() < 1e-9
        assert (shares >= 0).all()
        assert (shares[asked.begin == 0] == 0).all()
    before, after = expected_samples(asked, filled), expected_samples(mixture, filled)
    # A phase in which every source is full has to be dealt all the same.
    if all(any(limit == np.inf for limit, share in zip(limits, row, strict=True) if share) for row in weights):
        assert (after <= capacity * (1 + 1e-6)).all()
        assert (after[after < capacity * (1 - 1e-6)] >= before[after < capacity * (1 - 1e-6)] * (1 - 1e-6)).all()
    if (before <= capacity).all():
        assert mixture.begin == pytest.approx(asked.begin)


def test_a_weight_too_small_for_any_run_is_none() -> None:
    mixture = asked_of(mix=(MixPoint(0, {"code": 1.0, "web": 5e-324}),))
    assert mixture.begin.tolist() == [[0.0, 1.0, 0.0]]


def test_limits_give_the_rest_to_the_others_by_their_weights() -> None:
    mixture = limited_mixture(
        asked_of(mix=(MixPoint(0, {"books": 2, "code": 6, "web": 2}),), steps=250), np.array([np.inf, 62, np.inf]), FULL
    )
    assert expected_samples(mixture, FULL) == pytest.approx([469, 62, 469])
    # Of samples half as full there are twice as many in the same capacity of tokens.
    half = limited_mixture(asked_of(mix=(MixPoint(0, {"books": 1, "code": 1}),)), np.array([np.inf, 10, 0]), FULL / 2)
    assert half.begin[0] == pytest.approx([0.9, 0.1, 0])


@pytest.mark.parametrize(
    ("mix", "message"),
    [
        ([(0, {"bokos": 1})], r"data\.mix\.0\.weights\.bokos: not in the manifest; it has \['books', 'code', 'web'\]"),
        ([(0, {"web": 1}), (5, {"web": 1, "x": 0})], r"data\.mix\.1\.weights\.x: not in the manifest"),
        ([(0, {"web": 0})], r"data\.mix\.0\.weights: needs at least one"),
        ([(0, {"web": 1, "code": -1})], r"data\.mix\.0\.weights\.code: -1 is below 0"),
        ([(1, {"web": 1})], "from_step must rise from 0"),
        ([(0, {"web": 1}), (25, {"web": 1})], r"stay below train\.steps 25"),
        ([], "from_step must rise from 0"),
        ([(0, {"web": 1}, True)], r"data\.mix\.0\.ramp: the last point"),
        ([(0, {"empty": 1})], r"weights\.empty: the manifest has no token"),
    ],
)
def test_rejects_a_mix_that_cannot_be(mix: list[tuple[Any, ...]], message: str) -> None:
    names, tokens = (NAMES, TOKENS) if "empty" not in message else ((*NAMES, "empty"), np.append(TOKENS, 0))
    with pytest.raises(ConfigError, match=message):
        asked_mixture(settings_of(mix=tuple(MixPoint(*point) for point in mix)), list(names), tokens)
