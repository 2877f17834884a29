"""The trainer's forward: from one row of tokens to a weighted sum of cross-entropies, never holding all logits."""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from longspan.model.attention import Documents

IGNORE = -100


class CausalLMLoss(nn.Module):
    """A causal LM whose forward returns sum_i w_i * CE_i over the targets of this rank's tokens (float32 scalar).

    The caller divides by the sum of weights of the whole global batch, once (LongAlign 2401.18058 and reliability.md: a
    mean per rank is wrong as soon as ranks hold unequal numbers of targets).
    """

    def __init__(self, model: nn.Module, loss_chunk: int) -> None:
        super().__init__()
        self.model = model
        self.loss_chunk = loss_chunk

    def hidden_states(self, input_ids: Tensor, positions: Tensor, documents: Documents) -> Tensor:
        """Last hidden states [1, tokens, hidden]; positions float32 [1, tokens] reach the rotary embedding only."""
        network: Any = self.model
        backbone = getattr(network, network.base_model_prefix)
        out = backbone(input_ids=input_ids, position_ids=positions, documents=documents, use_cache=False)
        return out.last_hidden_state

    def forward(
        self, input_ids: Tensor, positions: Tensor, labels: Tensor, loss_weight: Tensor, documents: Documents
    ) -> Tensor:
        """All tensors [1, tokens]; labels are shifted already: labels[i] is the token after i, -100 for none."""
        hidden = self.hidden_states(input_ids, positions, documents)[0]
        head = self.model.get_output_embeddings()  # type: ignore[operator]
        total = hidden.new_zeros((), dtype=torch.float32)
        for part, label, weight in zip(
            hidden.split(self.loss_chunk),
            labels[0].split(self.loss_chunk),
            loss_weight[0].split(self.loss_chunk),
            strict=True,
        ):
            total = total + checkpoint(_chunk_loss, head, part, label, weight, use_reentrant=False)
        return total


def _chunk_loss(head: nn.Module, hidden: Tensor, labels: Tensor, weight: Tensor) -> Tensor:
    losses = F.cross_entropy(head(hidden).float(), labels, ignore_index=IGNORE, reduction="none")
    return (losses * weight).sum()
