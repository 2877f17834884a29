"""Training state in a form that no world size is part of: float32 weights and Adam moments, whole tensors, safetensors.

Each parameter is owned by one rank, which writes it; any number of ranks under any ZeRO stage can read it back.
DeepSpeed's own files (pickles, cut by rank) are not used.
"""

import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
import torch.nn.functional as F
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from longspan import storage
from longspan.checkpoint.commit import (
    COMMIT,
    Commit,
    StoredFile,
    damaged_files,
    retain,
    set_aside,
    step_uri,
    write_commit,
)
from longspan.checkpoint.parent import home, resume_commit
from longspan.config.resume import Change
from longspan.errors import CheckpointError, LongspanError
from longspan.storage import local
from longspan.versions import versions

MOMENTS = ("exp_avg", "exp_avg_sq")
WEIGHT = "weight"


def save_state(
    engine: Any,
    run_uri: str,
    step: int,
    next_sample: int,
    fingerprint: str,
    keep: int,
    settings: dict[str, Any] | None = None,
    changes: tuple[Change, ...] = (),
) -> Commit:
    """Write and commit optimizer step `step`; every rank must call it. The record's fields are those of `Commit`.

    Raises:
        CheckpointError: on every rank, if any rank could not write; earlier steps stay as they were.
    """
    from deepspeed.utils import safe_get_full_fp32_param, safe_get_full_optimizer_state

    rank, world = dist.get_rank(), dist.get_world_size()
    parameters = trained_parameters(engine.module)
    owners = _owners(parameters, world)
    mine: dict[str, Tensor] = {}
    for name, parameter in parameters.items():
        values = {WEIGHT: safe_get_full_fp32_param(parameter)}
        values |= {key: safe_get_full_optimizer_state(parameter, key) for key in MOMENTS}
        if owners[name] == rank:
            mine |= {f"{key}/{name}": value.detach().cpu().contiguous() for key, value in values.items()}

    base = step_uri(run_uri, step)
    problem, file = None, None
    try:
        if rank == 0:
            storage.delete(storage.join(base, COMMIT))
        file = _write(mine, base, f"state-{rank:05d}-of-{world:05d}.safetensors") if mine else None
    except Exception as error:  # whatever it is (safetensors has errors of its own): the other ranks wait for word
        problem = f"rank {rank}: {error}"
    answers: list[Any] = [None] * world
    dist.all_gather_object(answers, (problem, file))
    problems = [answer[0] for answer in answers if answer[0]]
    if problems:
        raise CheckpointError(f"{base}: not saved; {problems[0]}")
    commit = Commit(
        step=step,
        next_sample=next_sample,
        fingerprint=fingerprint,
        topology={"world_size": world},
        versions=versions(),
        files=tuple(answer[1] for answer in answers if answer[1]),
        settings=settings or {},
        changes=changes,
    )

    def record() -> None:
        write_commit(run_uri, commit)
        retain(run_uri, keep, step)

    _together(rank, base, record)
    return commit


def _together(rank: int, base: str, action: Any) -> None:
    """Rank 0 acts; all ranks raise the same error if it fails."""
    answer: list[Any] = [None]
    if rank == 0:
        try:
            action()
        except (OSError, LongspanError) as error:
            answer = [str(error)]
    dist.broadcast_object_list(answer, src=0)
    if answer[0]:
        raise CheckpointError(f"{base}: not committed; {answer[0]}")


def trained_parameters(network: nn.Module) -> dict[str, nn.Parameter]:
    """Those that a checkpoint holds, by name; frozen ones come from model.path every time."""
    return {name: parameter for name, parameter in network.named_parameters() if parameter.requires_grad}


def _owners(parameters: dict[str, nn.Parameter], world: int) -> dict[str, int]:
    """Rank that writes each parameter: largest first to the rank with least to write."""
    load = [0] * world
    owners = {}
    for name, size in sorted(((n, _numel(p)) for n, p in parameters.items()), key=lambda item: (-item[1], item[0])):
        owners[name] = load.index(min(load))
        load[owners[name]] += size
    return owners


def _numel(parameter: Any) -> int:
    return int(getattr(parameter, "ds_numel", parameter.numel()))


def _write(tensors: dict[str, Tensor], base: str, name: str) -> StoredFile:
    """Atomic write of one safetensors file under `base`; returns its size and digest."""
    if storage.is_remote(base):
        with tempfile.TemporaryDirectory() as directory:
            path = Path(directory, name)
            save_file(tensors, path)
            stored = StoredFile(name, path.stat().st_size, storage.digest_file(str(path)))
            storage.upload_file(str(path), storage.join(base, name))
            return stored
    target = Path(base, name)
    with local.replacing(target) as temporary:
        save_file(tensors, temporary)
    return StoredFile(name, target.stat().st_size, storage.digest_file(str(target)))


