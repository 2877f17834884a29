"""What a rank does in the tests of saving and loading: a few steps by the trainer's own functions, in any layout."""

import resource
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor

from longspan.checkpoint import state as state_module
from longspan.checkpoint.state import MOMENTS, StoredState, find_resume, load_optimizer, load_weights, save_state
from longspan.config.recipe import Recipe
from longspan.errors import CheckpointError
from longspan.feed.batch import MicroBatch
from longspan.model.load import open_model
from longspan.model.loss import CausalLMLoss
from longspan.train.engine import attention_layout, build_engine
from longspan.train.exchange import share
from longspan.train.step import train_step
from longspan.train.world import World, join_world
from tests.tiny import tiny_recipe

RUN = "f" * 32
TOKENS = 12
BATCHES = 6
"""Micro-batches an optimizer step: whole shares for 1, 2 and 3 groups."""
RATE = 1e-3


class Layout(NamedTuple):
    world: int
    sequence_parallel: int
    zero: int
    dtype: str = "float32"


def recipe_for(model: str, layout: Layout) -> Recipe:
    return tiny_recipe(
        model,
        model={"dtype": layout.dtype},
        data={"sample_length": TOKENS, "target_length": 512},
        train={"global_batch_size": BATCHES, "micro_batch_size": 1, "zero_stage": layout.zero, "weight_decay": 0.1},
        parallel={"launch": "ray", "num_workers": layout.world, "sequence_parallel": layout.sequence_parallel},
    )


def micro_batches(step: int) -> list[MicroBatch]:
    rng = np.random.default_rng([7, step])
    batches = []
    for number in range(BATCHES):
        ids = rng.integers(0, 96, TOKENS).astype(np.int32)
        labels = np.concatenate([ids[1:], [-100]]).astype(np.int32)
        weight = (labels >= 0).astype(np.float32)
        positions = np.cumsum(rng.integers(1, 9, TOKENS)).astype(np.float32)
        cu_seqlens = np.array([0, TOKENS], np.int32)
        batches.append(MicroBatch(step * BATCHES + number, ids, positions, labels, weight, cu_seqlens))
    return batches


def engine_state(engine: Any) -> dict[str, Tensor]:
    """Float32 weights and Adam moments, whole, as this process' engine has them; every rank must call it."""
    from deepspeed.utils import safe_get_full_fp32_param, safe_get_full_optimizer_state

    found = {}
    for name, parameter in engine.module.named_parameters():
        found[f"weight/{name}"] = safe_get_full_fp32_param(parameter).detach().clone().cpu()
        for key in MOMENTS:
            found[f"{key}/{name}"] = safe_get_full_optimizer_state(parameter, key).detach().clone().cpu()
    return found


class Trainer:
    """An engine in a layout, from the newest commit of `run_uri` if there is one."""

    def __init__(self, run_uri: str, model: str, layout: Layout) -> None:
        self.run_uri, self.recipe = run_uri, recipe_for(model, layout)
        self.place: World = join_world(layout.sequence_parallel, use_gpu=False)
        commit = find_resume(run_uri, RUN)
        self.done = commit.step if commit else 0
        network, settings = open_model(self.recipe.model, self.recipe.rope, self.recipe.data.target_length, seed=0)
        forward = CausalLMLoss(network, self.recipe.train.loss_chunk)
        stored = StoredState(run_uri, commit) if commit else None
        if stored:
            load_weights(forward, stored)
        self.engine = build_engine(forward.train(), settings, self.recipe, self.place)
        if stored:
            load_optimizer(self.engine, stored, self.done)
            stored.close()
        self.layout = attention_layout(forward, self.recipe, self.place)

    def step(self) -> float:
        share_of_group = BATCHES // self.place.topology.data_parallel
        first = self.place.group * share_of_group
        mine = micro_batches(self.done)[first : first + share_of_group]
        batches = [share(batch if self.place.reads else None, self.place, self.layout) for batch in mine]
        self.done += 1
        return train_step(self.engine, batches, self.place, self.done, RATE).loss

    def save(self, keep: int = 2) -> None:
        save_state(self.engine, self.run_uri, self.done, self.done * BATCHES, RUN, keep)

    def state(self) -> dict[str, Tensor]:
        return engine_state(self.engine)


