"""How the world splits: data-parallel times sequence-parallel ranks, and every divisibility rule.

Pure arithmetic on whole numbers; no process group is made here.
"""

from longspan.topology.checks import (
    check_attention_heads,
    check_global_batch,
    check_head_halves,
    check_micro_batch_tokens,
    check_sequence_length,
    check_world_size,
)
from longspan.topology.layout import Coordinates, Topology, rank_slice

__all__ = [
    "Coordinates",
    "Topology",
    "check_attention_heads",
    "check_global_batch",
    "check_head_halves",
    "check_micro_batch_tokens",
    "check_sequence_length",
    "check_world_size",
    "rank_slice",
]
