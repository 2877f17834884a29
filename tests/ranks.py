"""Run a function on several gloo ranks, each a process of its own, and collect what every rank returns."""

import tempfile
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
import torch.multiprocessing as mp


def run_ranks(function: Callable[..., Any], world_size: int, *args: Any) -> list[Any]:
    """[function(*args) of rank 0, of rank 1, ...]; `function` must be importable. Raises RuntimeError with a rank's
    traceback.
    """
    with tempfile.TemporaryDirectory() as directory:
        mp.spawn(_rank, (world_size, directory, function, args), nprocs=world_size, join=True)
        results = [torch.load(Path(directory, f"{rank}.pt"), weights_only=False) for rank in range(world_size)]
    failures = [result["error"] for result in results if "error" in result]
    if failures:
        raise RuntimeError(failures[0])
    return [result["value"] for result in results]


def _rank(rank: int, world_size: int, directory: str, function: Callable[..., Any], args: tuple[Any, ...]) -> None:
    torch.set_num_threads(1)
    store = dist.FileStore(str(Path(directory, "store")), world_size)
    dist.init_process_group("gloo", store=store, rank=rank, world_size=world_size)
    try:
        result = {"value": function(*args)}
    except Exception:
        result = {"error": traceback.format_exc()}
    torch.save(result, Path(directory, f"{rank}.pt"))
    dist.barrier()