def begin(run_uri: str, model: str, layout: Layout) -> dict[str, Any]:
    """Two steps, a commit, and the third step without a break."""
    trainer = Trainer(run_uri, model, layout)
    losses = [trainer.step(), trainer.step()]
    trainer.save()
    saved = trainer.state()
    losses.append(trainer.step())
    result = {"losses": losses, "saved": saved, "end": trainer.state()}
    trainer.engine.destroy()
    return result


def resume(run_uri: str, model: str, layout: Layout) -> dict[str, Any]:
    """From the commit on: the state as loaded, and one step."""
    trainer = Trainer(run_uri, model, layout)
    result = {"first": trainer.done, "loaded": trainer.state(), "loss": trainer.step(), "end": trainer.state()}
    trainer.engine.destroy()
    return result


def error_of(action: Callable[[], Any]) -> str:
    """Message of the CheckpointError that `action` must raise."""
    try:
        action()
    except CheckpointError as error:
        return str(error)
    raise AssertionError("no CheckpointError")


def limited(size: int) -> tuple[int, int]:
    """No file of this process may grow beyond `size` bytes, as on a disk that is full; returns the limit before."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    return before


def full_disk(run_uri: str, model: str, layout: Layout) -> dict[str, Any]:
    """Step 1 is saved; at step 2 the last rank's disk is full; at step 3 it is not any more."""
    trainer = Trainer(run_uri, model, layout)
    trainer.step()
    trainer.save()
    trainer.step()
    last = dist.get_rank() == layout.world - 1
    before = limited(1000) if last else None
    message = error_of(trainer.save)
    if before:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    dist.barrier()
    kept = find_resume(run_uri, RUN)
    left = sorted(path.name for path in Path(run_uri, "checkpoints", "step-00000002").glob("*"))
    trainer.step()
    trainer.save()
    after = find_resume(run_uri, RUN)
    trainer.engine.destroy()
    return {"message": message, "kept": kept and kept.step, "left": left, "after": after and after.step}


def failing_commit(run_uri: str, model: str, layout: Layout) -> dict[str, Any]:
    """Rank 0 alone cannot write the record of step 2."""
    trainer = Trainer(run_uri, model, layout)
    trainer.step()
    trainer.save()
    trainer.step()
    write = state_module.write_commit

    def refuse(uri: str, commit: Any) -> None:
        raise OSError(28, "No space left on device")

    state_module.write_commit = refuse
    message = error_of(trainer.save)
    state_module.write_commit = write
    kept = find_resume(run_uri, RUN)
    trainer.engine.destroy()
    return {"message": message, "kept": kept and kept.step}


def damaged(run_uri: str, model: str, layout: Layout) -> dict[str, Any]:
    """Steps 1 and 2 are saved, then rank 0 flips a byte of one file of step 2, then of step 1."""
    trainer = Trainer(run_uri, model, layout)
    trainer.step()
    trainer.save()
    first = trainer.state()
    trainer.step()
    trainer.save()
    trainer.engine.destroy()
    flip(run_uri, 2, -1)
    again = Trainer(run_uri, model, layout)
    result = {"from": again.done, "loaded": again.state(), "saved": first}
    again.engine.destroy()
    result["other recipe"] = error_of(lambda: find_resume(run_uri, "0" * 32))
    flip(run_uri, 1, 0)
    result["nothing left"] = error_of(lambda: find_resume(run_uri, RUN))
    return result


def flip(run_uri: str, step: int, number: int) -> None:
    """One bit of the `number`th file of a step; all ranks wait for rank 0 to have done it."""
    if dist.get_rank() == 0:
        path = sorted(Path(run_uri, "checkpoints", f"step-{step:08d}").glob("*.safetensors"))[number]
        data = bytearray(path.read_bytes())
        data[len(data) // 2] ^= 4
        path.write_bytes(data)
    dist.barrier()


JOBS: dict[str, Callable[[str, str, Layout], dict[str, Any]]] = {
    job.__name__: job for job in (begin, resume, full_disk, failing_commit, damaged)
}


def work(jobs: list[tuple[str, str, str, Layout]]) -> list[dict[str, Any]]:
    """Run (job, run_uri, model, layout) one after the other: starting processes takes longer than a job."""
    results = []
    for name, run_uri, model, layout in jobs:
        assert layout.world == dist.get_world_size()
        torch.manual_seed(dist.get_rank())
        results.append(JOBS[name](run_uri, model, layout))
    return results
