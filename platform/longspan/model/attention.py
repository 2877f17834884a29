"""Attention whose mask comes from document boundaries only; positions go to the rotary embedding and nowhere else.

transformers infers packed documents from gaps in `position_ids` and so cuts a sample with skipped positions into pieces
that never see each other. This function is registered as `attn_implementation="longspan"` together with a mask function
that makes none, and reads the boundaries from one forward keyword, `documents`.
"""

import importlib.util
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from longspan.errors import ConfigError

NAME = "longspan"


class SequenceParallelAttention(Protocol):
    """What `model.ulysses` gives: attention over a sequence that is split over ranks."""

    def __call__(
        self, module: nn.Module, query: Tensor, key: Tensor, value: Tensor, documents: "Documents", scaling: float
    ) -> Tensor: ...


@dataclass(frozen=True)
class Documents:
    """Boundaries of the documents packed in one row of tokens, and how attention over them is computed.

    `cu_seqlens` is (0, end of document 1, end of document 2, ...), in tokens of the whole row even where ranks hold
    slices of it; it is kept on the host so that no layer waits for the device.
    """

    cu_seqlens: tuple[int, ...]
    kernel: str = "sdpa"
    sequence_parallel: SequenceParallelAttention | None = None
    device_cu_seqlens: Tensor | None = None
    group: int = 0
    """Tokens of a group of shifted sparse attention; 0: attention is whole."""
    halves: "tuple[Documents, Documents] | None" = None
    """What the first and the second half of the heads keep to, where that differs (`of_row`, with a `group`)."""

    @property
    def num_tokens(self) -> int:
        return self.cu_seqlens[-1]

    @property
    def lengths(self) -> tuple[int, ...]:
        return tuple(end - start for start, end in zip(self.cu_seqlens, self.cu_seqlens[1:], strict=False))

    def on(self, device: torch.device) -> "Documents":
        """The same with int32 cu_seqlens on `device` for the varlen kernels (nothing to do for a single document or a
        CPU).
        """
        if device.type == "cpu" or len(self.cu_seqlens) == 2:
            return self
        return replace(self, device_cu_seqlens=torch.tensor(self.cu_seqlens, dtype=torch.int32, device=device))

    def of_row(self, cu_seqlens: tuple[int, ...], device: torch.device) -> "Documents":
        """Kernel, sequence parallelism and groups of this layout over the boundaries of one row, ready on `device`."""
        halves = None
        if self.group:
            first, second = (Documents(cut, self.kernel).on(device) for cut in s2_boundaries(cu_seqlens, self.group))
            halves = (first, second)
        return replace(self, cu_seqlens=cu_seqlens, halves=halves).on(device)


