"""A run with LoRA saved, gone on with, exported and read back: its state is what is trained, its result plain."""

import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from longspan.checkpoint.adapter import CONFIG_FILE, WEIGHTS_FILE, fold, write_adapter
from longspan.checkpoint.beside import Beside
from longspan.checkpoint.card import as_file
from longspan.checkpoint.export import export_model
from longspan.checkpoint.state import (
    MOMENTS,
    StoredState,
    find_resume,
    load_optimizer,
    load_weights,
    save_state,
    trained_parameters,
)
from longspan.config.recipe import Recipe
from longspan.errors import CheckpointError, ConfigError
from longspan.model.attention import Documents
from longspan.model.load import open_model
from longspan.model.lora import Adapter, adapter_of, is_lora_matrix
from longspan.model.loss import CausalLMLoss
from longspan.train.engine import attention_layout, build_engine
from longspan.train.exchange import share
from longspan.train.step import train_step
from longspan.train.world import World, join_world, start_single_process
from tests.checkpoint.state_case import RUN, micro_batches
from tests.tiny import tiny_model_directory, tiny_recipe

LORA = {"rank": 3, "alpha": 6, "targets": ["q_proj", "o_proj", "up_proj"], "also_train": ["norm", "embed_tokens"]}
IDS = torch.arange(40)[None] * 7 % 96


@pytest.fixture(scope="module")
def world() -> World:
    start_single_process(use_gpu=False)
    return join_world(1, use_gpu=False)


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_model_directory(tmp_path_factory.mktemp("adapter") / "model", "qwen2")


def recipe_for(base: Path, zero: int, dtype: str = "float32", **changes: Any) -> Recipe:
    return tiny_recipe(
        base,
        model={"dtype": dtype, "lora": {**LORA, **changes}},
        data={"sample_length": 12, "target_length": 512},
        train={"global_batch_size": 6, "micro_batch_size": 1, "zero_stage": zero},
    )


class Run:
    """An engine on one rank, from the commit of `run_uri` if there is one."""

    def __init__(self, recipe: Recipe, world: World, run_uri: str) -> None:
        commit = find_resume(run_uri, RUN)
        network, self.settings = open_model(recipe.model, recipe.rope, recipe.data.target_length, seed=0)
        forward = CausalLMLoss(network, recipe.train.loss_chunk).train()
        stored = StoredState(run_uri, commit) if commit else None
        if stored:
            load_weights(forward, stored)
        self.engine = build_engine(forward, self.settings, recipe, world)
        self.done = commit.step if commit else 0
        if stored:
            load_optimizer(self.engine, stored, self.done)
        self.world, self.layout = world, attention_layout(forward, recipe, world)

    def step(self) -> float:
        batches = [share(batch, self.world, self.layout) for batch in micro_batches(self.done)]
        self.done += 1
        return train_step(self.engine, batches, self.world, self.done, 1e-2).loss

    def state(self) -> dict[str, Tensor]:
        from deepspeed.utils import safe_get_full_fp32_param, safe_get_full_optimizer_state

        found = {}
        for name, parameter in trained_parameters(self.engine.module).items():
            found[name] = safe_get_full_fp32_param(parameter).detach().clone()
            found |= {f"{key}/{name}": safe_get_full_optimizer_state(parameter, key).clone() for key in MOMENTS}
        return found

    def logits(self) -> Tensor:
        forward = self.engine.module
        positions = torch.arange(IDS.shape[1], dtype=torch.float32)[None]
        with torch.no_grad():
            hidden = forward.hidden_states(IDS, positions, Documents((0, IDS.shape[1])))
            return forward.model.get_output_embeddings()(hidden)[0]


def same(left: dict[str, Tensor], right: dict[str, Tensor]) -> bool:
    return left.keys() == right.keys() and all(torch.equal(value, right[name]) for name, value in left.items())


def plain_logits(checkpoint: Path) -> Tensor:
    from transformers import AutoModelForCausalLM

    with torch.no_grad():
        return AutoModelForCausalLM.from_pretrained(checkpoint, attn_implementation="sdpa")(input_ids=IDS).logits[0]


@pytest.mark.parametrize(
    ("zero", "then", "dtype"), [(1, 1, "bfloat16"), (3, 3, "bfloat16"), (1, 3, "float32"), (3, 1, "float32")]
)
def test_the_trained_part_comes_back_under_any_stage(
    tmp_path: Path, base: Path, world: World, zero: int, then: int, dtype: str
) -> None:
    uri = str(tmp_path / "run")
    run = Run(recipe_for(base, zero, dtype), world, uri)
    run.step()
    run.step()
    commit = save_state(run.engine, uri, run.done, 12, RUN, 2)
    saved, loss = run.state(), run.step()
    names = set(StoredState(uri, commit).names())
    assert names == {name for name in saved if "/" not in name}
    assert {name for name in names if not is_lora_matrix(name)} == {
        "model.model.embed_tokens.weight",
        "model.model.norm.weight",
    }
    again = Run(recipe_for(base, then, dtype), world, uri)
    assert again.done == 2
    assert same(again.state(), saved)
    assert again.step() == loss
    if zero == then:
        assert same(again.state(), run.state())
    for name, value in again.state().items():  # the stages sum the gradient norm in another order
        torch.testing.assert_close(value, run.state()[name], rtol=1e-3, atol=1e-4)
    for engine in (run.engine, again.engine):
        engine.destroy()


