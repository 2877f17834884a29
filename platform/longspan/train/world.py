"""This process among the workers: its place in the layout, its device, and the group it shares samples with."""

import os
from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist

from longspan.topology import Topology


@dataclass(frozen=True)
class World:
    """`sequence_group` is the process group that shares a sample, None where every rank has samples of its own."""

    topology: Topology
    rank: int
    device: torch.device
    sequence_group: Any

    @property
    def sequence_rank(self) -> int:
        return self.rank % self.topology.sequence_parallel

    @property
    def group(self) -> int:
        """Data-parallel group of this rank."""
        return self.rank // self.topology.sequence_parallel

    @property
    def reads(self) -> bool:
        """Whether this rank reads the feed for its sequence-parallel group."""
        return self.sequence_rank == 0

    @property
    def group_leader(self) -> int:
        """Global rank that reads the feed for this rank's sequence-parallel group."""
        return self.rank - self.sequence_rank


def join_world(sequence_parallel: int, use_gpu: bool) -> World:
    """The world of an already initialised torch.distributed, with DeepSpeed told to use it."""
    # DeepSpeed insists on it; Ray Train sets it, a single process need not have it.
    os.environ.setdefault("LOCAL_RANK", "0")
    if not use_gpu:
        os.environ.setdefault("DS_ACCELERATOR", "cpu")
    _skip_cpu_communication_build()
    import deepspeed.comm

    deepspeed.comm.init_distributed(dist_backend=dist.get_backend(), dist_init_required=False, verbose=False)
    topology = Topology(dist.get_world_size(), sequence_parallel)
    rank, mine = dist.get_rank(), None
    if sequence_parallel > 1:
        for ranks in topology.sequence_parallel_groups():
            group = dist.new_group(list(ranks))
            mine = group if rank in ranks else mine
    device = torch.device("cuda", torch.cuda.current_device()) if use_gpu else torch.device("cpu")
    return World(topology, rank, device, mine)


def start_single_process(use_gpu: bool) -> None:
    """A world of one rank in this process, without ports or environment variables; safe to call again."""
    if dist.is_initialized():
        return
    if use_gpu:
        torch.cuda.set_device(0)
    dist.init_process_group("nccl" if use_gpu else "gloo", store=dist.HashStore(), rank=0, world_size=1)


def _skip_cpu_communication_build() -> None:
    """Keep DeepSpeed from compiling its shared-memory all-reduce: about a minute a machine, used for inference only.

    `deepspeed.comm` asks this table whether the op can be built, and goes on with gloo alone where it cannot.
    """
    import deepspeed.ops

    deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False
