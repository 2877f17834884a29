"""Mixed windows in the model: a rotary embedding that turns every document at the RoPE of its own length.

LongRoPE2 (arXiv 2502.20082): documents within the original window keep the original frequencies, longer ones get the
extended ones. `model.load` puts it in the place of the model's own rotary embedding; which document gets which is said
by `rope.mixed_window`.
"""

from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from longspan.model.attention import Documents
from longspan.rope import MixedWindow, attention_scaling, uses_original, window_frequencies
from longspan.topology import rank_slice


class MixedRotary(nn.Module):
    """Rotary embedding of a backbone whose documents differ in their frequencies.

    A backbone hands positions to its rotary embedding and nothing else, so the boundaries come by a hook before its
    forward. Under sequence parallelism a rank holds one slice of the row and of its positions; which slice is told once
    as `sequence_rank`.
    """

    inv_freq: Tensor
    original_inv_freq: Tensor

    def __init__(self, mixed: MixedWindow, head_dim: int, sequence_rank: int = 0) -> None:
        super().__init__()
        original, extended = window_frequencies(mixed, head_dim)
        self.mixed, self.sequence_rank = mixed, sequence_rank
        # That of both: `rope.resolve` refuses two that differ, since no config could say them.
        self.attention_scaling = attention_scaling(mixed.extended)
        self.register_buffer("inv_freq", torch.from_numpy(extended.copy()), persistent=False)
        self.register_buffer("original_inv_freq", torch.from_numpy(original.copy()), persistent=False)
        self._keeps_original: Tensor | None = None

    def begin(self, documents: Documents | None, local_tokens: int) -> None:
        """Take the boundaries of the row whose slice of `local_tokens` is turned next.

        Raises:
            ValueError: no boundaries. DataError: a document is longer than the target window.
        """
        if documents is None:
            raise ValueError("a model with mixed windows turns tokens by their document; pass `documents`")
        lengths = np.asarray(documents.lengths)
        row = np.repeat(uses_original(self.mixed, lengths), lengths)
        part = rank_slice(len(row), len(row) // local_tokens, self.sequence_rank)
        self._keeps_original = torch.from_numpy(row[part])[:, None].to(self.inv_freq.device, non_blocking=True)

    def forward(self, x: Tensor, position_ids: Tensor) -> tuple[Tensor, Tensor]:
        """(cos, sin), each [1, tokens, rotated dimensions] in the type of `x`; position_ids [1, tokens]."""
        assert self._keeps_original is not None, "begin() comes before forward()"
        with torch.autocast(device_type=x.device.type, enabled=False):
            frequencies = torch.where(self._keeps_original, self.original_inv_freq, self.inv_freq).float()
            angles = position_ids[..., None].float() * frequencies
            turned = torch.cat((angles, angles), dim=-1)
            cos, sin = turned.cos() * self.attention_scaling, turned.sin() * self.attention_scaling
        return cos.to(x.dtype), sin.to(x.dtype)


def turn_by_document(network: nn.Module, mixed: MixedWindow, head_dim: int, sequence_rank: int) -> None:
    """Put a `MixedRotary` in the place of the rotary embedding of `network`, a causal LM of transformers."""
    model: Any = network
    backbone = getattr(model, model.base_model_prefix)
    device = backbone.rotary_emb.inv_freq.device
    rotary = MixedRotary(mixed, head_dim, sequence_rank).to(device)
    backbone.rotary_emb = rotary

    def begin(_: nn.Module, __: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        rotary.begin(kwargs.get("documents"), kwargs["position_ids"].shape[-1])

    backbone.register_forward_pre_hook(begin, with_kwargs=True)
