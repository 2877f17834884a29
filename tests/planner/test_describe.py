"""The description of a plan: counts that are true of the plan itself, and tables that show them."""

import io
import json
from collections import Counter
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from rich.console import Console

from longspan.config.recipe import Recipe
from longspan.planner.data import all_lengths, documents_in_samples, source_figures, tokens_in_samples
from longspan.planner.describe import describe_plan
from longspan.planner.render import render
from longspan.planner.settings import plan_settings
from longspan.positions import LongRecipe, sample_positions
from longspan.rope import RopeSettings, first_negative_distance, theta_lower_bound
from longspan.sampling.plan import PlanPart, plan_parts
from longspan.sampling.statistics import figures, open_statistics
from longspan.sampling.table import CorpusTable
from tests.tiny import SIZES, tiny_recipe

SOURCE_ID = np.repeat(np.arange(3, dtype=np.int16), [40, 25, 10])
LENGTH = np.random.default_rng(5).integers(1, 200, size=75).astype(np.int32)
NAMES = ["text", "code", "unused"]
TABLE = CorpusTable.from_lengths(SOURCE_ID, LENGTH, NAMES, chunk_tokens=500)
CONFIG = {**SIZES, "model_type": "llama"}
ROPE = RopeSettings("default", 50_000.0)


def histogram(length: NDArray[np.int32]) -> dict[int, int]:
    return dict(Counter(1 << (size.bit_length() - 1) for size in length.tolist()))


DOCUMENTS = {name: histogram(LENGTH[number == SOURCE_ID]) for number, name in enumerate(NAMES)}


def make(train: dict[str, Any] | None = None, **data: Any) -> tuple[Recipe, list[PlanPart]]:
    data = {"mix": [{"weights": {"text": 3.0, "code": 1.0}}], "packing": "sequential", **data}
    positions = {"type": "contiguous" if "interleave" in data else "longrecipe"}
    recipe = tiny_recipe("nowhere", data=data, positions=positions, train={"steps": 100, **(train or {})})
    return recipe, list(plan_parts(TABLE, plan_settings(recipe, NAMES), part_samples=37))


def describe(rope: RopeSettings = ROPE, train: dict[str, Any] | None = None, **data: Any) -> dict[str, Any]:
    recipe, parts = make(train, **data)
    statistics = open_statistics(TABLE, plan_settings(recipe, NAMES))
    for part in parts:
        statistics.add(part)
    shapes = sum((documents_in_samples(part) for part in parts), np.zeros(32, np.int64))
    samples = []
    for number, lengths in enumerate(samples_of(parts)[:50]):
        cu_seqlens = np.concatenate([[0], np.cumsum(lengths)])
        rng = np.random.default_rng(number)
        starts = np.arange(0, cu_seqlens[-1], 8)
        samples.append((sample_positions(LongRecipe(), cu_seqlens, starts, 256, rng), cu_seqlens))
    sizes = sum((tokens_in_samples(part, recipe.data.plan_length) for part in parts), np.zeros(1, np.int64))
    return describe_plan(recipe, statistics, shapes, sizes, DOCUMENTS, CONFIG, rope, samples)


def samples_of(parts: list[PlanPart]) -> list[NDArray[np.int32]]:
    """Lengths of the spans of every sample."""
    return [lengths for part in parts for lengths in np.split(part.length, part.span_offsets[1:-1])]


def test_is_plain_json() -> None:
    description = describe()
    assert json.loads(json.dumps(description)) == description


def test_counts_are_those_of_the_plan() -> None:
    description = describe()
    assert description["run"]["samples"] == 400
    assert description["run"]["tokens"] == 400 * 32
    assert list(description["sources"]) == ["text", "code"]
    text = description["sources"]["text"]
    assert (text["documents"], text["tokens"]) == (40, LENGTH[:40].sum())
    assert (text["samples"], text["share_asked"], text["share_achieved"]) == (300, 0.75, 0.75)
    assert text["epochs"] == pytest.approx(300 * 32 / LENGTH[:40].sum())
    assert text["upsample_achieved"] is None


def test_asked_share_is_averaged_over_the_phases() -> None:
    mix = [{"weights": {"text": 1.0}}, {"from_step": 25, "weights": {"text": 1.0, "code": 1.0}}]
    sources = describe(mix=mix)["sources"]
    assert sources["text"]["share_asked"] == sources["text"]["share_achieved"] == 0.25 + 0.75 / 2
    assert sources["code"]["share_asked"] == 0.375


