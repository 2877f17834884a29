"""Held-out loss by position in the context: does a token far inside profit from what lies far before it?

Plain text in, mean cross-entropy per bucket of positions out; `run` puts the curve in the report.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn

from longspan.errors import ConfigError, DataError
from longspan.evaluate.grid import LOGITS_CHUNK, hidden_states


@dataclass(frozen=True)
class LossCurve:
    """Mean cross-entropy (nats per token) in buckets of positions.

    Attributes:
        length: tokens a window.
        edges: rising, [num_buckets + 1]; bucket b holds the targets at edges[b] <= position < edges[b + 1].
        loss: mean over all targets of the bucket.
        stderr: of `loss`, over windows (tokens of one window are not independent); None with one window.
        counts: targets a bucket.
        windows: windows read; no two share a token.
        joined: windows run across document ends, because too few documents are long enough for windows of their own.
    """

    length: int
    edges: tuple[int, ...]
    loss: tuple[float, ...]
    stderr: tuple[float | None, ...]
    counts: tuple[int, ...]
    windows: int
    joined: bool

    @property
    def mean(self) -> float:
        """Mean over all targets."""
        return float(np.average(self.loss, weights=self.counts))

    def to_dict(self) -> dict[str, Any]:
        """The same as JSON-able lists and numbers, with `positions`, the geometric centres of buckets, for plots."""
        centres = [math.sqrt(low * (high - 1)) for low, high in pairwise(self.edges)]
        return {
            "length": self.length,
            "positions": centres,
            "edges": list(self.edges),
            "loss": list(self.loss),
            "stderr": list(self.stderr),
            "counts": list(self.counts),
            "mean": self.mean,
            "windows": self.windows,
            "joined": self.joined,
        }


def loss_by_position(
    model: nn.Module,
    text_documents: Sequence[NDArray[np.uint32]],
    length: int,
    *,
    windows: int = 16,
    buckets: int | Sequence[int] = 16,
    device: torch.device | str,
    batch_tokens: int = 16384,
) -> LossCurve:
    """Mean cross-entropy of held-out text by position, at contiguous positions 0 to `length` - 1.

    Args:
        model: a causal LM on `device`; its mode is put back as it was.
        text_documents: held-out documents, token ids [num_tokens] each.
        length: tokens a window, >= 2.
        windows: how many windows to read; fewer are read where the text has no more.
        buckets: number of buckets, spaced evenly in the logarithm of the position, or rising edges in [1, length].
        batch_tokens: tokens a forward pass; a longer window goes alone. Logits are held for 2,048 tokens at once.

    Raises:
        ConfigError: a length below 2, a count below 1, or edges that do not rise within [1, length].
        DataError: the documents together are shorter than `length`.
    """
    if length < 2 or windows < 1 or batch_tokens < 1:
        raise ConfigError(
            f"loss by position: length={length}, windows={windows}, batch_tokens={batch_tokens};"
            " must be at least 2, 1, 1"
        )
    edges = bucket_edges(length, buckets)
    rows, joined = text_windows(text_documents, length, windows)
    batch = max(1, batch_tokens // length)
    was_training = model.training
    model.eval()
    try:
        with torch.no_grad():
            losses = np.concatenate(
                [_target_losses(model, rows[start : start + batch], device) for start in range(0, len(rows), batch)]
            )
    finally:
        model.train(was_training)
    return curve_of(losses, edges, length, joined)


def bucket_edges(length: int, buckets: int | Sequence[int]) -> tuple[int, ...]:
    """Rising bucket edges in [1, length]; position 0 is no target. Log-spaced edges that round to one fall together."""
    if isinstance(buckets, int):
        if buckets < 1:
            raise ConfigError(f"loss by position: buckets={buckets}; must be at least 1")
        spaced = np.unique(np.geomspace(1, length, buckets + 1).round().astype(int))
        return tuple(int(edge) for edge in spaced)
    edges = tuple(int(edge) for edge in buckets)
    if len(edges) < 2 or edges[0] < 1 or edges[-1] > length or any(a >= b for a, b in pairwise(edges)):
        raise ConfigError(
            f"loss by position: bucket edges {list(edges)} must rise, at least two of them, within [1, {length}]"
        )
    return edges


def text_windows(documents: Sequence[NDArray[np.uint32]], length: int, windows: int) -> tuple[NDArray[np.uint32], bool]:
    """Up to `windows` windows without a common token, uint32 [num_windows, length], and whether they are joined.

    Windows lie inside documents where these are long enough for all that were asked for; else the documents are joined
    in order, and windows cross their ends. The choice depends on the text alone, so every model reads the same.

    Raises:
        DataError: the documents together are shorter than `length`.
    """
    inside = [
        document[start : start + length]
        for document in documents
        for start in range(0, document.size - length + 1, length)
    ]
    joined = len(inside) < windows
    if joined:
        total = sum(document.size for document in documents)
        if total < length:
            raise DataError(
                f"loss by position: the held-out text has {total} tokens, a window needs {length}; give a larger"
                " evaluate.text_source or shorter evaluate.lengths"
            )
        text = np.concatenate(documents)
        inside = [text[start : start + length] for start in range(0, total - length + 1, length)]
    chosen = np.linspace(0, len(inside) - 1, min(windows, len(inside))).round().astype(int)
    return np.stack([inside[index] for index in chosen]), joined


def curve_of(losses: NDArray[np.float64], edges: tuple[int, ...], length: int, joined: bool) -> LossCurve:
    """The curve of `losses` float64 [windows, length - 1]; column i is the loss of the target at position i + 1."""
    windows = len(losses)
    by_window = np.stack([losses[:, low - 1 : high - 1].mean(axis=1) for low, high in pairwise(edges)])
    errors = [float(row.std(ddof=1)) / math.sqrt(windows) if windows > 1 else None for row in by_window]
    return LossCurve(
        length=length,
        edges=edges,
        loss=tuple(float(value) for value in by_window.mean(axis=1)),
        stderr=tuple(errors),
        counts=tuple(windows * (high - low) for low, high in pairwise(edges)),
        windows=windows,
        joined=joined,
    )


def _target_losses(model: nn.Module, rows: NDArray[np.uint32], device: torch.device | str) -> NDArray[np.float64]:
    """Cross-entropy float64 [batch, length - 1] of every target of `rows` [batch, length]."""
    tokens = torch.from_numpy(rows.astype(np.int64)).to(device)
    # The last state predicts nothing that is known.
    states = hidden_states(model, tokens)[:, :-1].flatten(0, 1)
    targets = tokens[:, 1:].flatten()
    head: Any = model.get_output_embeddings()  # type: ignore[operator]
    parts: list[Tensor] = [
        F.cross_entropy(head(state).float(), target, reduction="none")
        for state, target in zip(states.split(LOGITS_CHUNK), targets.split(LOGITS_CHUNK), strict=True)
    ]
    losses: NDArray[np.float64] = torch.cat(parts).reshape(len(rows), -1).cpu().numpy().astype(np.float64)
    return losses
