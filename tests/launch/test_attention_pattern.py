"""A local run under shifted sparse attention with LongLoRA's trained parts: cheaper by plan, whole once exported."""

import io
from typing import Any

import pytest
import torch
from rich.console import Console

from longspan import storage
from longspan.errors import TopologyError
from longspan.launch.preview import preview
from longspan.launch.run import train
from longspan.launch.stage import check_recipe, located
from longspan.observe.metrics import read_metrics
from tests.launch.conftest import MakeRecipe
from tests.tiny import tiny_model_directory

LORA = {"rank": 4, "also_train": ["embed_tokens", "norm", "input_layernorm", "post_attention_layernorm"]}
S2 = {"type": "s2", "groups": 4}


def test_the_plan_says_the_groups_and_counts_them(make: MakeRecipe) -> None:
    def described(pattern: Any) -> tuple[dict[str, Any], str]:
        recipe, out = make(model={"attention_pattern": pattern}), io.StringIO()
        for table in preview(recipe):
            Console(file=out, width=200).print(table)
        return storage.read_json(storage.join(recipe.run_uri, "plan.json")), out.getvalue()

    (whole, plain_text), (grouped, text) = described(None), described(S2)
    assert "in shifted groups of 8 tokens while training, whole afterwards" in text
    assert "shifted groups" not in plain_text
    assert (whole["run"]["attention_group"], grouped["run"]["attention_group"]) == (None, 8)
    # 6 L d S of attention, S the group: a quarter of it is left.
    attention = 6 * 2 * 4 * 8 * 32
    assert whole["compute"]["flops_per_token"] - grouped["compute"]["flops_per_token"] == attention * 3 / 4
    assert grouped["compute"]["full_length_flops"] == whole["compute"]["full_length_flops"]


def test_a_run_trains_in_groups_and_exports_a_plain_model(make: MakeRecipe, tmp_path: Any) -> None:
    from transformers import AutoModelForCausalLM

    settings = {"learning_rate": 1e-30, "steps": 2}
    runs = {
        name: make(model={"attention_pattern": pattern, "lora": LORA}, train=settings, output=tmp_path / name)
        for name, pattern in (("whole", None), ("grouped", S2))
    }
    checkpoints = {name: train(recipe, show_progress=False)["checkpoint"] for name, recipe in runs.items()}
    first = {name: read_metrics(recipe.run_uri)[0]["loss"] for name, recipe in runs.items()}
    assert first["whole"] != pytest.approx(first["grouped"], rel=1e-6)
    # At no learning rate both exports are the model that was trained, and nothing of the groups is left in it.
    ids = torch.arange(64)[None] * 7 % 320
    with torch.no_grad():
        logits = [AutoModelForCausalLM.from_pretrained(path)(input_ids=ids).logits for path in checkpoints.values()]
    assert torch.equal(*logits)


def test_heads_that_do_not_halve_stop_before_anything_is_written(make: MakeRecipe, tmp_path: Any) -> None:
    path = tiny_model_directory(tmp_path / "mqa", vocab_size=320, num_key_value_heads=1)
    recipe = located(make(model={"path": str(path), "attention_pattern": S2}))
    with pytest.raises(
        TopologyError, match=r"model\.attention_pattern: the model's num_key_value_heads 1 do not halve"
    ):
        check_recipe(recipe)