def find_resume(run_uri: str, fingerprint: str) -> Commit | None:
    """The newest commit whose files all ranks have found intact, or None; ranks share the digest checks.

    A commit with a damaged file is set aside, and the one before it is tried; a parent's is left as it is.

    Raises:
        CheckpointError: on every rank; the checkpoints belong to another recipe, all commits are damaged, or the
            parent's is.
    """
    rank, world = dist.get_rank(), dist.get_world_size()
    while True:
        answer: list[Any] = [None]
        if rank == 0:
            try:
                answer = [resume_commit(run_uri, fingerprint)]
            except LongspanError as error:
                answer = [str(error)]
        dist.broadcast_object_list(answer, src=0)
        commit = answer[0]
        if isinstance(commit, str):
            raise CheckpointError(commit)
        if commit is None:
            return None
        owner = home(run_uri, commit)
        problems: list[list[str]] = [[] for _ in range(world)]
        dist.all_gather_object(problems, damaged_files(owner, commit, [f.name for f in commit.files[rank::world]]))
        found = [problem for part in problems for problem in part]
        if not found:
            return commit
        if owner != run_uri:
            raise CheckpointError(f"{found[0]}; restore it, or begin in another output with --resume-from another step")
        if rank == 0:
            set_aside(run_uri, commit.step, found)


class StoredState:
    """Reads the tensors of one verified commit by name; safetensors only. Of a store, from the node's copies."""

    def __init__(self, run_uri: str, commit: Commit) -> None:
        base = step_uri(run_uri, commit.step)
        uris = {storage.join(base, file.name): file.digest for file in commit.files}
        # Those that other ranks of this node have proven are there already; other nodes fetch their own.
        paths = [storage.local_copy(uri, digest=digest) for uri, digest in uris.items()]
        self._copies = paths if storage.is_remote(base) else []
        files = [safe_open(path, framework="pt") for path in paths]
        self._files = {name: file for file in files for name in file.keys()}  # noqa: SIM118 (no mapping)

    def close(self) -> None:
        """Let go of the node's copies; the last of its ranks removes them. Nothing can be read after that."""
        self._files.clear()
        for path in self._copies:
            storage.let_go(path)

    def names(self) -> Iterator[str]:
        return (name.removeprefix(f"{WEIGHT}/") for name in self._files if name.startswith(f"{WEIGHT}/"))

    def tensor(self, key: str, name: str) -> Tensor:
        """Float32 tensor `key` (weight, exp_avg, exp_avg_sq) of parameter `name`."""
        return self._files[f"{key}/{name}"].get_tensor(f"{key}/{name}")


def load_weights(network: nn.Module, state: StoredState) -> None:
    """Put the stored weights into the trained ones of `network`, before DeepSpeed cuts it up.

    Raises:
        CheckpointError: names or shapes differ.
    """
    parameters = trained_parameters(network)
    stored = set(state.names())
    if stored != set(parameters):
        odd = sorted(stored ^ set(parameters))[0]
        raise CheckpointError(
            f"checkpoint and model differ in parameter {odd}; the model directory has changed: restore it, or give"
            " the run another output"
        )
    with torch.no_grad():
        for name, parameter in parameters.items():
            value = state.tensor(WEIGHT, name)
            if value.shape != parameter.shape:
                raise CheckpointError(
                    f"checkpoint and model differ in the shape of {name}: {tuple(value.shape)} and"
                    f" {tuple(parameter.shape)}; the model directory has changed: restore it, or give the run another"
                    " output"
                )
            parameter.copy_(value)


def start_moments(engine: Any, step: int = 0) -> None:
    """Make AdamW's state (zero moments, `step` steps done) before its first step, so that it can be saved and set.

    DeepSpeed 0.19.8 links parameters to their moments inside the step of the first parameter group, when those of the
    second do not exist yet; `safe_get_full_optimizer_state` then fails for the second group for ever.
    """
    optimizer = engine.optimizer
    stage3 = hasattr(optimizer, "fp32_partitioned_groups_flat")
    flats = optimizer.fp32_partitioned_groups_flat if stage3 else optimizer.single_partition_of_fp32_groups
    fused = optimizer.optimizer.defaults.get("fused")
    for flat in flats:
        optimizer.optimizer.state[flat] = {
            "step": torch.tensor(float(step), device=flat.device if fused else "cpu"),
            **{key: torch.zeros_like(flat) for key in MOMENTS},
        }
    if not stage3:
        optimizer._hp_optimizer_states_linked = False
        optimizer._lazy_init_hp_params_optimizer_state()


def load_optimizer(engine: Any, state: StoredState, step: int) -> None:
    """Set float32 masters and Adam moments of an engine that has not stepped yet."""
    start_moments(engine, step)
    for name, parameter in trained_parameters(engine.module).items():
        for key in (WEIGHT, *MOMENTS):
            _set(parameter, state.tensor(key, name).to(engine.device), None if key == WEIGHT else key)


def _set(parameter: Any, value: Tensor, moment: str | None) -> None:
    from deepspeed.utils import (
        safe_set_full_fp32_param,
        safe_set_full_optimizer_state,
        safe_set_local_fp32_param,
        safe_set_local_optimizer_state,
    )

    if not hasattr(parameter, "ds_id"):
        if moment is None:
            safe_set_full_fp32_param(parameter, value)
        else:
            safe_set_full_optimizer_state(parameter, value, moment)
        return
    # ZeRO-3 pads the last rank's part, which its whole-tensor setter does not.
    size, rank, world = parameter.ds_tensor.numel(), dist.get_rank(), dist.get_world_size()
    part = F.pad(value.flatten(), (0, size * world - value.numel()))[rank * size : (rank + 1) * size]
    if moment is None:
        safe_set_local_fp32_param(parameter, part)
    else:
        safe_set_local_optimizer_state(parameter, part, moment)
