"""The deal: at every prefix each source has its share of the tokens trained, whatever its samples are filled with."""

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from longspan.errors import ConfigError
from longspan.sampling.mix import asked_mixture, blocks
from longspan.sampling.plan import MixPoint, PlanPart, PlanSettings, plan_parts
from longspan.sampling.table import CorpusTable
from tests.sampling.corpora import LENGTHS, NAMES, settings_of, table_of

HALVES = (MixPoint(0, {"books": 1, "code": 1}),)
WEIGHTS = st.tuples(*[st.sampled_from([0.0, 1e-3, 0.01, 0.1, 0.3]) | st.floats(0, 1)] * 3).filter(any)


def dealt(table: CorpusTable, wanted: PlanSettings) -> tuple[np.ndarray, np.ndarray]:
    """Source (int64 [n]) and trained tokens (int64 [n]) of every sample."""
    parts = list(plan_parts(table, wanted, 1000))
    tokens = [np.add.reduceat(part.length.astype(np.int64), part.span_offsets[:-1]) for part in parts]
    source = np.concatenate([part.source for part in parts]).astype(np.int64)
    return source, np.minimum(np.concatenate(tokens), wanted.trained_length)


def largest_deviation(table: CorpusTable, wanted: PlanSettings) -> tuple[float, float]:
    """How far any source is from its share of the tokens at any prefix, in samples, and how far it may be."""
    source, tokens = dealt(table, wanted)
    mixture = asked_mixture(wanted, table.source_names, table.source_tokens)
    share = np.concatenate([np.tile(row, (size, 1)) for size, row in blocks(mixture)])
    own = np.where(source[:, None] == np.arange(3), tokens[:, None], 0)
    deviation = np.abs(np.cumsum(own - share * tokens[:, None], axis=0)).max() / wanted.trained_length
    num_sources = int(share.any(axis=0).sum())
    # One sample for the source itself; one for each source times the change of its share, from nothing to the last.
    changes = np.abs(np.diff(share, axis=0)).sum(axis=0)
    return float(deviation), float(1 + num_sources * (share[-1] + changes).max())


