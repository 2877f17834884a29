"""A gradient that is not finite reaches neither weights nor optimizer, under any ZeRO stage, whichever rank has it."""

import math
from typing import Any, NamedTuple

import pytest
import torch
import torch.distributed as dist
from torch import Tensor

from longspan.errors import NotFiniteError
from longspan.train.world import start_single_process
from tests.checkpoint.state_case import Layout, Trainer, engine_state
from tests.ranks import run_ranks
from tests.tiny import tiny_model_directory

VALUES = {"nan": float("nan"), "inf": float("inf"), "huge": 1e30}
"""`huge` is finite itself, its square is not."""
LAYOUTS = [Layout(world, 1, zero, dtype) for world in (1, 2) for zero in (1, 2, 3) for dtype in ("float32", "bfloat16")]


class Found(NamedTuple):
    message: str
    before: dict[str, Tensor]
    after: dict[str, Tensor]
    next_loss: float


def snapshot(trainer: Trainer) -> dict[str, Tensor]:
    """All that a step changes: float32 weights and moments, the weights in use, and Adam's step counts."""
    network = {f"used/{n}": _local(p).detach().clone() for n, p in trainer.engine.module.named_parameters()}
    states = trainer.engine.optimizer.optimizer.state.values()
    steps = {f"step/{number}": torch.as_tensor(float(state["step"])) for number, state in enumerate(states)}
    return {**engine_state(trainer.engine), **network, **steps}


def _local(parameter: Any) -> Tensor:
    return parameter.ds_tensor if hasattr(parameter, "ds_tensor") else parameter


def poisoned_step(folder: str, model: str, layout: Layout, value: float) -> Found:
    """One good step, then one in which the last rank alone has `value` in the gradient of one weight."""
    trainer = Trainer(f"{folder}/{layout.world}-{layout.zero}-{layout.dtype}-{value}", model, layout)
    trainer.step()
    before = snapshot(trainer)
    hook = None
    if dist.get_rank() == layout.world - 1:
        weight = dict(trainer.engine.module.named_parameters())["model.model.layers.0.mlp.up_proj.weight"]
        hook = weight.register_hook(lambda gradient: torch.full_like(gradient, value))
    try:
        trainer.step()
        message = ""
    except NotFiniteError as error:
        message = str(error)
    after = snapshot(trainer)
    if hook is not None:
        hook.remove()
    next_loss = trainer.step()
    trainer.engine.destroy()
    return Found(message, before, after, next_loss)


def work(folder: str, model: str, world: int) -> list[Found]:
    return [
        poisoned_step(folder, model, layout, value)
        for layout in LAYOUTS
        if layout.world == world
        for value in VALUES.values()
    ]


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> dict[tuple[Layout, str], list[Found]]:
    folder = tmp_path_factory.mktemp("poison")
    model = str(tiny_model_directory(folder / "model", num_hidden_layers=1))
    start_single_process(use_gpu=False)
    results = {1: [work(str(folder), model, 1)], 2: run_ranks(work, 2, str(folder), model, 2)}
    cases = {}
    for world, ranks in results.items():
        keys = [(layout, name) for layout in LAYOUTS if layout.world == world for name in VALUES]
        cases |= {key: [rank[number] for rank in ranks] for number, key in enumerate(keys)}
    return cases


@pytest.mark.parametrize("value", VALUES)
@pytest.mark.parametrize(
    "layout", LAYOUTS, ids=lambda layout: f"{layout.world} ranks, ZeRO-{layout.zero}, {layout.dtype}"
)
def test_a_gradient_that_is_not_finite_changes_nothing(
    found: dict[tuple[Layout, str], list[Found]], layout: Layout, value: str
) -> None:
    for rank in found[layout, value]:
        if (layout.zero, value) == (3, "huge"):  # ZeRO-3 adds squares in float64: the norm is finite, and clipped by
            assert rank.message == ""
            assert all(torch.isfinite(tensor).all() for tensor in rank.after.values())
            continue
        assert rank.message == "step 2: the gradient norm is not finite; weights and optimizer are those of step 1"
        assert rank.before.keys() == rank.after.keys()
        assert len(rank.before) > 40
        assert all(torch.equal(rank.before[name], rank.after[name]) for name in rank.before)
        assert math.isfinite(rank.next_loss)