def s2_boundaries(cu_seqlens: tuple[int, ...], group: int) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Boundaries for each half of the heads under LongLoRA's shifted sparse attention (2309.12307, section 3.2).

    The first half attends in groups of `group` tokens, the second in groups that begin half a group later, so that the
    first and the last one are short and nothing wraps around. What was a boundary stays one.

    Args:
        cu_seqlens: of a row of samples whose length is a multiple of `group`.
        group: even.
    """
    tokens = cu_seqlens[-1]
    first, second = (sorted({*cu_seqlens, *range(begin, tokens, group)}) for begin in (0, group // 2))
    return tuple(first), tuple(second)


def resolve_kernel(requested: str, device: torch.device) -> str:
    """`flash_attn` or `sdpa` for the `model.attention` setting on this device.

    Raises:
        ConfigError: flash_attn is named, but is not installed or there is no GPU.
    """
    if requested == "flash_attn" and not (device.type == "cuda" and importlib.util.find_spec("flash_attn")):
        lack = "is not installed here; install it" if device.type == "cuda" else "needs a GPU; train on one"
        raise ConfigError(f"model.attention: flash_attn {lack}, or take auto")
    if requested == "auto":
        return "flash_attn" if device.type == "cuda" and importlib.util.find_spec("flash_attn") else "sdpa"
    return requested


def longspan_attention(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    dropout: float = 0.0,
    scaling: float | None = None,
    documents: Documents | None = None,
    **_: Any,
) -> tuple[Tensor, None]:
    """Causal attention inside documents; the function that transformers calls in every layer.

    Args:
        query: [batch, heads, tokens, head_dim]; key and value: [batch, kv_heads, kv_tokens, head_dim].
        attention_mask: must be None: structure comes from `documents` alone.
        documents: boundaries of the single row; None: every batch row is one document (evaluation, generation).

    Returns:
        [batch, tokens, heads, head_dim] and None (no attention weights).

    Raises:
        ValueError: a mask, dropout, or several rows together with `documents` were given.
    """
    if attention_mask is not None:
        raise ValueError("longspan attention takes its structure from `documents`; pass no attention_mask")
    if dropout:
        raise ValueError(f"attention_dropout {dropout} is not supported: set it to 0 in the model's config")
    scale = query.shape[-1] ** -0.5 if scaling is None else scaling
    if documents is None:
        return _rows(query, key, value, scale).transpose(1, 2), None
    if query.shape[0] != 1:
        raise ValueError(f"`documents` describe one row of tokens, not {query.shape[0]}")
    if documents.sequence_parallel is not None:
        return documents.sequence_parallel(module, query, key, value, documents, scale), None
    return document_attention(query, key, value, documents, scale), None


def document_attention(query: Tensor, key: Tensor, value: Tensor, documents: Documents, scale: float) -> Tensor:
    """Attention over one whole row [1, heads, tokens, head_dim]; returns [1, tokens, heads, head_dim]."""
    if query.shape[2] != documents.num_tokens:
        raise ValueError(f"cu_seqlens end at {documents.num_tokens}, but the row has {query.shape[2]} tokens")
    if documents.halves is not None:
        return _by_halves(query, key, value, documents.halves, scale)
    if documents.kernel == "flash_attn":
        return _flash_attn(query, key, value, documents, scale)
    lengths = documents.lengths
    if documents.device_cu_seqlens is not None and query.dtype in (torch.bfloat16, torch.float16):
        return _torch_varlen(query, key, value, documents, scale)
    if len(set(lengths)) == 1:
        return _equal_lengths(query, key, value, len(lengths), scale)
    parts = zip(*(tensor.split(lengths, dim=2) for tensor in (query, key, value)), strict=True)
    return torch.cat([_rows(q, k, v, scale) for q, k, v in parts], dim=2).transpose(1, 2)


def _by_halves(query: Tensor, key: Tensor, value: Tensor, halves: tuple[Documents, Documents], scale: float) -> Tensor:
    """Each half of the heads over its own boundaries; a half of the key-value heads is that of its queries."""
    parts = zip(*(tensor.chunk(2, dim=1) for tensor in (query, key, value)), halves, strict=True)
    return torch.cat([document_attention(q, k, v, documents, scale) for q, k, v, documents in parts], dim=2)


def _rows(query: Tensor, key: Tensor, value: Tensor, scale: float) -> Tensor:
    """Causal attention, every row one document; with a KV cache the queries are the last tokens."""
    queries, keys = query.shape[2], key.shape[2]
    mask = None
    if 1 < queries < keys:
        mask = torch.ones(queries, keys, dtype=torch.bool, device=query.device).tril(keys - queries)
    return F.scaled_dot_product_attention(
        query, key, value, attn_mask=mask, is_causal=queries == keys and queries > 1, scale=scale, enable_gqa=True
    )


def _equal_lengths(query: Tensor, key: Tensor, value: Tensor, count: int, scale: float) -> Tensor:
    """Documents of one length are a batch: one kernel call and no mask."""

    def rows(tensor: Tensor) -> Tensor:
        return tensor[0].unflatten(1, (count, -1)).transpose(0, 1)

    out = _rows(rows(query), rows(key), rows(value), scale)
    return out.permute(0, 2, 1, 3).flatten(0, 1).unsqueeze(0)


def _varlen_layout(tensor: Tensor) -> Tensor:
    return tensor[0].transpose(0, 1).contiguous()


def _torch_varlen(query: Tensor, key: Tensor, value: Tensor, documents: Documents, scale: float) -> Tensor:
    from torch.nn.attention.varlen import varlen_attn

    cu_seqlens, longest = documents.device_cu_seqlens, max(documents.lengths)
    assert cu_seqlens is not None
    out = varlen_attn(
        _varlen_layout(query),
        _varlen_layout(key),
        _varlen_layout(value),
        cu_seqlens,
        cu_seqlens,
        longest,
        longest,
        scale=scale,
        window_size=(-1, 0),
        enable_gqa=True,
    )
    assert isinstance(out, Tensor)
    return out.unsqueeze(0)


def _flash_attn(query: Tensor, key: Tensor, value: Tensor, documents: Documents, scale: float) -> Tensor:
    from flash_attn import flash_attn_func, flash_attn_varlen_func

    if documents.device_cu_seqlens is None:
        return flash_attn_func(*(t.transpose(1, 2) for t in (query, key, value)), softmax_scale=scale, causal=True)
    cu_seqlens, longest = documents.device_cu_seqlens, max(documents.lengths)
    out = flash_attn_varlen_func(
        *(_varlen_layout(tensor) for tensor in (query, key, value)),
        cu_seqlens,
        cu_seqlens,
        longest,
        longest,
        softmax_scale=scale,
        causal=True,
    )
    return out.unsqueeze(0)


def _no_mask(*_: Any, **__: Any) -> None:
    """Mask function of `longspan` attention: boundaries arrive as `documents`, so transformers makes no mask."""


def register() -> None:
    """Make `attn_implementation="longspan"` known to transformers; safe to call again."""
    from transformers import AttentionInterface
    from transformers.masking_utils import AttentionMaskInterface

    functions: tuple[tuple[Any, Callable[..., Any]], ...] = (
        (AttentionInterface, longspan_attention),
        (AttentionMaskInterface, _no_mask),
    )
    for interface, function in functions:
        interface.register(NAME, function)
