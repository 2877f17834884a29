"""The figures of a plan, against a slow count of every token."""

import json
from typing import Any

import numpy as np
import pytest

from longspan.sampling.plan import MixPoint, PlanPart, PlanSettings, Upsample, plan_parts
from longspan.sampling.statistics import PlanStatistics, corpus_lengths, figures, length_bucket, open_statistics
from longspan.sampling.table import CorpusTable
from tests.sampling.corpora import samples_of, settings_of, table_of

RNG = np.random.default_rng(5)
TABLE = table_of(*(RNG.integers(1, 200, size=size).tolist() for size in (60, 40, 20)))
SETTINGS = settings_of(
    mix=(MixPoint(0, {"books": 3, "web": 1}, ramp=True), MixPoint(300, {"code": 1})), steps=500,
    upsample={"books": Upsample(100, 2.5)}, max_epochs={"code": 50.0}, seed=2,
)  # fmt: skip


def counted(
    table: CorpusTable, settings: PlanSettings, part_samples: int = 100
) -> tuple[PlanStatistics, list[PlanPart]]:
    statistics, parts = open_statistics(table, settings), list(plan_parts(table, settings, part_samples))
    for part in parts:
        statistics.add(part)
    return statistics, parts


@pytest.fixture(scope="module")
def plan() -> tuple[dict[str, Any], list[PlanPart]]:
    statistics, parts = counted(TABLE, SETTINGS)
    return figures(statistics), parts


def test_figures_are_json_and_do_not_depend_on_the_parts(plan: tuple[dict[str, Any], list[PlanPart]]) -> None:
    assert json.loads(json.dumps(plan[0])) == plan[0]
    assert figures(counted(TABLE, SETTINGS, 7)[0]) == plan[0]


def test_tokens_and_samples_are_counted_by_source(plan: tuple[dict[str, Any], list[PlanPart]]) -> None:
    found, parts = plan
    samples = samples_of(parts)
    for number, name in enumerate(TABLE.source_names):
        own = [sample for sample in samples if sample[0] == number]
        tokens = sum(length for _, _, spans in own for _, _, length in spans)
        row = found["sources"][name]
        assert (row["samples"], row["tokens"], row["padding_tokens"]) == (len(own), tokens, len(own) * 32 - tokens)
        assert row["share_of_samples"] == len(own) / 2000
        assert row["share_of_tokens"] == tokens / found["tokens"]
        assert row["samples_by_epoch"] == np.bincount([epoch for _, epoch, _ in own]).tolist()
        assert row["largest_epoch"] == max(epoch for _, epoch, _ in own)
        by_length: dict[str, int] = {}
        for _, _, spans in own:
            for document, _, length in spans:
                border = str(2 ** int(np.log2(TABLE.length[document])))
                by_length[border] = by_length.get(border, 0) + length
        assert row["tokens_by_length"] == dict(sorted(by_length.items(), key=lambda item: int(item[0])))
    assert found["samples"] == 2000
    assert found["tokens"] + found["padding_tokens"] == 2000 * 32
    lengths = [length for _, _, spans in samples for _, _, length in spans]
    assert found["spans_per_sample"] == len(lengths) / 2000
    assert found["mean_attended_length"] == pytest.approx(sum(length**2 for length in lengths) / sum(lengths))


def test_upsampling_and_epochs_are_told(plan: tuple[dict[str, Any], list[PlanPart]]) -> None:
    books, code = plan[0]["sources"]["books"], plan[0]["sources"]["code"]
    assert books["upsample_asked"] == 2.5
    assert books["upsample_achieved"] == pytest.approx(2.5, rel=0.1)
    long_tokens = int(TABLE.length[:60][TABLE.length[:60] >= 100].sum())
    assert books["corpus_long_tokens"] == long_tokens
    assert books["corpus_long_share"] == long_tokens / books["corpus_tokens"]
    assert books["long_share"] == books["long_tokens"] / books["tokens"]
    assert books["epochs"] == books["tokens"] / (books["corpus_tokens"] + 1.5 * long_tokens)
    assert (code["upsample_asked"], code["upsample_achieved"], code["max_epochs"]) == (None, None, 50.0)
    assert code["epochs"] == code["tokens"] / code["corpus_tokens"]
    assert (code["documents"], code["corpus_tokens"]) == (40, int(TABLE.length[60:100].sum()))


def test_mix_over_time_is_told_as_asked_and_achieved(plan: tuple[dict[str, Any], list[PlanPart]]) -> None:
    mix = plan[0]["mix_over_time"]
    assert len(mix["first_step"]) == 200
    assert mix["first_step"][:3] == [0, 2, 5]
    assert mix["asked"]["books"][0] == pytest.approx(0.75 * (1 - 1 / 300))
    assert mix["asked"]["code"][120:] == [pytest.approx(1)] * 80
    assert mix["achieved"]["code"][120:] == [1] * 80
    for name in TABLE.source_names:
        assert np.mean(mix["achieved"][name]) == pytest.approx(np.mean(mix["asked"][name]), abs=0.01)
        row = plan[0]["sources"][name]
        assert row["asked_share"] == pytest.approx(row["share_of_tokens"], abs=0.002)


def test_shuffle_and_chunks_are_measured() -> None:
    table = table_of([16] * 400 + [200])
    one = (MixPoint(0, {"books": 1.0}),)
    straight = settings_of(mix=one, sample_length=16, steps=100, shuffle=False, packing="sequential")
    shuffle = figures(counted(table, straight)[0])["shuffle"]
    # 4 documents a chunk, taken one after the other.
    assert shuffle["neighbours_in_same_chunk"] == pytest.approx(300 / 399)
    assert shuffle["mean_neighbour_distance"] == pytest.approx(99 / 399)
    assert (shuffle["chunks"], shuffle["chunks_touched"]) == (104, 100)
    mixed = figures(counted(table, settings_of(mix=one, sample_length=16, steps=103, shuffle_tokens=2000))[0])[
        "shuffle"
    ]
    assert mixed["neighbours_in_same_chunk"] < 0.1
    assert mixed["mean_neighbour_distance"] > 10


def test_a_span_over_several_chunks_touches_all_of_them() -> None:
    table = table_of([300])
    wanted = settings_of(mix=(MixPoint(0, {"books": 1.0}),), sample_length=300, steps=1, global_batch_size=1)
    assert figures(counted(table, wanted)[0])["shuffle"]["chunks_touched"] == table.num_chunks == 5


def test_corpus_lengths_count_every_document_once() -> None:
    by_length, long_tokens = corpus_lengths(TABLE, SETTINGS)
    assert by_length.sum(axis=1).tolist() == TABLE.source_tokens.tolist()
    assert by_length[:, 8:].sum() == 0
    assert long_tokens[1:].tolist() == [0, 0]
    assert length_bucket(np.array([1, 2, 3, 4, 2**31 - 1])).tolist() == [0, 1, 1, 2, 30]
