"""Ranks: neighbours share a sample, strides share a place in it."""

import itertools

import numpy as np
import pytest

from longspan.errors import TopologyError
from longspan.topology import Coordinates, Topology, rank_slice

SIZES = [(1, 1), (2, 1), (2, 2), (8, 1), (8, 2), (8, 4), (8, 8), (12, 3)]


def test_ranks_of_a_sequence_parallel_group_are_neighbours() -> None:
    topology = Topology(world_size=8, sequence_parallel=4)
    assert topology.data_parallel == 2
    assert topology.sequence_parallel_groups() == ((0, 1, 2, 3), (4, 5, 6, 7))
    assert topology.data_parallel_groups() == ((0, 4), (1, 5), (2, 6), (3, 7))
    assert topology.rank_coordinates(6) == Coordinates(data_parallel_rank=1, sequence_parallel_rank=2)


@pytest.mark.parametrize(("world_size", "sequence_parallel"), SIZES)
def test_groups_partition_the_world_and_agree_with_coordinates(world_size: int, sequence_parallel: int) -> None:
    topology = Topology(world_size, sequence_parallel)
    sequence_groups, data_groups = topology.sequence_parallel_groups(), topology.data_parallel_groups()
    assert len(sequence_groups) == topology.data_parallel
    assert len(data_groups) == sequence_parallel
    for groups in (sequence_groups, data_groups):
        assert sorted(itertools.chain.from_iterable(groups)) == list(range(world_size))
    for rank in range(world_size):
        place = topology.rank_coordinates(rank)
        assert sequence_groups[place.data_parallel_rank][place.sequence_parallel_rank] == rank
        assert data_groups[place.sequence_parallel_rank][place.data_parallel_rank] == rank


@pytest.mark.parametrize("rank", [-1, 8])
def test_a_rank_outside_the_world_is_a_bug(rank: int) -> None:
    with pytest.raises(AssertionError, match=f"rank {rank} in a world of 8"):
        Topology(8, 2).rank_coordinates(rank)


def test_rejects_a_world_that_does_not_split() -> None:
    with pytest.raises(TopologyError, match=r"parallel\.num_workers 6 is not a multiple"):
        Topology(6, 4)


@pytest.mark.parametrize("sequence_parallel", [1, 2, 3, 8])
def test_slices_cover_every_token_once_in_order(sequence_parallel: int) -> None:
    tokens = np.arange(48)
    parts = [tokens[rank_slice(48, sequence_parallel, rank)] for rank in range(sequence_parallel)]
    assert {len(part) for part in parts} == {48 // sequence_parallel}
    assert np.array_equal(np.concatenate(parts), tokens)


def test_slices_never_drop_a_tail() -> None:
    with pytest.raises(TopologyError, match=r"23999 tokens do not split over .* 8 ranks; use 23992 or 24000 tokens"):
        rank_slice(23_999, 8, 0)


def test_a_slice_for_a_rank_outside_the_group_is_a_bug() -> None:
    with pytest.raises(AssertionError, match="rank 4 of 4"):
        rank_slice(8, 4, 4)
