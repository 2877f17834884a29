"""The mix: whole numbers that stay at what is expected, block by block, and limits on repetition."""

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from longspan.errors import ConfigError
from longspan.sampling.mix import (
    BLOCK_SAMPLES,
    Mixture,
    asked_mixture,
    block_sources,
    counts_until,
    expected_samples,
    limited_mixture,
    total_counts,
)
from longspan.sampling.plan import MixPoint
from tests.sampling.corpora import NAMES, settings_of

TOKENS = np.array([10_000, 1000, 100_000])
WEIGHTS = st.lists(
    st.sampled_from([0.0, 1e-5, 1e-4, 1e-3, 0.01, 0.1, 0.3, 1.0, 7.0]) | st.floats(0, 1e300), min_size=8, max_size=8
)


def asked_of(**changes: Any) -> Mixture:
    return asked_mixture(settings_of(**changes), NAMES, TOKENS)


def limited(**changes: Any) -> Mixture:
    asked = settings_of(**changes)
    return limited_mixture(asked_mixture(asked, NAMES, TOKENS), asked, NAMES, TOKENS.astype(np.float64))


@settings(deadline=None, max_examples=50)
@given(
    rows=st.lists(st.tuples(WEIGHTS.filter(any), st.booleans(), st.integers(1, 10**8)), min_size=1, max_size=3),
    seed=st.integers(0, 2**32),
    at=st.lists(st.floats(0, 1), min_size=2, max_size=6).map(sorted),
)
def test_counts_stay_within_a_few_samples_of_what_is_expected(
    rows: list[tuple[list[float], bool, int]], seed: int, at: list[float]
) -> None:
    names = tuple("abcdefgh")
    steps = np.cumsum([0, *(length for _, _, length in rows)]).tolist()
    points = tuple(
        MixPoint(step, dict(zip(names, weights, strict=True)), ramp and number < len(rows) - 1)
        for number, (step, (weights, ramp, _)) in enumerate(zip(steps, rows, strict=False))
    )
    wanted = settings_of(mix=points, steps=steps[-1], global_batch_size=1, seed=seed)
    mixture = asked_mixture(wanted, names, np.ones(8, np.int64))
    for segment, length in enumerate(np.diff(mixture.borders).tolist()):
        samples = np.array([int(share * length) for share in at] + [length])
        counts = counts_until(mixture, segment, samples)
        begin = int(mixture.borders[segment])
        expected = np.array([expected_samples(mixture, begin, begin + int(n)) for n in samples])
        assert (counts.sum(axis=1) == samples).all()
        assert (counts >= 0).all()
        assert (np.diff(counts, axis=0) >= 0).all()
        assert np.abs(counts - expected).max() < 5
        never = (mixture.begin[segment] == 0) & (mixture.end[segment] == 0)
        assert (counts[:, never] == 0).all()


def test_a_small_source_gets_its_samples_block_by_block() -> None:
    mixture = asked_of(
        mix=(MixPoint(0, {"books": 0.9999, "code": 0.0001}),), steps=100 * BLOCK_SAMPLES, global_batch_size=1
    )
    until = counts_until(mixture, 0, np.arange(101) * BLOCK_SAMPLES)[:, 1]
    assert np.abs(until - np.arange(101) * BLOCK_SAMPLES * 1e-4).max() <= 1
    assert set(np.diff(until)) == {0, 1}


def test_whole_numbers_are_met_exactly_in_every_phase() -> None:
    mix = (MixPoint(0, {"books": 0.5, "code": 0.3, "web": 0.2}), MixPoint(10, {"web": 3, "code": 1}))
    source = np.concatenate(list(block_sources(asked_of(mix=mix), shuffle=True)))
    assert source.dtype == np.int16
    assert np.bincount(source[:40], minlength=3).tolist() == [20, 12, 8]
    assert np.bincount(source[40:], minlength=3).tolist() == [0, 15, 45]
    assert (np.diff(source[:40]) < 0).any()


def test_a_ramp_moves_linearly_from_point_to_point() -> None:
    mix = (MixPoint(0, {"books": 1}, ramp=True), MixPoint(1000, {"web": 5}))
    mixture = asked_of(mix=mix, steps=2000, global_batch_size=40)
    source = np.concatenate(list(block_sources(mixture, shuffle=True)))
    web = [float((source[begin : begin + 8000] == 2).mean()) for begin in range(0, 80_000, 8000)]
    assert web == pytest.approx([0.1, 0.3, 0.5, 0.7, 0.9, 1, 1, 1, 1, 1], abs=0.02)
    assert expected_samples(mixture, 0, 80_000).tolist() == pytest.approx([20_000, 0, 60_000])