@settings(deadline=None, max_examples=40)
@given(
    lengths=st.tuples(*[LENGTHS.filter(lambda sizes: sum(sizes) > 100)] * 3),
    weights=st.lists(st.tuples(WEIGHTS, st.booleans()), min_size=1, max_size=3),
    sample_length=st.integers(1, 400),
    trained=st.floats(0.1, 1),
    steps=st.integers(20, 200),
    packing=st.sampled_from(["best_fit", "sequential"]),
    shuffle=st.booleans(),
    seed=st.integers(0, 2**32),
)
def test_every_prefix_has_the_share_of_tokens_of_every_source(
    lengths: tuple[list[int], list[int], list[int]],
    weights: list[tuple[tuple[float, float, float], bool]],
    sample_length: int,
    trained: float,
    steps: int,
    packing: str,
    shuffle: bool,
    seed: int,
) -> None:
    """Documents and samples of any length: samples of one source may be full and those of another hardly filled."""
    last = len(weights) - 1
    points = tuple(
        MixPoint(number * (steps // len(weights)), dict(zip(NAMES, row, strict=True)), ramp and number < last)
        for number, (row, ramp) in enumerate(weights)
    )
    wanted = settings_of(
        mix=points, steps=steps, sample_length=sample_length, trained_length=max(1, int(trained * sample_length)),
        packing=packing, shuffle=shuffle, seed=seed,
    )  # fmt: skip
    deviation, most = largest_deviation(table_of(*lengths), wanted)
    assert deviation <= most + 1e-6


def test_a_source_of_half_empty_samples_gets_the_tokens_that_are_asked_for() -> None:
    """Documents of 615 tokens, of which one fits into a sample of 1,024; by samples they would get 21 % for 30 %."""
    table = table_of([615] * 400, [1024] * 400, chunk_tokens=4096)
    mix = (MixPoint(0, {"books": 0.3, "code": 0.7}),)
    wanted = settings_of(mix=mix, steps=1000, sample_length=1024, shuffle_tokens=100_000)
    source, tokens = dealt(table, wanted)
    until = np.cumsum(np.where(source == 0, tokens, 0))
    assert np.abs(until - 0.3 * np.cumsum(tokens)).max() < 1024
    assert until[-1] / tokens.sum() == pytest.approx(0.3, abs=1e-3)
    assert (source == 0).mean() == pytest.approx(0.3 / 615 / (0.3 / 615 + 0.7 / 1024), abs=1e-3)
    # Where a selection trains 512 tokens of every sample, both kinds count alike.
    source, _ = dealt(table, settings_of(**{**vars(wanted), "trained_length": 512}))
    assert (source == 0).mean() == pytest.approx(0.3, abs=1e-3)


def test_whole_numbers_are_met_exactly_in_every_phase() -> None:
    table = table_of([32] * 60, [32] * 60, [32] * 60)
    mix = (MixPoint(0, {"books": 0.5, "code": 0.3, "web": 0.2}), MixPoint(10, {"web": 3, "code": 1}))
    source, _ = dealt(table, settings_of(mix=mix))
    assert np.bincount(source[:40], minlength=3).tolist() == [20, 12, 8]
    assert np.bincount(source[40:], minlength=3).tolist() == [0, 15, 45]
    assert (np.diff(source[:40]) < 0).any()


def test_without_shuffle_sources_are_interleaved() -> None:
    table = table_of([32] * 60, [1], [32] * 60)
    source, _ = dealt(table, settings_of(mix=(MixPoint(0, {"books": 3, "web": 1}),), shuffle=False))
    assert all(np.bincount(source[i : i + 4], minlength=3).tolist() == [3, 0, 1] for i in range(0, 100, 4))


def test_with_shuffle_the_order_is_random() -> None:
    table = table_of([32] * 60, [32] * 60)
    orders = [
        dealt(table, settings_of(mix=(MixPoint(0, {"books": 1, "code": 1}),), seed=s, steps=250))[0] for s in (1, 1, 2)
    ]
    assert (orders[0] == orders[1]).all()
    assert (orders[0] != orders[2]).any()
    runs = np.diff(np.flatnonzero(np.diff(orders[0], prepend=-1)))
    assert set(runs.tolist()) == {1, 2}


def drawn(parts: list[PlanPart], table: CorpusTable) -> np.ndarray:
    """int64 [num_tokens], how often each token is drawn."""
    times = np.zeros(table.num_tokens + 1, dtype=np.int64)
    for part in parts:
        np.add.at(times, part.offset, 1)
        np.add.at(times, part.offset + part.length, -1)
    return np.cumsum(times)[:-1]


@settings(deadline=None, max_examples=60)
@given(
    lengths=st.tuples(*[LENGTHS] * 2),
    limit=st.floats(0.3, 4) | st.integers(1, 3),
    sample_length=st.integers(1, 200),
    packing=st.sampled_from(["best_fit", "sequential"]),
    share=st.floats(0.05, 0.95),
    steps=st.integers(1, 120),
    seed=st.integers(0, 2**32),
)
def test_a_limit_on_repetition_holds_for_every_document(
    lengths: tuple[list[int], list[int]],
    limit: float,
    sample_length: int,
    packing: str,
    share: float,
    steps: int,
    seed: int,
) -> None:
    table = table_of(*lengths)
    wanted = settings_of(
        mix=(MixPoint(0, {"books": share, "code": 1 - share}),), steps=steps, sample_length=sample_length,
        packing=packing, max_epochs={"books": limit}, on_limit="spread", seed=seed,
    )  # fmt: skip
    parts = list(plan_parts(table, wanted))
    assert sum(part.num_samples for part in parts) == wanted.num_samples
    times = drawn(parts, table)[: table.source_tokens[0]]
    assert times.sum() <= limit * times.size
    assert times.max() <= np.ceil(limit)
    assert times.max() - times.min() <= 1


def test_spread_gives_a_small_source_evenly_and_the_rest_to_the_others() -> None:
    table = table_of([20] * 100, [32] * 100, [32] * 100)
    mix = (MixPoint(0, {"books": 2, "code": 1, "web": 1}),)
    source, tokens = dealt(table, settings_of(mix=mix, steps=500, max_epochs={"books": 2}, on_limit="spread"))
    assert tokens[source == 0].sum() == pytest.approx(2 * 2000, abs=40)
    at = np.flatnonzero(source == 0)
    assert np.diff(at).max() < 2.5 * 2000 / at.size
    assert np.bincount(source)[1] == pytest.approx(np.bincount(source)[2], abs=2)


def limited(**changes: Any) -> list[PlanPart]:
    table = table_of([32] * 10, [32] * 100)
    return list(plan_parts(table, settings_of(**{"mix": HALVES} | changes)))


def test_a_source_may_be_drawn_to_its_last_sample() -> None:
    alone = {"mix": (MixPoint(0, {"books": 1}),), "max_epochs": {"books": 2}, "global_batch_size": 1}
    limited(**alone, steps=20)
    with pytest.raises(ConfigError, match=r"data\.mix: .*max_epochs 2 allows of books at step 20 of 21; lower"):
        limited(**alone, steps=21)


def test_refuses_more_epochs_than_allowed() -> None:
    message = r"data\.mix: the run draws 5\.00 epochs of books, and data\.repetition\.max_epochs allows 1; .* to spread"
    with pytest.raises(ConfigError, match=message):
        limited(max_epochs={"books": 1.0})
    with pytest.raises(ConfigError, match=message):
        plan_parts(table_of([32] * 10, [32] * 100), settings_of(mix=HALVES, max_epochs={"books": 1.0}))


def test_refuses_to_spread_over_sources_that_are_all_full() -> None:
    message = r"from step 6 of 7 on all the sources \['books', 'code'\] have reached data\.repetition\.max_epochs"
    with pytest.raises(ConfigError, match=message):
        limited(max_epochs={"books": 1, "code": 0.15}, on_limit="spread", steps=7)


def test_rejects_a_limit_for_an_unknown_source() -> None:
    with pytest.raises(ConfigError, match=r"data\.repetition\.by_source\.wbe: not in the manifest"):
        plan_parts(table_of([5]), settings_of(max_epochs={"wbe": 1}))
