"""A local run whose window widens: planned as it will be trained, and trained."""

import io
from typing import Any

import numpy as np
from rich.console import Console

from longspan import storage
from longspan.feed.source import Source, feed_spec
from longspan.launch.preview import preview
from longspan.launch.run import train
from longspan.launch.stage import located
from longspan.observe.metrics import read_metrics
from tests.launch.conftest import MakeRecipe

WINDOW = {"start": 3, "end": 12, "rate": 3}


def shown(tables: list[Any]) -> str:
    out = io.StringIO()
    for table in tables:
        Console(file=out, width=200).print(table)
    return out.getvalue()


def test_the_plan_measures_the_blocks(make: MakeRecipe) -> None:
    recipe = make(data={"attention_window": WINDOW}, positions={"type": "contiguous"})
    text = shown(preview(recipe))
    assert "blocks of 3 tokens in the first step, 12 in the last (12 reached at step 4 of 6), 9 on average" in text
    description = storage.read_json(storage.join(recipe.run_uri, "plan.json"))
    assert description["run"]["attention_window"] == {
        "first": 3,
        "last": 12,
        "end": 12,
        "reached_at_step": 3,
        "mean": np.mean([3, 6, 9, 12, 12, 12]),
    }
    assert description["positions"]["share_of_distances_seen"] == 11 / 255
    whole = make(positions={"type": "contiguous"})
    assert preview(whole)
    before = storage.read_json(storage.join(whole.run_uri, "plan.json"))["compute"]
    assert description["compute"]["total_flops"] < before["total_flops"]
    assert description["compute"]["full_length_flops"] == before["full_length_flops"]


def test_a_window_that_the_run_does_not_reach_is_warned_of(make: MakeRecipe) -> None:
    recipe = make(data={"attention_window": {"start": 3, "rate": 0.5}})
    text = shown(preview(recipe))
    assert "blocks of 3 tokens in the first step, 5 in the last (32 not reached), 4 on average" in text
    assert "Warning: attention window: the run ends with blocks of 5 tokens, and never trains the 32 that" in text


def test_a_run_trains_every_target_in_blocks_that_widen(make: MakeRecipe) -> None:
    recipe = make(data={"attention_window": WINDOW}, train={"steps": 4})
    assert train(recipe, show_progress=False)["finished"]
    source = Source(feed_spec(located(recipe)))
    for step, line in enumerate(read_metrics(recipe.run_uri)):
        batches = source.micro_batches([2 * step, 2 * step + 1])
        assert max(int(np.diff(batch.cu_seqlens).max()) for batch in batches) == min(12, 3 + 3 * step)
        assert line["valid_targets"] == sum(int((batch.labels >= 0).sum()) for batch in batches)
