"""The sample plan: exact mix, one source a sample, the same plan from the same arguments."""

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from longspan.errors import ConfigError
from longspan.sampling.plan import Plan, build_plan, exact_counts

RNG = np.random.default_rng(5)
SOURCE_ID = np.repeat(np.arange(3, dtype=np.int16), [40, 25, 10])
LENGTH = RNG.integers(1, 500, size=75).astype(np.int32)
NAMES = ["books", "code", "web"]
MIX = [(0, {"books": 0.5, "code": 0.3, "web": 0.2})]


def plan_of(**changes: Any) -> Plan:
    arguments: dict[str, Any] = {
        "mix": MIX, "steps": 25, "global_batch_size": 4, "sample_length": 128, "upsample": None, "seed": 1,
    }  # fmt: skip
    return build_plan(SOURCE_ID, LENGTH, NAMES, **(arguments | changes))


def spans_of(plan: Plan, sample: int) -> list[tuple[int, int, int]]:
    rows = slice(plan.span_offsets[sample], plan.span_offsets[sample + 1])
    return list(zip(plan.span_document[rows], plan.span_start[rows], plan.span_length[rows], strict=True))


def by_source(plan: Plan, source: int) -> list[list[tuple[int, int, int]]]:
    return [spans_of(plan, int(sample)) for sample in np.flatnonzero(plan.source == source)]


@given(
    weights=st.lists(st.floats(0, 1e300), min_size=1, max_size=8).filter(lambda values: max(values) > 0),
    total=st.integers(0, 10**7),
)
def test_counts_are_exact(weights: list[float], total: int) -> None:
    counts = exact_counts(np.array(weights), total)
    shares = np.array(weights) / max(weights)
    assert counts.sum() == total
    assert (counts[np.array(weights) == 0] == 0).all()
    assert (np.abs(counts - shares / shares.sum() * total) < 1 + 1e-6).all()


def test_every_sample_is_full_and_of_one_source() -> None:
    plan = plan_of(upsample=(250, 2.5))
    assert plan.num_samples == 100
    for sample in range(plan.num_samples):
        spans = spans_of(plan, sample)
        assert sum(length for _, _, length in spans) == 128
        assert {SOURCE_ID[document] for document, _, _ in spans} == {plan.source[sample]}
    assert [plan.source.dtype, plan.span_offsets.dtype] == [np.int16, np.int64]
    assert {plan.span_document.dtype, plan.span_start.dtype, plan.span_length.dtype} == {np.dtype(np.int32)}


def test_mix_is_exact_in_every_phase_and_shuffled() -> None:
    plan = plan_of(mix=[*MIX, (10, {"web": 3.0, "code": 1.0})])
    assert np.bincount(plan.source[:40], minlength=3).tolist() == [20, 12, 8]
    assert np.bincount(plan.source[40:], minlength=3).tolist() == [0, 15, 45]
    assert (np.diff(plan.source[:40]) < 0).any()


@given(weights=st.lists(st.floats(0.01, 1), min_size=3, max_size=3), steps=st.integers(1, 30), seed=st.integers(0, 99))
def test_every_token_of_a_source_comes_once_an_epoch(weights: list[float], steps: int, seed: int) -> None:
    plan = plan_of(mix=[(0, dict(zip(NAMES, weights, strict=True)))], steps=steps, seed=seed)
    used = [np.zeros(size, dtype=np.int64) for size in LENGTH]
    for document, start, size in zip(plan.span_document, plan.span_start, plan.span_length, strict=True):
        used[document][start : start + size] += 1
    for source in range(3):
        times = np.concatenate([used[i] for i in np.flatnonzero(source == SOURCE_ID)])
        assert times.max() - times.min() <= 1
        assert times.sum() == 128 * (plan.source == source).sum()


def test_upsampled_documents_are_drawn_that_much_more_often() -> None:
    plan = plan_of(mix=[(0, {"books": 1.0})], steps=2000, upsample=(300, 2.5))
    drawn = np.bincount(plan.span_document, weights=plan.span_length, minlength=75)[:40] / LENGTH[:40]
    is_long = LENGTH[:40] >= 300
    assert drawn[is_long].mean() / drawn[~is_long].mean() == pytest.approx(2.5, rel=0.05)