def test_upsampling_shows_in_ratio_lengths_and_epochs() -> None:
    by_source = {"code": {"ratio": 1}}
    description = describe(upsample={"threshold": 128, "ratio": 4.0, "by_source": by_source})
    plain = describe()
    text, code = description["sources"]["text"], description["sources"]["code"]
    assert text["upsample_achieved"] == pytest.approx(4, rel=0.35)
    assert (text["upsample_threshold"], text["upsample_asked"]) == (128, 4)
    assert (code["upsample_asked"], code["upsample_achieved"]) == (None, None)
    assert text["epochs"] < plain["sources"]["text"]["epochs"]
    assert code["epochs"] == plain["sources"]["code"]["epochs"]
    for shown in (description, plain):
        for lengths in (shown["lengths"], *(source["lengths"] for source in shown["sources"].values())):
            assert sum(bucket["share_before"] for bucket in lengths) == pytest.approx(1)
            assert sum(bucket["share_after"] for bucket in lengths) == pytest.approx(1)
        assert sum(bucket["documents"] for bucket in shown["lengths"]) == 65
    for lengths in (description["lengths"], text["lengths"]):
        assert (lengths[-1]["from"], lengths[-1]["below"]) == (128, 256)
        assert lengths[-1]["share_after"] > 1.3 * lengths[-1]["share_before"]
    assert plain["lengths"][-1]["share_after"] == pytest.approx(plain["lengths"][-1]["share_before"], rel=0.1)


@pytest.mark.parametrize("packing", ["best_fit", "sequential"])
def test_lengths_are_those_counted_one_document_at_a_time(packing: str) -> None:
    changes: dict[str, Any] = {"packing": packing, "upsample": {"threshold": 100, "ratio": 3.0}}
    _, parts = make(**changes)
    drawn: Counter[tuple[str, int]] = Counter()
    for part in parts:
        sources = np.repeat(part.source, np.diff(part.span_offsets))
        for source, document, length in zip(sources, part.document, part.length, strict=True):
            assert SOURCE_ID[document] == source
            drawn[NAMES[source], 1 << (int(LENGTH[document]).bit_length() - 1)] += int(length)
    description = describe(**changes)
    for name in ("text", "code"):
        own = LENGTH[NAMES.index(name) == SOURCE_ID]
        assert description["sources"][name]["tokens_drawn"] == sum(n for (s, _), n in drawn.items() if s == name)
        for bucket in description["sources"][name]["lengths"]:
            inside = own[(own >= bucket["from"]) & (own < bucket["below"])]
            assert (bucket["documents"], bucket["tokens"]) == (inside.size, inside.sum())
            assert bucket["tokens_drawn"] == drawn[name, bucket["from"]]
            assert bucket["times_drawn"] == bucket["tokens_drawn"] / max(bucket["tokens"], 1)
    for bucket in description["lengths"]:
        assert bucket["tokens_drawn"] == drawn["text", bucket["from"]] + drawn["code", bucket["from"]]


def test_lengths_without_a_document_stay_in_sight() -> None:
    """Documents of 3 and of 70 tokens: the buckets between them are there, and empty."""
    table = CorpusTable.from_lengths([0] * 4, [3, 70, 70, 3], ["text"])
    recipe = tiny_recipe("nowhere")
    settings = plan_settings(recipe, ["text"])
    statistics = open_statistics(table, settings)
    for part in plan_parts(table, settings):
        statistics.add(part)
    found = source_figures(figures(statistics), settings, {"text": {2: 2, 64: 2}})
    for lengths in (found["text"]["lengths"], all_lengths(found)):
        assert [(bucket["from"], bucket["documents"]) for bucket in lengths] == [
            (2, 2), (4, 0), (8, 0), (16, 0), (32, 0), (64, 2),
        ]  # fmt: skip
        assert sum(bucket["share_after"] for bucket in lengths) == pytest.approx(1)


@pytest.mark.parametrize("packing", ["best_fit", "sequential"])
def test_packing_is_that_of_the_samples(packing: str) -> None:
    _, parts = make(packing=packing)
    samples, description = samples_of(parts), describe(packing=packing)
    used = sum(int(lengths.sum()) for lengths in samples)
    run, found = description["run"], description["packing"]
    assert run["tokens"] == used
    assert run["padding_share"] == found["padding_share"] == pytest.approx(1 - used / (400 * 32))
    assert found["padding_tokens"] == 400 * 32 - used
    assert run["documents_per_sample"] == pytest.approx(sum(lengths.size for lengths in samples) / 400)
    assert sum(bucket["samples"] for bucket in found["documents_histogram"]) == 400
    for bucket in found["documents_histogram"]:
        assert bucket["samples"] == sum(bucket["from"] <= lengths.size < bucket["below"] for lengths in samples)


