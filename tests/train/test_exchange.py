"""A rank's slice of a micro-batch: nothing lost between the feed's arrays and the tensors of the forward."""

import dataclasses
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
import torch.distributed as dist

from longspan.errors import TopologyError
from longspan.feed.batch import MicroBatch
from longspan.model.attention import Documents
from longspan.topology import Topology, rank_slice
from longspan.train import exchange
from longspan.train.exchange import RankBatch, share
from longspan.train.world import World, join_world, start_single_process
from tests.train.sp_case import TOKENS, micro_batches

CPU = torch.device("cpu")
ARRAYS = {
    "input_ids": torch.int64,
    "positions": torch.float32,
    "labels": torch.int64,
    "loss_weight": torch.float32,
}


def assert_slice(found: RankBatch, batch: MicroBatch, part: slice) -> None:
    assert found.first_sample == batch.first_sample
    for name, dtype in ARRAYS.items():
        tensor = getattr(found, name)
        assert tensor.dtype == dtype
        np.testing.assert_array_equal(tensor[0].numpy(), getattr(batch, name)[part], err_msg=name)
        assert tensor.shape == (1, part.stop - part.start)
    # The boundaries stay those of the whole row.
    assert found.documents.cu_seqlens == tuple(batch.cu_seqlens.tolist())


def test_a_rank_of_its_own_gets_the_whole_row() -> None:
    world = World(Topology(1, 1), 0, CPU, None)
    for batch in micro_batches():
        assert_slice(share(batch, world, Documents((0,))), batch, slice(0, TOKENS))


def test_kernel_and_sequence_parallelism_are_kept() -> None:
    def split(*_: Any, **__: Any) -> torch.Tensor:
        raise AssertionError("not called here")

    world = World(Topology(1, 1), 0, CPU, None)
    documents = share(micro_batches()[0], world, Documents((0,), "flash_attn", split)).documents
    assert (documents.kernel, documents.sequence_parallel) == ("flash_attn", split)


@pytest.fixture
def wire(monkeypatch: pytest.MonkeyPatch) -> Callable[[], list[torch.Tensor]]:
    """In place of the network: what a reader sends is kept, and the next rank receives it."""
    sent: list[torch.Tensor] = []
    position = 0

    def broadcast(tensor: torch.Tensor, source: int, group: object) -> None:
        nonlocal position
        assert group == "group of ranks 2 and 3"
        assert source == 2
        if position < len(sent):
            assert tensor.shape == sent[position].shape
            assert tensor.dtype == sent[position].dtype
            tensor.copy_(sent[position])
            position += 1
        else:
            sent.append(tensor.clone())
            position += 1

    def rewind() -> list[torch.Tensor]:
        nonlocal position
        position = 0
        return sent

    monkeypatch.setattr(dist, "broadcast", broadcast)
    return rewind


@pytest.mark.parametrize("number", range(4))
def test_a_group_shares_out_one_row(wire: Callable[[], list[torch.Tensor]], number: int) -> None:
    batch = dataclasses.replace(micro_batches()[number], first_sample=2**33 + number)
    for rank in (2, 3):
        world = World(Topology(4, 2), rank, CPU, "group of ranks 2 and 3")
        assert (world.group, world.reads, world.group_leader) == (1, rank == 2, 2)
        wire()
        found = share(batch if world.reads else None, world, Documents((0,)))
        assert_slice(found, batch, rank_slice(TOKENS, 2, world.sequence_rank))
    # The sizes, and all arrays in one go.
    header, buffer = wire()
    assert header.tolist() == [2**33 + number, TOKENS, len(batch.cu_seqlens)]
    assert buffer.dtype == torch.int32


def test_floats_travel_by_their_bits(wire: Callable[[], list[torch.Tensor]]) -> None:
    batch = micro_batches()[0]
    odd = np.resize(np.array([0.1, -0.0, 1e-42, 16777215.0, np.inf], np.float32), TOKENS)
    batch = dataclasses.replace(batch, positions=odd, loss_weight=odd[::-1].copy())
    world = World(Topology(4, 2), 2, CPU, "group of ranks 2 and 3")
    share(batch, world, Documents((0,)))
    wire()
    received = exchange._broadcast(None, dataclasses.replace(world, rank=3))
    assert received.positions.tobytes() == batch.positions.tobytes()
    assert received.loss_weight.tobytes() == batch.loss_weight.tobytes()


def test_a_row_that_does_not_split_is_refused(wire: Callable[[], list[torch.Tensor]]) -> None:
    batch = micro_batches()[0]
    changes: dict[str, Any] = {name: getattr(batch, name)[:47] for name in ARRAYS}
    short = dataclasses.replace(batch, cu_seqlens=np.array([0, 47], np.int32), **changes)
    with pytest.raises(TopologyError, match=r"47 tokens do not split over parallel.sequence_parallel 2"):
        share(short, World(Topology(4, 2), 2, CPU, "group of ranks 2 and 3"), Documents((0,)))


def test_ranks_know_their_place() -> None:
    worlds = [World(Topology(8, 4), rank, CPU, None) for rank in range(8)]
    assert [world.group for world in worlds] == [0, 0, 0, 0, 1, 1, 1, 1]
    assert [world.sequence_rank for world in worlds] == [0, 1, 2, 3] * 2
    assert [world.rank for world in worlds if world.reads] == [0, 4]
    assert {world.group_leader for world in worlds[4:]} == {4}


def test_a_single_process_is_a_world_of_one() -> None:
    start_single_process(use_gpu=False)
    start_single_process(use_gpu=False)
    world = join_world(1, use_gpu=False)
    assert (world.topology, world.rank, world.device, world.sequence_group) == (Topology(1, 1), 0, CPU, None)
