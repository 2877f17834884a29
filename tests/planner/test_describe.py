"""The description of a plan: counts that are true of the plan itself, and tables that show them."""

import io
import json
from typing import Any

import numpy as np
import pytest
from rich.console import Console

from longspan.config.recipe import Recipe
from longspan.planner.describe import describe_plan
from longspan.planner.render import render
from longspan.positions import LongRecipe, sample_positions
from longspan.rope import RopeSettings
from longspan.sampling.plan import Plan, build_plan
from tests.tiny import SIZES, tiny_recipe

SOURCE_ID = np.repeat(np.arange(3, dtype=np.int16), [40, 25, 10])
LENGTH = np.random.default_rng(5).integers(1, 200, size=75).astype(np.int32)
NAMES = ["text", "code", "unused"]
CONFIG = {**SIZES, "model_type": "llama"}
ROPE = RopeSettings("default", 50_000.0)


def make(**data: Any) -> tuple[Recipe, Plan]:
    recipe = tiny_recipe(
        "nowhere",
        data={"mix": [{"weights": {"text": 3.0, "code": 1.0}}], **data},
        train={"steps": 100},
    )
    upsample = recipe.data.upsample
    plan = build_plan(
        SOURCE_ID,
        LENGTH,
        NAMES,
        mix=[(phase.from_step, phase.weights) for phase in recipe.data.mix],
        steps=recipe.train.steps,
        global_batch_size=recipe.train.global_batch_size,
        sample_length=recipe.data.sample_length,
        upsample=(upsample.threshold, upsample.ratio) if upsample else None,
        seed=0,
    )
    return recipe, plan


def describe(rope: RopeSettings = ROPE, **data: Any) -> dict[str, Any]:
    recipe, plan = make(**data)
    samples = []
    for number in range(50):
        lengths = plan.span_length[plan.span_offsets[number] : plan.span_offsets[number + 1]]
        cu_seqlens = np.concatenate([[0], np.cumsum(lengths)])
        rng = np.random.default_rng(number)
        samples.append((sample_positions(LongRecipe(), cu_seqlens, np.arange(0, 32, 8), 256, rng), cu_seqlens))
    return describe_plan(recipe, plan, SOURCE_ID, LENGTH, CONFIG, rope, samples)


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
    description = describe(upsample={"threshold": 128, "ratio": 4.0})
    plain = describe()
    text = description["sources"]["text"]
    assert text["upsample_achieved"] == pytest.approx(4, rel=0.35)
    assert text["epochs"] < plain["sources"]["text"]["epochs"]
    for shown in (description, plain):
        lengths = shown["lengths"]
        assert sum(bucket["share_before"] for bucket in lengths) == pytest.approx(1)
        assert sum(bucket["share_after"] for bucket in lengths) == pytest.approx(1)
        assert sum(bucket["documents"] for bucket in lengths) == 75
    longest, unchanged = description["lengths"][-1], plain["lengths"][-1]
    assert (longest["from"], longest["below"]) == (128, 256)
    assert longest["share_after"] > 1.3 * longest["share_before"]
    assert unchanged["share_after"] == pytest.approx(unchanged["share_before"], rel=0.1)


def test_ratio_is_unknown_where_a_source_has_one_kind_of_document() -> None:
    assert describe(upsample={"threshold": 1, "ratio": 2.0})["sources"]["text"]["upsample_achieved"] is None
    assert describe(upsample={"threshold": 999, "ratio": 2.0})["sources"]["text"]["upsample_achieved"] is None


def test_attention_stays_in_a_document_if_masked() -> None:
    _, plan = make()
    lengths = plan.span_length.astype(float)
    assert describe()["run"]["mean_attended_length"] == pytest.approx((lengths**2).sum() / lengths.sum())
    assert describe(document_mask=False)["run"]["mean_attended_length"] == 32


def test_positions_reach_what_was_measured() -> None:
    positions = describe()["positions"]
    assert (positions["type"], positions["samples_measured"]) == ("longrecipe", 50)
    assert 200 < positions["largest_position"] < 256
    assert positions["share_of_window_reached"] == (positions["largest_position"] + 1) / 256
    assert 0 < positions["share_of_distances_seen"] <= 1


def test_the_base_is_compared_with_its_bound_where_there_is_one() -> None:
    small, large = (describe(RopeSettings("default", theta))["rope"] for theta in (2.0, 1e9))
    assert (small["is_theta_large_enough"], large["is_theta_large_enough"]) == (False, True)
    assert small["theta"] < small["theta_lower_bound"] == large["theta_lower_bound"] < large["theta"]
    assert 0 < small["first_negative_distance"] < 256
    assert large["first_negative_distance"] is None
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
    console = Console(file=shown, width=140)
    for rope in (
        RopeSettings("default", 2.0),
        RopeSettings("yarn", 500.0, factor=4.0, original_max_position_embeddings=64),
    ):
        for table in render(describe(rope, upsample={"threshold": 128, "ratio": 4.0})):
            console.print(table)
    text = shown.getvalue()
    for part in (
        "Plan of tiny",
        "400 of 32 tokens",
        "TOO SMALL; lower bound",
        "yarn, theta 500, factor 4",
        "75.0%",
        "128 to 255",
    ):
        assert part in text
    assert "unused" not in text
