"""DeepSpeed's Ulysses attention around ours: ranks hold slices of the sequence, and exchange them for slices of the
heads.

Its own handling of packed documents (every mask dropped, boundaries guessed from position ids) never comes into play:
between the two all-to-alls it calls `document_attention`, which reads the boundaries of the whole row.
"""

from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from longspan.model.attention import Documents, document_attention


class UlyssesAttention:
    """Attention over a row that the ranks of `process_group` share by equal slices, in rank order."""

    def __init__(self, process_group: Any, num_heads: int, num_kv_heads: int, head_dim: int, num_layers: int) -> None:
        from deepspeed.runtime.sequence_parallel.ulysses_sp import UlyssesSPAttentionHF

        # Rank r computes the r-th of equal shares of the heads; see `topology.check_head_halves`.
        self._half = 2 * dist.get_rank(process_group) // dist.get_world_size(process_group)
        self._ulysses = UlyssesSPAttentionHF(
            attn=_whole_row,
            batch_size=1,
            attn_head_count=num_heads,
            attn_head_size=head_dim,
            kv_head_count=num_kv_heads,
            num_hidden_layers=num_layers,
            process_group=process_group,
            seq_length_is_variable=True,
        )

    def __call__(
        self, module: nn.Module, query: Tensor, key: Tensor, value: Tensor, documents: Documents, scaling: float
    ) -> Tensor:
        """[1, heads, tokens / ranks, head_dim] of this rank to [1, tokens / ranks, heads, head_dim]."""
        if documents.halves is not None:
            documents = documents.halves[self._half]
        # Ulysses gathers position_ids in every layer for kernels that read boundaries from them. Ours does not: one
        # number keeps that collective small.
        placeholder = torch.zeros(1, 1, dtype=torch.int32, device=query.device)
        out, _ = self._ulysses(
            module, query, key, value, None, position_ids=placeholder, documents=documents, scaling=scaling
        )
        return out.unflatten(-1, (query.shape[1], query.shape[3]))


def _whole_row(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: None,
    *,
    documents: Documents,
    scaling: float,
    position_ids: Tensor,
) -> tuple[Tensor, None]:
    return document_attention(query, key, value, documents, scaling), None
