"""What a rank computes in the sequence-parallel tests: gradients of one global batch, by the trainer's functions."""

from collections.abc import Callable
from typing import Any

import numpy as np

from longspan.feed.batch import MicroBatch
from longspan.model.load import open_model
from longspan.model.loss import CausalLMLoss
from longspan.train.engine import attention_layout, build_engine
from longspan.train.exchange import share
from longspan.train.step import accumulate, train_step
from longspan.train.world import join_world
from tests.tiny import tiny_recipe

TOKENS = 48


def micro_batches(vocab_size: int = 96) -> list[MicroBatch]:
    """Four micro-batches of packed documents with gaps and fractions in the positions, and very unequal targets.

    The second half of batch 1 has no target at all: under SP=2 a whole rank has none.
    """
    rng = np.random.default_rng(5)
    batches = []
    for number in range(4):
        boundaries = np.array([[0, 11, 30, 48], [0, 48, 48, 48], [0, 16, 32, 48], [0, 5, 7, 48]][number])
        cu_seqlens = np.unique(boundaries).astype(np.int32)
        ids = rng.integers(0, vocab_size, TOKENS).astype(np.int32)
        positions = np.cumsum(rng.integers(1, 9, TOKENS)).astype(np.float32) + np.float32(0.25) * number
        labels = np.concatenate([ids[1:], [-100]]).astype(np.int32)
        labels[cu_seqlens[1:] - 1] = -100
        if number == 1:
            labels[TOKENS // 2 :] = -100
        if number == 2:
            labels[::2] = -100
        weight = (rng.random(TOKENS).astype(np.float32) + 0.5) * (labels >= 0)
        batches.append(MicroBatch(number, ids, positions, labels, weight.astype(np.float32), cu_seqlens))
    return batches


def recipe_for(
    model: str, world: int, sp: int, zero_stage: int, checkpointing: bool, pattern: dict[str, Any] | None = None
) -> Any:
    settings = {"path": model, "dtype": "float32", "gradient_checkpointing": checkpointing}
    return tiny_recipe(
        model,
        model={**settings, "attention_pattern": pattern},
        data={"sample_length": TOKENS, "target_length": 512, "manifest": "none", "mix": [{"weights": {"a": 1.0}}]},
        train={
            "steps": 4,
            "global_batch_size": 4,
            "micro_batch_size": 1,
            "zero_stage": zero_stage,
            "loss_chunk": 7,
            "grad_clip": 0.05,
            "threads": 1,
        },
        parallel={"launch": "ray", "num_workers": world, "sequence_parallel": sp},
    )


def gradients(
    model: str,
    world: int,
    sp: int,
    zero_stage: int,
    checkpointing: bool,
    steps: int,
    per_target: bool = False,
    make_batches: Callable[[], list[MicroBatch]] = micro_batches,
    pattern: dict[str, Any] | None = None,
) -> dict[str, Any]:
    """Loss and gradients of the global batch, then losses, norms and weights of `steps` updates on it."""
    from deepspeed.utils import safe_get_full_fp32_param, safe_get_full_grad

    recipe = recipe_for(model, world, sp, zero_stage, checkpointing, pattern)
    place = join_world(sp, use_gpu=False)
    network, settings = open_model(recipe.model, recipe.rope, recipe.data.target_length, seed=0)
    forward = CausalLMLoss(network, recipe.train.loss_chunk).train()
    engine = build_engine(forward, settings, recipe, place)
    layout = attention_layout(forward, recipe, place)
    per_group = 4 // place.topology.data_parallel
    mine = make_batches()[place.group * per_group : (place.group + 1) * per_group]
    batches = [share(batch if place.reads else None, place, layout) for batch in mine]

    loss, targets, highest = accumulate(engine, batches, place, 1, per_target)
    names = dict(forward.model.named_parameters())
    grads = {name: safe_get_full_grad(parameter).detach().clone() for name, parameter in names.items()}
    engine.step()
    norm = float(engine.get_global_grad_norm())
    results = [train_step(engine, batches, place, step + 2, 1e-2, per_target) for step in range(steps)]
    weights = {name: safe_get_full_fp32_param(parameter).detach().clone() for name, parameter in names.items()}
    return {
        "loss": loss,
        "targets": targets,
        "highest": highest,
        "grads": grads,
        "norm": norm,
        "losses": [result.loss for result in results],
        "weights": weights,
    }
