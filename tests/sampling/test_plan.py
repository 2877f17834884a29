"""The sample plan: parts that do not depend on their size, streams that do not depend on the run, an exact mix."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from longspan.errors import ConfigError
from longspan.sampling.plan import MixPoint, PlanPart, PlanSettings, Upsample, plan_parts
from longspan.sampling.table import CorpusTable
from tests.sampling.corpora import LENGTHS, NAMES, samples_of, settings_of, table_of

RNG = np.random.default_rng(5)
TABLE = table_of(*(RNG.integers(1, 120, size=size).tolist() for size in (60, 40, 20)))
MIX = (MixPoint(0, {"books": 0.5, "code": 0.3, "web": 0.2}),)
PACKINGS = ("best_fit", "sequential")


def plan_of(part_samples: int = 16384, table: CorpusTable = TABLE, **changes: Any) -> list[PlanPart]:
    return list(plan_parts(table, settings_of(**({"mix": MIX} | changes)), part_samples))


def stream_of(parts: list[PlanPart], source: int) -> list[Any]:
    return [sample for sample in samples_of(parts) if sample[0] == source]


@st.composite
def plan_settings(draw: st.DrawFn) -> PlanSettings:
    weights = st.tuples(*[st.floats(0, 1)] * 3).filter(any)
    steps = draw(st.integers(2, 40))
    points = [MixPoint(0, dict(zip(NAMES, draw(weights), strict=True)), draw(st.booleans()))]
    points.append(MixPoint(draw(st.integers(1, steps - 1)), dict(zip(NAMES, draw(weights), strict=True))))
    return settings_of(
        mix=tuple(points),
        steps=steps,
        sample_length=draw(st.integers(1, 80)),
        packing=draw(st.sampled_from(PACKINGS)),
        shuffle=draw(st.booleans()),
        shuffle_tokens=draw(st.sampled_from([50, 300, 10_000])),
        upsample=draw(st.sampled_from([{}, {"code": Upsample(40, 2.5)}, {name: Upsample(90, 4) for name in NAMES}])),
        seed=draw(st.integers(0, 2**32)),
    )


@settings(deadline=None, max_examples=25)
@given(
    wanted=plan_settings(),
    lengths=st.tuples(*[LENGTHS.filter(lambda sizes: sum(sizes) > 100)] * 3),
    part_samples=st.integers(1, 100),
)
def test_parts_hold_what_they_say(
    wanted: PlanSettings, lengths: tuple[list[int], list[int], list[int]], part_samples: int
) -> None:
    table = table_of(*lengths)
    parts = list(plan_parts(table, wanted, part_samples))
    assert [part.first_sample for part in parts] == list(range(0, wanted.num_samples, part_samples))
    assert sum(part.num_samples for part in parts) == wanted.num_samples
    assert {part.num_samples for part in parts[:-1]} <= {part_samples}
    begins = np.cumsum(table.length) - table.length
    of_document = np.repeat(np.arange(3), [len(source) for source in lengths])
    for part in parts:
        assert [part.source.dtype, part.span_offsets.dtype, part.document.dtype] == [np.int16, np.int64, np.int64]
        assert [part.offset.dtype, part.length.dtype, part.epoch.dtype] == [np.int64, np.int32, np.int32]
        used = np.add.reduceat(part.length, part.span_offsets[:-1])
        assert (used == wanted.sample_length).all() or (
            wanted.packing == "best_fit" and (used <= wanted.sample_length).all()
        )
        assert (part.length >= 1).all()
        assert (of_document[part.document] == np.repeat(part.source, np.diff(part.span_offsets))).all()
        assert (part.offset >= begins[part.document]).all()
        assert (part.offset + part.length <= (begins + table.length)[part.document]).all()
    assert samples_of(parts) == samples_of(list(plan_parts(table, wanted)))


@settings(deadline=None, max_examples=25)
@given(wanted=plan_settings(), weights=st.tuples(*[st.floats(0.01, 1)] * 3), more=st.integers(1, 40))
def test_a_source_keeps_its_samples_under_another_mix_and_length_of_run(
    wanted: PlanSettings, weights: tuple[float, float, float], more: int
) -> None:
    other = replace(
        wanted,
        mix=(MixPoint(0, dict(zip(NAMES, weights, strict=True))),),
        steps=wanted.steps + more,
        global_batch_size=7,
    )
    first, second = list(plan_parts(TABLE, wanted)), list(plan_parts(TABLE, other))
    for source in range(3):
        one, two = stream_of(first, source), stream_of(second, source)
        size = min(len(one), len(two))
        assert one[:size] == two[:size]


@pytest.mark.parametrize("packing", PACKINGS)
def test_every_document_comes_once_an_epoch(packing: str) -> None:
    parts = plan_of(mix=(MixPoint(0, {"books": 1}),), steps=600, packing=packing)
    tokens = np.zeros(TABLE.num_tokens + 1, dtype=np.int64)
    for part in parts:
        np.add.at(tokens, part.offset, 1)
        np.add.at(tokens, part.offset + part.length, -1)
    times = np.cumsum(tokens)[: TABLE.source_tokens[0]]
    assert times.max() - times.min() <= 1
    assert max(int(part.epoch.max()) for part in parts) == times.max() - 1


@pytest.mark.parametrize("packing", PACKINGS)
def test_upsampled_documents_are_drawn_that_much_more_often(packing: str) -> None:
    parts = plan_of(
        mix=(MixPoint(0, {"books": 1}),), steps=2000, upsample={"books": Upsample(80, 2.5)}, packing=packing
    )
    drawn = (
        sum(np.bincount(part.document, weights=part.length, minlength=120)[:60] for part in parts) / TABLE.length[:60]
    )
    is_long = TABLE.length[:60] >= 80
    assert drawn[is_long].mean() / drawn[~is_long].mean() == pytest.approx(2.5, rel=0.05)


def test_the_limit_on_repetition_holds_for_the_tokens_drawn() -> None:
    wanted: dict[str, Any] = {"steps": 300, "max_epochs": {"web": 2.0, "code": 1.5}, "on_limit": "spread"}
    parts = plan_of(**wanted, mix=(MixPoint(0, {"books": 1, "code": 1, "web": 1}),))
    drawn = np.zeros(3)
    for part in parts:
        np.add.at(drawn, np.repeat(part.source, np.diff(part.span_offsets)), part.length)
    assert (drawn[1:] <= np.array([1.5, 2.0]) * TABLE.source_tokens[1:]).all()
    assert (drawn[1:] > np.array([1.4, 1.9]) * TABLE.source_tokens[1:] - 64).all()


def test_neighbouring_samples_are_no_neighbours_in_the_corpus() -> None:
    table = table_of([30] * 4000)
    parts = plan_of(table=table, mix=(MixPoint(0, {"books": 1}),), steps=700, shuffle_tokens=12_000)
    first = np.concatenate([part.document[part.span_offsets[:-1]] for part in parts])
    assert (np.abs(np.diff(first)) <= 2).mean() < 0.02


def test_without_shuffle_samples_come_in_corpus_order() -> None:
    parts = plan_of(mix=(MixPoint(0, {"books": 1}),), shuffle=False, packing="sequential", steps=20)
    assert [sample[2][0][1] for sample in samples_of(parts)] == list(range(0, 80 * 32, 32))
    best_fit = samples_of(
        plan_of(
            table=table_of([30] * 2000), mix=(MixPoint(0, {"books": 1}),), shuffle=False, sample_length=200, steps=40
        )
    )
    # Inside a window a sample takes what fits best; the windows come one after the other.
    first = np.array([spans[0][0] for _, _, spans in best_fit])
    assert np.abs(first - np.maximum.accumulate(first)).max() < 300


def test_same_arguments_same_plan_and_another_seed_another() -> None:
    assert samples_of(plan_of()) == samples_of(plan_of())
    assert samples_of(plan_of()) != samples_of(plan_of(seed=2))
    assert stream_of(plan_of(), 0)[0] != stream_of(plan_of(seed=2), 0)[0]


@pytest.mark.parametrize("steps", [25, 1050])
def test_more_steps_append(steps: int) -> None:
    short, long = samples_of(plan_of(steps=steps)), samples_of(plan_of(steps=2 * steps))
    assert long[: len(short)] == short


def test_earlier_segments_stay_when_a_later_one_grows() -> None:
    two = (*MIX, MixPoint(10, {"web": 1.0, "code": 1.0}))
    assert samples_of(plan_of(mix=two, steps=60))[:100] == samples_of(plan_of(mix=two))


def test_parts_are_made_as_they_are_asked_for() -> None:
    parts = plan_parts(TABLE, settings_of(mix=MIX, steps=10**9, global_batch_size=1000), part_samples=10)
    assert [next(parts).first_sample for _ in range(3)] == [0, 10, 20]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"mix": (MixPoint(0, {"bokos": 1.0}),)}, r"data\.mix\.0\.weights\.bokos: not in the manifest"),
        ({"upsample": {"bokos": Upsample(5, 2)}}, r"data\.upsample\.by_source\.bokos: not in the manifest"),
        ({"upsample": {"web": Upsample(5, 0.5)}}, r"data\.upsample: ratio 0\.5 for web is below 1"),
    ],
)
def test_rejects_settings_before_the_first_part(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        plan_parts(TABLE, settings_of(**({"mix": MIX} | changes)))