def test_the_mix_is_shown_bin_by_bin() -> None:
    mix = [{"weights": {"text": 1.0}, "ramp": True}, {"from_step": 50, "weights": {"code": 1.0}}]
    _, parts = make({"steps": 100, "global_batch_size": 32}, mix=mix)
    description = describe(train={"steps": 100, "global_batch_size": 32}, mix=mix)
    source = np.concatenate([part.source for part in parts])
    assert [part["from_step"] for part in description["mix"]] == list(range(100))
    assert description["mix"][-1]["below_step"] == 100
    for part in description["mix"]:
        own = source[part["from_step"] * 32 : part["below_step"] * 32]
        asked = max(0.0, 1 - (part["from_step"] + 0.5) / 50)
        assert part["asked"] == pytest.approx({"text": asked, "code": 1 - asked})
        assert part["achieved"] == {"text": (own == 0).mean(), "code": (own == 1).mean()}


def test_what_deserves_a_second_look_is_said() -> None:
    limit = {"by_source": {"code": 90.0}}
    texts = describe(RopeSettings("default", 2.0), packing="best_fit", sample_length=150, repetition=limit)["warnings"]
    assert [text.split(":")[0] for text in texts] == ["padding", "repetition", "repetition", "rope"]
    assert "data.packing: sequential has none" in texts[0]
    assert "code is read" in texts[2]
    assert "limit it with data.repetition.by_source.code" in texts[2]
    assert "inside the target window of 256; use" in texts[3]
    assert describe(RopeSettings("default", 1e9), train={"steps": 20})["warnings"] == []


def test_interleaving_is_shown_and_needs_documents_to_mix() -> None:
    short = describe(RopeSettings("default", 1e9), train={"steps": 20}, interleave={"method": "utk"})
    assert short["run"]["documents_per_sample"] < 2
    assert [text.split(" holds")[0] for text in short["warnings"]] == ["interleave: a sample"]
    assert "data.sample_length" in short["warnings"][0]
    changes: dict[str, Any] = {"sample_length": 256, "train": {"steps": 2}, "interleave": {}, "document_mask": False}
    long = describe(RopeSettings("default", 1e9), **changes)
    assert long["warnings"] == []
    assert long["run"]["mean_attended_length"] == 256
    shown = io.StringIO()
    for table in render(long):
        Console(file=shown, width=160).print(table)
    assert "contiguous, chunks interleaved (cip), over" in shown.getvalue()


def test_limits_stand_beside_the_epochs() -> None:
    sources = describe(repetition={"max_epochs": 50, "by_source": {"code": 60.0}})["sources"]
    assert (sources["text"]["max_epochs"], sources["code"]["max_epochs"]) == (50, 60)
    spread = describe(repetition={"by_source": {"text": 1.0}, "on_limit": "spread"})["sources"]
    assert spread["text"]["epochs"] <= 1
    assert spread["text"]["share_achieved"] < spread["text"]["share_asked"] == 0.75
    assert spread["code"]["share_achieved"] > spread["code"]["share_asked"] == 0.25


def test_ratio_is_unknown_where_a_source_has_one_kind_of_document() -> None:
    assert describe(upsample={"threshold": 1, "ratio": 2.0})["sources"]["text"]["upsample_achieved"] is None
    assert describe(upsample={"threshold": 999, "ratio": 2.0})["sources"]["text"]["upsample_achieved"] is None


@pytest.mark.parametrize("packing", ["best_fit", "sequential"])
def test_what_is_trained_is_told_from_what_is_read(packing: str) -> None:
    """Samples of 150 tokens are read, 32 of each are trained; FLOPs are those of the trained ones."""
    selection = {"mode": "uniform", "from_length": 150}
    changes: dict[str, Any] = {"packing": packing, "selection": selection, "repetition": {"max_epochs": 100}}
    _, parts = make(**changes)
    sizes = np.array([int(lengths.sum()) for lengths in samples_of(parts)])
    description = describe(RopeSettings("default", 1e9), **changes)
    run = description["run"]
    assert (run["selection"], run["sample_length"], run["plan_length"]) == ("uniform", 32, 150)
    assert run["tokens"] == np.minimum(sizes, 32).sum()
    assert run["tokens_read"] == sizes.sum()
    assert run["share_kept"] == run["tokens"] / run["tokens_read"]
    assert run["padding_share"] == pytest.approx(1 - run["tokens"] / (400 * 32))
    assert description["packing"]["padding_share"] == pytest.approx(1 - sizes.sum() / (400 * 150))
    compute, plain = description["compute"], describe(RopeSettings("default", 1e9))
    assert compute == plain["compute"]
    assert plain["run"]["share_kept"] == 1
    assert plain["run"]["tokens"] == plain["run"]["tokens_read"] == 400 * 32
    assert sum(source["tokens_drawn"] for source in description["sources"].values()) == sizes.sum()
    shown = io.StringIO()
    Console(file=shown, width=160).print(next(iter(render(description))))
    lines = {line.split("│")[1].strip(): line for line in shown.getvalue().splitlines() if line.startswith("│")}
    assert "400 of 32 tokens" in lines["samples"]
    assert "150 tokens each (uniform)" in lines["selected from"]
    assert f"{sizes.sum():,} (" in lines["tokens read"]
    assert f"{run['share_kept']:.1%} are trained" in lines["tokens read"]
    assert f"{run['tokens']:,} (full" in lines["tokens trained"]
    assert {"packing trained", "documents a sample read"} <= set(lines)


