"""A whole run with LoRA: stopped or not it gives the same model, which later stages open as any other."""

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from longspan.config.recipe import Recipe
from longspan.errors import ConfigError
from longspan.launch.run import train
from longspan.observe.metrics import read_metrics
from longspan.train import loop
from tests.launch.conftest import MakeRecipe
from tests.tiny import tiny_model_directory

LORA = {"rank": 4, "also_train": ["norm"]}
TIMES = {"tokens_per_s", "data_wait_s", "step_s", "gpu_memory_gib"}


def numbers(recipe: Recipe) -> list[dict[str, Any]]:
    return [{key: value for key, value in line.items() if key not in TIMES} for line in read_metrics(recipe.run_uri)]


def files(recipe: Recipe) -> dict[str, torch.Tensor]:
    found = load_file(Path(recipe.run_uri, "checkpoint", "model.safetensors"))
    return found | load_file(Path(recipe.run_uri, "adapter", "adapter_model.safetensors"))


@pytest.mark.parametrize(("dtype", "quantize"), [("float32", None), ("bfloat16", None), ("bfloat16", "nf4")])
def test_a_run_that_was_broken_off_ends_as_the_whole_one(
    make: MakeRecipe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, dtype: str, quantize: str | None
) -> None:
    # NF4 wants whole blocks of 64 inputs.
    sizes: dict[str, Any] = {"vocab_size": 320, "hidden_size": 64, "intermediate_size": 128, "head_dim": 16}
    path = tiny_model_directory(tmp_path / "wide", **sizes)
    lora = {**LORA, "quantize": quantize}
    model = {"path": str(path), "lora": lora, "dtype": dtype, "gradient_checkpointing": True}
    whole = make(model=model, output=tmp_path / "whole")
    assert train(whole, show_progress=False)["finished"]
    broken = make(model=model, train={"save_every": 2}, output=tmp_path / "broken")
    step = loop.train_step

    def failing(engine: Any, batches: Any, world: Any, number: int, *rest: Any) -> Any:
        if number == 4:
            raise KeyboardInterrupt
        return step(engine, batches, world, number, *rest)

    with monkeypatch.context() as patch:
        patch.setattr(loop, "train_step", failing)
        with pytest.raises(KeyboardInterrupt):
            train(broken, show_progress=False)
    assert train(broken, show_progress=False)["finished"]
    assert numbers(broken) == numbers(whole)
    found, expected = files(broken), files(whole)
    assert found.keys() == expected.keys()
    assert all(torch.equal(found[name], value) for name, value in expected.items())
    losses = [line["loss"] for line in numbers(whole)]
    assert losses[-1] < losses[0]


def test_the_next_stage_opens_it_as_any_model(make: MakeRecipe, folder: Path, tmp_path: Path) -> None:
    first = make(model={"lora": LORA}, train={"steps": 2}, output=tmp_path / "first")
    summary = train(first, show_progress=False)
    second = make(model={"path": summary["checkpoint"]}, rope={"type": "keep"}, train={"steps": 1})
    assert train(second, show_progress=False)["finished"]
    assert not Path(second.run_uri, "adapter").exists()
    base = load_file(folder / "model" / "model.safetensors")
    found = load_file(Path(summary["checkpoint"]) / "model.safetensors")
    frozen = [name for name in base if "self_attn" not in name and name != "model.norm.weight"]
    assert all(torch.equal(base[name], found[name]) for name in frozen)


def test_a_target_that_the_model_lacks_is_said_in_one_line(make: MakeRecipe) -> None:
    with pytest.raises(ConfigError, match=r"model.lora.targets: .* has no .*'wq'; it has .*q_proj"):
        train(make(model={"lora": {"targets": ["wq"]}}), show_progress=False)
