"""Costs against real models' parameter counts and against published arithmetic."""

import dataclasses
from pathlib import Path
from typing import Any

import pytest

from longspan.config.model import Lora, Model, Rope
from longspan.errors import ConfigError
from longspan.planner.costs import (
    count_parameters,
    count_trained,
    flops_per_token,
    gpu_hours,
    memory_per_gpu,
    model_sizes,
)
from tests.tiny import FAMILIES, tiny_config, tiny_model_directory

LLAMA3_8B = {
    "model_type": "llama",
    "vocab_size": 128_256,
    "hidden_size": 4096,
    "intermediate_size": 14_336,
    "num_hidden_layers": 32,
    "num_attention_heads": 32,
    "num_key_value_heads": 8,
}


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"tie_word_embeddings": True},
        {"attention_bias": True, "mlp_bias": True},
        {"head_dim": 16, "num_key_value_heads": 4},
        {"num_key_value_heads": 1, "num_hidden_layers": 3, "intermediate_size": 40},
    ],
)
def test_parameters_are_those_of_the_real_model(family: str, changes: dict[str, Any]) -> None:
    from transformers import AutoModelForCausalLM

    config = tiny_config(family, **changes)
    model = AutoModelForCausalLM.from_config(config)
    assert count_parameters(model_sizes(config.to_dict())) == model.num_parameters()


def test_parameters_of_llama_3_8b() -> None:
    assert count_parameters(model_sizes(LLAMA3_8B)) == 8_030_261_248


@pytest.mark.parametrize("name", ["vocab_size", "hidden_size", "num_attention_heads"])
def test_rejects_a_config_without_a_size(name: str) -> None:
    with pytest.raises(ConfigError, match=f"model: its config has no {name}"):
        model_sizes({**LLAMA3_8B, name: None})


@pytest.mark.parametrize(
    ("length", "gigaflops"), [(8192, 54.62), (24_000, 67.06), (131_072, 151.26), (1 << 20, 872.82)]
)
def test_flops_per_token_agree_with_the_anchors(length: int, gigaflops: float) -> None:
    assert flops_per_token(model_sizes(LLAMA3_8B), length) / 1e9 == pytest.approx(gigaflops, abs=0.01)


def test_gpu_hours_are_flops_over_speed() -> None:
    assert gpu_hours(3600 * 989.4e12 * 0.4) == pytest.approx(1)
    assert gpu_hours(7200e12, peak_flops=1e12, utilisation=1) == pytest.approx(2)


def estimate(**changes: Any) -> dict[str, int]:
    arguments: dict[str, Any] = {
        "dtype": "bfloat16",
        "zero_stage": 1,
        "world": 1,
        "tokens_per_rank": 24_000,
        "gradient_checkpointing": True,
        "loss_chunk": 2048,
    }
    memory = memory_per_gpu(model_sizes(LLAMA3_8B), **(arguments | changes))
    assert memory.total == sum(dataclasses.astuple(memory))
    return dataclasses.asdict(memory)


def test_states_take_16_bytes_a_parameter_on_one_gpu() -> None:
    memory = estimate()
    assert memory["weights"] + memory["gradients"] + memory["optimizer"] == 16 * 8_030_261_248
    full = estimate(dtype="float32")
    assert (full["weights"], full["optimizer"]) == (2 * memory["weights"], memory["optimizer"])


@pytest.mark.parametrize(("stage", "divided"), [(1, {"optimizer"}), (2, {"optimizer", "gradients"})])
def test_zero_divides_states_over_the_ranks(stage: int, divided: set[str]) -> None:
    one, eight = estimate(zero_stage=stage), estimate(zero_stage=stage, world=8)
    for name in ("weights", "gradients", "optimizer"):
        assert eight[name] * (8 if name in divided else 1) == one[name]
    third = estimate(zero_stage=3, world=8)
    assert all(third[name] * 8 == one[name] for name in ("weights", "gradients", "optimizer"))


def test_checkpoints_take_262_kb_a_token_and_one_layer_more() -> None:
    one, two = estimate(tokens_per_rank=24_000), estimate(tokens_per_rank=48_000)
    assert two["activations"] == 2 * one["activations"]
    assert 24_000 * 262_144 < one["activations"] < 1.8 * 24_000 * 262_144
    assert estimate(gradient_checkpointing=False)["activations"] > 10 * one["activations"]


def test_logits_are_those_of_one_chunk() -> None:
    assert estimate()["logits"] == 2048 * 128_256 * 10
    assert estimate(tokens_per_rank=100)["logits"] == 100 * 128_256 * 10


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("tied", [False, True])
def test_trained_parameters_are_those_that_the_model_trains(tmp_path: Path, family: str, tied: bool) -> None:
    from longspan.model.load import open_model

    path = tiny_model_directory(tmp_path / "model", family, tie_word_embeddings=tied)
    wanted = ["embed_tokens", "norm", "input_layernorm", "post_attention_layernorm", "up_proj"]
    wanted += ["q_norm", "k_norm"] if family == "qwen3" else []
    for lora in (Lora(rank=3), Lora(rank=5, targets=["k_proj", "gate_proj", "down_proj"], also_train=wanted)):
        network, _ = open_model(Model(path=str(path), dtype="float32", lora=lora), Rope(), 64, seed=0)
        sizes = model_sizes(tiny_config(family, tie_word_embeddings=tied).to_dict())
        trained = sum(parameter.numel() for parameter in network.parameters() if parameter.requires_grad)
        total = sum(parameter.numel() for parameter in network.parameters())
        assert count_trained(sizes, lora) == (trained, total - count_parameters(sizes))


def test_lora_on_llama_3_8b_costs_what_its_papers_say() -> None:
    sizes, lora = model_sizes(LLAMA3_8B), Lora(rank=16)
    assert count_trained(sizes, lora) == (13_631_488, 13_631_488)
    memory = estimate(lora=lora)
    assert (memory["gradients"], memory["optimizer"]) == (2 * 13_631_488, 12 * 13_631_488)
    assert memory["weights"] == 2 * (8_030_261_248 + 13_631_488)
    # 127 thousandths of a bit are left of the 0.5 that block constants cost before they are quantised too (2305.14314).
    in_4_bits = 32 * (2 * 4096 * 5120 + 3 * 4096 * 14_336)
    small = estimate(lora=Lora(rank=16, quantize="nf4"))
    assert (memory["weights"] - small["weights"]) / in_4_bits * 8 == pytest.approx(16 - 4.127, abs=1e-3)
    attention = flops_per_token(sizes, 24_000) - 6 * 8_030_261_248
    assert flops_per_token(sizes, 24_000, lora) == 4 * 8_030_261_248 + 6 * 13_631_488 + attention


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (
            {"targets": ["wq"]},
            "model.lora.targets: this model has no 'wq'; it has down_proj, gate_proj, k_proj, lm_head",
        ),
        ({"also_train": ["wte"]}, "model.lora.also_train: this model has no 'wte'; it has .*embed_tokens"),
    ],
)
def test_names_that_no_family_has(names: dict[str, list[str]], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        count_trained(model_sizes(LLAMA3_8B), Lora(**names))  # type: ignore[arg-type]