def test_a_checkpoint_of_other_targets_is_refused(tmp_path: Path, base: Path, world: World) -> None:
    uri = str(tmp_path / "run")
    run = Run(recipe_for(base, 1), world, uri)
    run.step()
    save_state(run.engine, uri, 1, 6, RUN, 2)
    run.engine.destroy()
    with pytest.raises(CheckpointError, match=r"differ in parameter model.model.layers.0.mlp.up_proj.lora_a"):
        Run(recipe_for(base, 1, targets=["q_proj", "o_proj"]), world, uri)


@pytest.mark.parametrize("zero", [1, 3])
def test_the_export_is_a_plain_model_and_only_what_is_trained_moved(
    tmp_path: Path, base: Path, world: World, zero: int
) -> None:
    run = Run(recipe_for(base, zero), world, str(tmp_path / "run"))
    for _ in range(3):
        run.step()
    target = tmp_path / "run" / "checkpoint"
    beside = Beside(None, as_file("of the checkpoint"), as_file("of the adapter"))
    export_model(run.engine, run.settings, torch.float32, str(target), beside)
    torch.testing.assert_close(plain_logits(target), run.logits(), rtol=0, atol=1e-5)
    folder = tmp_path / "run" / "adapter"
    assert (folder / "config.json").read_bytes() == (target / "config.json").read_bytes()
    assert (folder / "README.md").read_text() == "of the adapter"
    before, after = load_file(base / "model.safetensors"), load_file(target / "model.safetensors")
    moved = {name for name in before if not torch.equal(before[name], after[name])}
    assert before.keys() == after.keys()
    layers = ("self_attn.q_proj", "self_attn.o_proj", "mlp.up_proj")
    assert moved == {
        "model.embed_tokens.weight",
        "model.norm.weight",
        *(f"model.layers.{number}.{layer}.weight" for number in (0, 1) for layer in layers),
    }
    stored = load_file(tmp_path / "run" / "adapter" / WEIGHTS_FILE)
    masters = {name: value for name, value in run.state().items() if "/" not in name}
    assert {as_peft_names(name): value.sum().item() for name, value in masters.items()} == {
        name: value.sum().item() for name, value in stored.items()
    }
    run.engine.destroy()


def as_peft_names(name: str) -> str:
    """By peft's checkpoint format guide: a prefix, and two linear layers beside each target."""
    short = name.removeprefix("model.").replace("lora_a", "lora_A.weight").replace("lora_b", "lora_B.weight")
    return f"base_model.model.{short}"


def adapted(base: Path, **changes: Any) -> tuple[Adapter, dict[str, Tensor]]:
    """An adapter with random matrices, and the weights with them."""
    recipe = recipe_for(base, 1, **changes)
    network, _ = open_model(recipe.model, recipe.rope, 512, seed=0)
    generator = torch.Generator().manual_seed(1)
    for parameter in trained_parameters(network).values():
        parameter.data = torch.randn(parameter.shape, generator=generator)
    adapter = adapter_of(network)
    assert adapter is not None
    return adapter, {name: parameter.detach().clone() for name, parameter in network.named_parameters()}


def test_the_adapter_files_say_all_that_is_needed(tmp_path: Path, base: Path) -> None:
    adapter, weights = adapted(base)
    write_adapter(adapter, weights, str(tmp_path))
    config = json.loads((tmp_path / CONFIG_FILE).read_text())
    assert (config["peft_type"], config["task_type"]) == ("LORA", "CAUSAL_LM")
    assert (config["r"], config["lora_alpha"], config["base_model_name_or_path"]) == (3, 6, str(base))
    assert (config["target_modules"], config["modules_to_save"]) == (
        LORA["targets"],
        ["model.embed_tokens", "model.norm"],
    )
    stored = load_file(tmp_path / WEIGHTS_FILE)
    # From the files alone, by the rule that they follow: the folded model.
    again = load_file(base / "model.safetensors")
    prefix = "base_model.model."
    for name in [name for name in stored if name.endswith("lora_A.weight")]:
        layer = name.removeprefix(prefix).removesuffix(".lora_A.weight")
        assert any(layer.endswith(f".{target}") for target in config["target_modules"])
        product = stored[name.replace("lora_A", "lora_B")] @ stored[name]
        again[f"{layer}.weight"] += config["lora_alpha"] / config["r"] * product
    again |= {name.removeprefix(prefix): value for name, value in stored.items() if "lora_" not in name}
    folded = fold(adapter, weights, torch.float32)
    assert folded.keys() == again.keys()
    for name, value in folded.items():
        torch.testing.assert_close(value, again[name], rtol=1e-5, atol=1e-6)