def test_attention_stays_in_a_document_if_masked() -> None:
    lengths = np.concatenate([part.length for part in make()[1]]).astype(float)
    assert describe()["run"]["mean_attended_length"] == pytest.approx((lengths**2).sum() / lengths.sum())
    assert describe(document_mask=False)["run"]["mean_attended_length"] == 32


def test_positions_reach_what_was_measured() -> None:
    positions = describe()["positions"]
    assert (positions["type"], positions["samples_measured"]) == ("longrecipe", 50)
    assert 200 < positions["largest_position"] < 256
    assert positions["share_of_window_reached"] == (positions["largest_position"] + 1) / 256
    assert 0 < positions["share_of_distances_seen"] <= 1
    assert len(positions["distance_edges"]) == len(positions["distance_shares"]) + 1
    assert sum(positions["distance_shares"]) == pytest.approx(1)


def test_the_base_is_compared_with_its_bound_where_there_is_one() -> None:
    small, large = (describe(RopeSettings("default", theta))["rope"] for theta in (2.0, 1e9))
    assert (small["is_theta_large_enough"], large["is_theta_large_enough"]) == (False, True)
    assert small["theta"] < small["theta_lower_bound"] == large["theta_lower_bound"] < large["theta"]
    assert 0 < small["first_negative_distance"] < 256
    assert large["first_negative_distance"] is None
    # Heads of 8 dimensions, of which half are rotated.
    partial = describe(RopeSettings("default", 30.0, partial_rotary_factor=0.5))["rope"]
    assert partial["theta_lower_bound"] == theta_lower_bound(256, 4) != large["theta_lower_bound"]
    assert partial["first_negative_distance"] == first_negative_distance(30.0, 256, 4)
    assert partial["first_negative_distance"] != first_negative_distance(30.0, 256, 8)
    scaled = describe(RopeSettings("linear", 500.0, factor=4.0))["rope"]
    assert (scaled["factor"], scaled["theta_lower_bound"], scaled["is_theta_large_enough"]) == (4.0, None, None)


def test_costs_are_set_against_full_length_training() -> None:
    description = describe()
    compute = description["compute"]
    assert compute["total_flops"] == 400 * 32 * compute["flops_per_token"]
    assert compute["full_length_tokens"] == 400 * 256
    assert compute["full_length_flops"] == 400 * 256 * compute["full_length_flops_per_token"]
    assert compute["share_saved"] == pytest.approx(1 - compute["total_flops"] / compute["full_length_flops"])
    assert compute["share_saved"] > 1 - 32 / 256
    memory = description["memory"]
    assert memory["total"] == sum(size for name, size in memory.items() if name != "total")


def test_tables_show_the_numbers() -> None:
    shown = io.StringIO()
    console = Console(file=shown, width=160)
    mix = [{"weights": {"text": 3, "code": 1}, "ramp": True}, {"from_step": 99, "weights": {"text": 3, "code": 1.001}}]
    changes: dict[str, Any] = {"upsample": {"threshold": 128, "ratio": 4.0}, "repetition": {"max_epochs": 70}}
    for rope in (
        RopeSettings("default", 2.0),
        RopeSettings("yarn", 500.0, factor=4.0, original_max_position_embeddings=64),
        RopeSettings(
            "longrope",
            500.0,
            factor=4.0,
            original_max_position_embeddings=64,
            short_factor=(1.0,) * 4,
            long_factor=(4.0,) * 4,
        ),
    ):
        for table in render(describe(rope, **changes)):
            console.print(table)
    assert "Mix of tokens" not in shown.getvalue()
    for table in render(describe(mix=mix)):
        console.print(table)
    text = shown.getvalue()
    for part in (
        "Plan of tiny",
        "400 of 32 tokens",
        "TOO SMALL; lower bound",
        "yarn, theta 500, factor 4",
        "75.0%",
        "128 to 255",
        "sequential, no padding",
        "in blocks of 32,000,000 tokens",
        " of 70 ",
        "x of 4x",
        "Warning: rope: with theta 2",
        "To serve it: vLLM serves 64 tokens unless it is given --max-model-len 256",
        "in the source > in the plan",
        "Mix of tokens in the plan (asked)",
        "90 to 99",
        "of neighbours come from one chunk",
    ):
        assert part in text
    assert "unused" not in text
