"""LongLoRA's LoRA+: the embedding and every norm trained beside the matrices, exported, folded and filed with them."""

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from longspan.checkpoint.adapter import CONFIG_FILE, WEIGHTS_FILE
from longspan.checkpoint.export import export_model
from longspan.train.world import World, join_world, start_single_process
from tests.checkpoint.test_adapter import Run, plain_logits, recipe_for
from tests.tiny import tiny_model_directory

ALL = {
    "llama": ["embed_tokens", "norm", "input_layernorm", "post_attention_layernorm"],
    "qwen3": ["embed_tokens", "norm", "input_layernorm", "post_attention_layernorm", "q_norm", "k_norm"],
}
TARGETS = ["q_proj", "k_proj", "v_proj", "o_proj"]


@pytest.fixture(scope="module")
def world() -> World:
    start_single_process(use_gpu=False)
    return join_world(1, use_gpu=False)


@pytest.mark.parametrize(("family", "zero"), [("llama", 1), ("qwen3", 3)])
def test_embedding_and_norms_are_trained_exported_and_filed(
    tmp_path: Path, world: World, family: str, zero: int
) -> None:
    base = tiny_model_directory(tmp_path / "model", family)
    recipe = recipe_for(base, zero, targets=TARGETS, also_train=ALL[family])
    run = Run(recipe, world, str(tmp_path / "run"))
    for _ in range(3):
        run.step()
    target = tmp_path / "run" / "checkpoint"
    export_model(run.engine, run.settings, torch.float32, str(target))
    torch.testing.assert_close(plain_logits(target), run.logits(), rtol=0, atol=1e-5)
    run.engine.destroy()
    before, after = load_file(base / "model.safetensors"), load_file(target / "model.safetensors")
    moved = {name for name in before if not torch.equal(before[name], after[name])}
    norms = {name for name in before if "norm" in name}
    attention = {name for name in before if name.split(".")[-2] in TARGETS}
    assert moved == {"model.embed_tokens.weight", *norms, *attention}
    assert len(norms) == (9 if family == "qwen3" else 5)

    # The adapter's own files, by the rule that peft reads them by, make the same model of the base.
    stored = load_file(tmp_path / "run" / "adapter" / WEIGHTS_FILE)
    config = json.loads((tmp_path / "run" / "adapter" / CONFIG_FILE).read_text())
    whole = {name.removesuffix(".weight") for name in moved - attention}
    assert set(config["modules_to_save"]) == whole
    again = dict(before)
    for name in attention:
        module = f"base_model.model.{name.removesuffix('.weight')}"
        again[name] = before[name] + 2 * stored[f"{module}.lora_B.weight"] @ stored[f"{module}.lora_A.weight"]
    again |= {f"{name}.weight": stored[f"base_model.model.{name}.weight"] for name in whole}
    for name, value in after.items():
        torch.testing.assert_close(again[name], value, rtol=1e-5, atol=1e-6)
