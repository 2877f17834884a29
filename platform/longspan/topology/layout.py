"""How the world splits into data-parallel times sequence-parallel ranks.

Pure arithmetic, used by `feed` (which rows a rank reads), `train` and `launch` (process groups). Ranks of one
sequence-parallel group are neighbours, so that its all-to-all stays inside a machine.
"""

from dataclasses import dataclass

from longspan.topology.checks import check_sequence_length, check_world_size


@dataclass(frozen=True)
class Coordinates:
    """Where a global rank stands: which group of sequence-parallel ranks, and which place in it."""

    data_parallel_rank: int
    sequence_parallel_rank: int


@dataclass(frozen=True)
class Topology:
    """A world of ranks split into groups of `sequence_parallel` neighbours that share each sample.

    rank = data_parallel_rank * sequence_parallel + sequence_parallel_rank.

    Raises:
        TopologyError: from the constructor, when world_size is not a multiple of sequence_parallel.
    """

    world_size: int
    sequence_parallel: int = 1

    def __post_init__(self) -> None:
        check_world_size(self.world_size, self.sequence_parallel)

    @property
    def data_parallel(self) -> int:
        """Number of sequence-parallel groups: how many different samples are in work at once."""
        return self.world_size // self.sequence_parallel

    def rank_coordinates(self, rank: int) -> Coordinates:
        """Coordinates of a global rank, 0 <= rank < world_size."""
        assert 0 <= rank < self.world_size, f"rank {rank} in a world of {self.world_size}"
        return Coordinates(rank // self.sequence_parallel, rank % self.sequence_parallel)

    def sequence_parallel_groups(self) -> tuple[tuple[int, ...], ...]:
        """Global ranks of each sequence-parallel group, by data-parallel rank: neighbours."""
        size = self.sequence_parallel
        return tuple(tuple(range(start, start + size)) for start in range(0, self.world_size, size))

    def data_parallel_groups(self) -> tuple[tuple[int, ...], ...]:
        """Global ranks with the same sequence-parallel rank, by that rank: a stride of `sequence_parallel`."""
        size = self.sequence_parallel
        return tuple(tuple(range(place, self.world_size, size)) for place in range(size))


def rank_slice(num_tokens: int, sequence_parallel: int, sequence_parallel_rank: int) -> slice:
    """The contiguous, equal part of `num_tokens` tokens (by index, never by position) that one rank works on.

    Raises:
        TopologyError: num_tokens is not a multiple of sequence_parallel (a tail would be dropped).
    """
    check_sequence_length(num_tokens, sequence_parallel)
    assert 0 <= sequence_parallel_rank < sequence_parallel, f"rank {sequence_parallel_rank} of {sequence_parallel}"
    share = num_tokens // sequence_parallel
    return slice(sequence_parallel_rank * share, (sequence_parallel_rank + 1) * share)
