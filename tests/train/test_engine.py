"""The DeepSpeed engine is what the recipe says, and its casts leave the rotary frequencies alone."""

from pathlib import Path
from typing import Any

import pytest
import torch

from longspan.config.recipe import Recipe
from longspan.errors import ConfigError
from longspan.model.load import open_model
from longspan.model.loss import CausalLMLoss
from longspan.rope import RopeSettings
from longspan.topology import Topology
from longspan.train.engine import accumulation_steps, attention_layout, build_engine, deepspeed_config
from longspan.train.world import World, join_world, start_single_process
from tests.tiny import tiny_model_directory, tiny_recipe

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def world() -> World:
    start_single_process(use_gpu=False)
    return join_world(1, use_gpu=False)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_model_directory(tmp_path_factory.mktemp("engine") / "model", "qwen3")


def opened(recipe: Recipe) -> tuple[CausalLMLoss, RopeSettings]:
    network, settings = open_model(recipe.model, recipe.rope, recipe.data.target_length, seed=0)
    return CausalLMLoss(network, recipe.train.loss_chunk).train(), settings


@pytest.mark.parametrize("zero_stage", [1, 3])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_frequencies_stay_float32_in_the_engine(model: Path, world: World, dtype: str, zero_stage: int) -> None:
    recipe = tiny_recipe(model, model={"dtype": dtype}, rope={"type": "yarn"}, train={"zero_stage": zero_stage})
    forward, settings = opened(recipe)
    engine = build_engine(forward, settings, recipe, world)
    network: Any = engine.module.model
    assert network.model.rotary_emb.inv_freq.dtype == torch.float32
    assert {parameter.dtype for parameter in network.parameters()} == {getattr(torch, dtype)}
    engine.destroy()


def test_an_engine_whose_frequencies_differ_is_refused(model: Path, world: World) -> None:
    recipe = tiny_recipe(model)
    forward, _ = opened(recipe)
    with pytest.raises(ConfigError, match="rope: the model's frequencies are not those"):
        build_engine(forward, RopeSettings("default", 501.0), recipe, world)


def test_weight_decay_is_for_matrices_only(model: Path, world: World) -> None:
    recipe = tiny_recipe(model, train={"weight_decay": 0.3, "beta1": 0.8, "beta2": 0.99, "eps": 1e-6})
    forward, settings = opened(recipe)
    sizes = {True: 0, False: 0}
    for parameter in forward.parameters():
        sizes[parameter.ndim >= 2] += parameter.numel()
    engine = build_engine(forward, settings, recipe, world)
    groups = engine.optimizer.optimizer.param_groups
    assert [group["weight_decay"] for group in groups] == [0.3, 0.0]
    assert [sum(p.numel() for p in group["params"]) for group in groups] == [sizes[True], sizes[False]]
    assert all(group["betas"] == (0.8, 0.99) and group["eps"] == 1e-6 for group in groups)
    engine.destroy()


@pytest.mark.parametrize("zero_stage", [1, 2, 3])
def test_the_configuration_of_deepspeed(zero_stage: int) -> None:
    train = {"zero_stage": zero_stage, "micro_batch_size": 2, "global_batch_size": 8, "grad_clip": 0.7}
    found = deepspeed_config(tiny_recipe("nowhere", train=train), 4, num_parameters=1000)
    assert found["train_micro_batch_size_per_gpu"] == 2
    assert found["gradient_accumulation_steps"] == 4
    assert found["gradient_clipping"] == 0.7
    assert found["bf16"] == {"enabled": False, "check_grad_overflow": True}
    # Sums over ranks in float32, whatever the weights are.
    assert found["communication_data_type"] == "fp32"
    zero = found["zero_optimization"]
    assert zero["stage"] == zero_stage
    # Buffers no larger than the model.
    assert zero["reduce_bucket_size"] == zero["allgather_bucket_size"] == 1000
    assert ("stage3_max_live_parameters" in zero) == (zero_stage == 3)
    assert deepspeed_config(tiny_recipe("nowhere", model={"dtype": "bfloat16"}), 1, 1)["bf16"]["enabled"] is True


@pytest.mark.parametrize(("ranks", "sequence_parallel", "expected"), [(1, 1, 8), (2, 2, 8), (2, 1, 4), (8, 2, 2)])
def test_accumulation_makes_up_the_global_batch(ranks: int, sequence_parallel: int, expected: int) -> None:
    recipe = tiny_recipe("nowhere", train={"global_batch_size": 16, "micro_batch_size": 2})
    assert accumulation_steps(recipe, World(Topology(ranks, sequence_parallel), 0, CPU, None)) == expected


def test_one_rank_needs_no_sequence_parallel_attention(model: Path, world: World) -> None:
    recipe = tiny_recipe(model)
    layout = attention_layout(opened(recipe)[0], recipe, world)
    assert (layout.kernel, layout.sequence_parallel) == ("sdpa", None)