def test_same_arguments_same_plan_and_another_seed_another() -> None:
    assert plan_of().fingerprint == plan_of().fingerprint
    assert plan_of().fingerprint != plan_of(seed=2).fingerprint
    assert by_source(plan_of(), 0)[0] != by_source(plan_of(seed=2), 0)[0]


def test_fingerprint_sees_every_column() -> None:
    plan = plan_of()
    for name in ("source", "span_offsets", "span_document", "span_start", "span_length"):
        column = getattr(plan, name).copy()
        column[0] += 1
        assert Plan(**{**vars(plan), name: column}).fingerprint != plan.fingerprint
    assert Plan(**{**vars(plan), "sample_length": 129}).fingerprint != plan.fingerprint


def test_a_source_keeps_its_samples_under_another_mix_and_batch() -> None:
    first, second = plan_of(), plan_of(mix=[(0, {"web": 2.0, "books": 1.0})], global_batch_size=8)
    for source in (0, 2):
        one, two = by_source(first, source), by_source(second, source)
        assert min(len(one), len(two)) > 5
        assert all(a == b for a, b in zip(one, two, strict=False))


def test_a_source_keeps_its_samples_when_the_manifest_gains_one() -> None:
    grown = build_plan(
        SOURCE_ID + np.int16(1), LENGTH, ["art", *NAMES], mix=MIX, steps=25, global_batch_size=4, sample_length=128,
        upsample=None, seed=1,
    )  # fmt: skip
    assert by_source(grown, 1) == by_source(plan_of(), 0)


def test_more_steps_append_with_one_source_and_leave_earlier_phases_alone() -> None:
    one = [(0, {"code": 1.0})]
    short, long = plan_of(mix=one), plan_of(mix=one, steps=60)
    assert [spans_of(long, i) for i in range(100)] == [spans_of(short, i) for i in range(100)]
    two = [*MIX, (10, {"web": 1.0, "code": 1.0})]
    short, long = plan_of(mix=two), plan_of(mix=two, steps=60)
    assert [spans_of(long, i) for i in range(40)] == [spans_of(short, i) for i in range(40)]


def test_empty_documents_are_passed_over() -> None:
    plan = build_plan(
        np.zeros(3, dtype=np.int16), np.array([0, 7, 0], dtype=np.int32), ["a"], mix=[(0, {"a": 1.0})], steps=2,
        global_batch_size=1, sample_length=10, upsample=None, seed=0,
    )  # fmt: skip
    assert set(plan.span_document) == {1}


@pytest.mark.parametrize(
    ("mix", "message"),
    [
        (
            [(0, {"bokos": 1.0})],
            r"data\.mix\.0\.weights\.bokos: not in the manifest; it has \['books', 'code', 'web'\]",
        ),
        ([*MIX, (5, {"web": 1.0, "x": 0.0})], r"data\.mix\.1\.weights\.x: not in the manifest"),
        ([(0, {"web": 0.0})], r"data\.mix\.0\.weights: needs at least one"),
        ([(1, {"web": 1.0})], "from_step must rise from 0"),
        ([*MIX, (25, {"web": 1.0})], "stay below train.steps 25"),
        ([], "from_step must rise from 0"),
    ],
)
def test_rejects_a_mix_that_cannot_be(mix: list[tuple[int, dict[str, float]]], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        plan_of(mix=mix)


def test_rejects_a_source_without_tokens() -> None:
    with pytest.raises(ConfigError, match=r"weights\.b: the manifest has no token"):
        build_plan(
            np.array([0, 1], dtype=np.int16), np.array([5, 0], dtype=np.int32), ["a", "b"],
            mix=[(0, {"a": 1.0, "b": 1.0})], steps=2, global_batch_size=1, sample_length=4, upsample=None, seed=0,
        )  # fmt: skip