def test_a_tied_head_goes_with_its_embedding(tmp_path: Path) -> None:
    tied = tiny_model_directory(tmp_path / "model", tie_word_embeddings=True)
    adapter, weights = adapted(tied)
    write_adapter(adapter, weights, str(tmp_path / "adapter"))
    stored = load_file(tmp_path / "adapter" / WEIGHTS_FILE)
    config = json.loads((tmp_path / "adapter" / CONFIG_FILE).read_text())
    assert config["modules_to_save"] == ["model.embed_tokens", "model.norm", "lm_head"]
    embedding = weights["model.embed_tokens.weight"]
    assert torch.equal(stored["base_model.model.lm_head.weight"], embedding)
    assert torch.equal(stored["base_model.model.model.embed_tokens.weight"], embedding)


def test_an_adapter_of_matrices_alone_saves_no_modules(tmp_path: Path, base: Path) -> None:
    write_adapter(*adapted(base, also_train=[]), str(tmp_path))
    assert json.loads((tmp_path / CONFIG_FILE).read_text())["modules_to_save"] is None
    assert all("lora_" in name for name in load_file(tmp_path / WEIGHTS_FILE))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_weights_held_in_four_bits_are_read_again_from_their_files(base: Path, dtype: torch.dtype) -> None:
    adapter, weights = adapted(base)
    expected = fold(adapter, dict(weights), dtype)
    linears = {name for name in weights if ".layers." in name and name.endswith("_proj.weight")}
    linears |= {f"{target}.base.weight" for target in adapter.targets}
    assert len(linears) == 2 * 7
    held = {name: value for name, value in weights.items() if name not in linears}
    assert same(fold(dataclasses.replace(adapter, quantised=frozenset(linears)), held, dtype), expected)


@pytest.mark.parametrize(("zero", "dtype"), [(1, "float32"), (2, "bfloat16")])
def test_four_bits_stay_and_the_export_is_of_the_weights_before(
    tmp_path: Path, world: World, zero: int, dtype: str
) -> None:
    from bitsandbytes.functional import dequantize_4bit

    sizes = {"hidden_size": 64, "intermediate_size": 128, "head_dim": 16}
    wide = tiny_model_directory(tmp_path / "model", "qwen2", **sizes)
    run = Run(recipe_for(wide, zero, dtype, quantize="nf4"), world, str(tmp_path / "run"))
    held = {name: p for name, p in run.engine.module.named_parameters() if p.dtype == torch.uint8}
    assert len(held) == 2 * 7
    before = {name: parameter.detach().clone() for name, parameter in held.items()}
    for _ in range(4):
        run.step()
    assert all(torch.equal(held[name], value) for name, value in before.items())
    values = {name: dequantize_4bit(value.data, value.quant_state).float() for name, value in held.items()}
    masters = {name: value for name, value in run.state().items() if "/" not in name}
    assert all(is_lora_matrix(name) or name.endswith(("norm.weight", "embed_tokens.weight")) for name in masters)
    export_model(run.engine, run.settings, torch.float32, str(tmp_path / "run" / "checkpoint"))
    run.engine.destroy()
    originals = load_file(wide / "model.safetensors")
    result = load_file(tmp_path / "run" / "checkpoint" / "model.safetensors")
    for name, value in values.items():
        plain = name.removeprefix("model.").replace(".base.", ".")
        matrices = [masters.get(name.replace("base.weight", key)) for key in ("lora_b", "lora_a")]
        moved = matrices[0] @ matrices[1] * 2 if matrices[0] is not None and matrices[1] is not None else 0 * value
        torch.testing.assert_close(result[plain], originals[plain] + moved, rtol=1e-6, atol=1e-7)
        # What was trained beside differs from it by the rounding to 4 bits alone.
        largest = originals[plain].view(-1, 64).abs().amax(1, keepdim=True)
        apart = (value + moved - result[plain]).view(-1, 64).abs()
        assert (apart <= 0.16 * largest).all()
        assert apart.max() > 0


def test_an_engine_that_cannot_divide_four_bits_says_so(base: Path, world: World) -> None:
    plain = recipe_for(base, 3)
    network, settings = open_model(plain.model, plain.rope, 512, seed=0)
    with pytest.raises(ConfigError, match=r"train.zero_stage: 3 cannot divide"):
        build_engine(CausalLMLoss(network, 16), settings, recipe_for(base, 3, quantize="nf4"), world)