def test_blocks_hold_their_counts_and_do_not_need_those_before() -> None:
    mix = (MixPoint(0, {"books": 2, "web": 1}), MixPoint(2000, {"code": 1}))
    mixture = asked_of(mix=mix, steps=3000, global_batch_size=5)
    blocks = list(block_sources(mixture, shuffle=True))
    assert [block.size for block in blocks] == [4096, 4096, 10_000 - 8192, 4096, 904]
    second = np.diff(counts_until(mixture, 0, np.array([4096, 8192])), axis=0)[0]
    assert np.bincount(blocks[1], minlength=3).tolist() == second.tolist()
    assert np.bincount(np.concatenate(blocks), minlength=3).tolist() == total_counts(mixture).tolist()


def test_a_ramp_of_few_samples_is_not_flat() -> None:
    mix = (MixPoint(0, {"books": 1}, ramp=True), MixPoint(40, {"web": 1}))
    source = np.concatenate(list(block_sources(asked_of(mix=mix, steps=50, global_batch_size=10), shuffle=True)))
    web = [float((source[begin : begin + 80] == 2).mean()) for begin in range(0, 400, 80)]
    assert web == pytest.approx([0.1, 0.3, 0.5, 0.7, 0.9], abs=0.06)


def test_without_shuffle_sources_are_interleaved() -> None:
    mixture = asked_of(mix=(MixPoint(0, {"books": 3, "web": 1}),))
    source = np.concatenate(list(block_sources(mixture, shuffle=False)))
    assert all(np.bincount(source[i : i + 4], minlength=3).tolist() == [3, 0, 1] for i in range(0, 100, 4))


def test_another_seed_another_order() -> None:
    orders = [
        np.concatenate(list(block_sources(asked_of(mix=(MixPoint(0, {"books": 1, "web": 1}),), seed=s), True)))
        for s in (1, 1, 2)
    ]
    assert (orders[0] == orders[1]).all()
    assert (orders[0] != orders[2]).any()


@settings(deadline=None, max_examples=60)
@given(
    weights=st.lists(st.tuples(*[st.just(0.0) | st.floats(1e-6, 1)] * 3).filter(any), min_size=1, max_size=3),
    ramp=st.booleans(),
    limits=st.dictionaries(st.sampled_from(NAMES), st.floats(0.01, 5), max_size=3),
    steps=st.integers(5, 3000),
    seed=st.integers(0, 2**32),
)
def test_spread_keeps_every_limit_and_every_sample(
    weights: list[tuple[float, float, float]], ramp: bool, limits: dict[str, float], steps: int, seed: int
) -> None:
    points = tuple(
        MixPoint(number, dict(zip(NAMES, row, strict=True)), ramp and number < len(weights) - 1)
        for number, row in enumerate(weights)
    )
    changes: dict[str, Any] = {"mix": points, "steps": steps, "max_epochs": limits, "seed": seed}
    asked = asked_of(**changes)
    capacity = np.array(
        [np.floor(limits.get(name, np.inf) * size / 32) for name, size in zip(NAMES, TOKENS, strict=True)]
    )
    try:
        mixture = limited(**changes, on_limit="spread")
    except ConfigError:
        # Only where sources without a limit do not stand in every segment, or there is no room in all of them.
        assert any(all(name in limits for name, share in zip(NAMES, row, strict=True) if share) for row in weights)
        return
    counts = total_counts(mixture)
    assert counts.sum() == steps * 4
    assert (counts <= capacity).all()
    for shares in (mixture.begin, mixture.end):
        assert np.abs(shares.sum(axis=1) - 1).max() < 1e-9
        assert (shares >= 0).all()
    if (total_counts(asked) <= capacity).all():
        assert (mixture.begin == asked.begin).all()
        assert (limited(**changes).begin == asked.begin).all()


def test_a_weight_too_small_for_any_run_is_none() -> None:
    mixture = asked_of(mix=(MixPoint(0, {"code": 1.0, "web": 5e-324}),))
    assert mixture.begin.tolist() == [[0.0, 1.0, 0.0]]


def test_spread_gives_the_rest_to_the_others_by_their_weights() -> None:
    mixture = limited(
        mix=(MixPoint(0, {"books": 2, "code": 6, "web": 2}),), steps=250, max_epochs={"code": 2}, on_limit="spread"
    )
    assert total_counts(mixture).tolist() == [469, 62, 469]


def test_refuses_more_epochs_than_allowed() -> None:
    with pytest.raises(ConfigError, match=r"data\.mix: the run draws 3\.20 epochs of code, and .*max_epochs allows 2;"):
        limited(mix=(MixPoint(0, {"code": 1}),), max_epochs={"code": 2.0, "web": 1.0})


def test_refuses_to_spread_over_sources_that_are_all_full() -> None:
    with pytest.raises(ConfigError, match=r"all the sources \['books', 'code'\] reach data\.repetition\.max_epochs"):
        limited(
            mix=(MixPoint(0, {"code": 1, "books": 1}),),
            steps=250,
            max_epochs={"code": 2, "books": 2},
            on_limit="spread",
        )


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


def test_rejects_a_limit_for_an_unknown_source() -> None:
    with pytest.raises(ConfigError, match=r"data\.repetition\.by_source\.wbe: not in the manifest"):
        limited(max_epochs={"wbe": 1})
