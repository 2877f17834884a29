"""A micro-batch from the rank that read it to all ranks of its sequence-parallel group, each keeping its slice."""

from dataclasses import dataclass

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor

from longspan.feed.batch import MicroBatch
from longspan.model.attention import Documents
from longspan.topology import rank_slice
from longspan.train.world import World


@dataclass(frozen=True)
class RankBatch:
    """What one rank computes on: tensors [1, tokens / sequence_parallel]; `documents` are those of the whole row."""

    first_sample: int
    input_ids: Tensor
    positions: Tensor
    labels: Tensor
    loss_weight: Tensor
    documents: Documents


def share(batch: MicroBatch | None, world: World, documents: Documents) -> RankBatch:
    """This rank's slice. `batch` is None on ranks that do not read; `documents` carries kernel, sequence parallelism
    and groups.
    """
    if world.topology.sequence_parallel > 1:
        batch = _broadcast(batch, world)
    assert batch is not None
    part = rank_slice(batch.num_tokens, world.topology.sequence_parallel, world.sequence_rank)

    def local(values: np.ndarray, dtype: torch.dtype) -> Tensor:
        return torch.from_numpy(np.ascontiguousarray(values[part])).to(world.device, dtype)[None]

    return RankBatch(
        first_sample=batch.first_sample,
        input_ids=local(batch.input_ids, torch.int64),
        positions=local(batch.positions, torch.float32),
        labels=local(batch.labels, torch.int64),
        loss_weight=local(batch.loss_weight, torch.float32),
        documents=documents.of_row(tuple(batch.cu_seqlens.tolist()), world.device),
    )


def _broadcast(batch: MicroBatch | None, world: World) -> MicroBatch:
    """Two collectives: the sizes, then every array in one int32 buffer (floats by their bits)."""
    header = torch.zeros(3, dtype=torch.int64, device=world.device)
    if batch is not None:
        header = torch.tensor([batch.first_sample, batch.num_tokens, len(batch.cu_seqlens)], device=world.device)
    dist.broadcast(header, world.group_leader, group=world.sequence_group)
    first_sample, tokens, boundaries = header.tolist()
    buffer = torch.zeros(4 * tokens + boundaries, dtype=torch.int32)
    if batch is not None:
        arrays = (
            batch.input_ids,
            batch.labels,
            batch.positions.view(np.int32),
            batch.loss_weight.view(np.int32),
            batch.cu_seqlens,
        )
        buffer = torch.from_numpy(np.concatenate(arrays))
    buffer = buffer.to(world.device)
    dist.broadcast(buffer, world.group_leader, group=world.sequence_group)
    ids, labels, positions, weights, cu_seqlens = np.split(buffer.cpu().numpy(), tokens * np.arange(1, 5))
    return MicroBatch(first_sample, ids, positions.view(np.float32), labels, weights.view(np.float32), cu_seqlens)
