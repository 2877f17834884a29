"""Scores of the tokens of one document, from forward passes over windows of it.

Called by `run`, a document at a time. Nothing here depends on the documents before or after, so that a document's
scores are the same whoever computes them. Logits are held for `LOGITS_CHUNK` tokens at once, never for a document.
"""

from collections.abc import Iterator, Sequence
from itertools import groupby
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from longspan.corpus.impact.settings import Measure, ScoreSettings
from longspan.evaluate.grid import LOGITS_CHUNK, hidden_states
from longspan.impact.models import Pair


class Window(NamedTuple):
    """Tokens [begin, end) of a document; those from `first` on are scored here, and in no other window."""

    begin: int
    end: int
    first: int


def document_windows(num_tokens: int, width: int, stride: int) -> list[Window]:
    """Windows of `width` tokens at every `stride`, in which each token but the first is scored once.

    A token has at least `width` - `stride` tokens of its window before it, or all there are.
    """
    windows = [Window(0, min(width, num_tokens), 1)]
    while windows[-1].end < num_tokens:
        before = windows[-1]
        begin = before.begin + stride
        windows.append(Window(begin, min(begin + width, num_tokens), before.end))
    return windows


def document_scores(
    pair: Pair, tokens: NDArray[np.uint32], settings: ScoreSettings, batch_tokens: int
) -> NDArray[np.float32]:
    """Score of every token of a document: what the long prefix adds (see `settings`), in nats for log-probabilities.

    Args:
        tokens: uint32 [num_tokens], at least one.

    Returns:
        float32 [num_tokens]; 0 for the first token, which has no prefix. With one model also 0, and never computed,
        for the tokens before `settings.first_scored`, whose two prefixes are the same.
    """
    scores = np.zeros(tokens.size, np.float32)
    if tokens.size <= settings.first_scored:
        return scores
    long_windows = document_windows(tokens.size, settings.window, max(1, settings.window // 2))
    base_windows = long_windows
    if settings.short_prefix is not None:
        base_windows = document_windows(tokens.size, settings.short_width, settings.stride)
    if pair.base is None:
        base_windows = base_windows[1:]
    long = gold_values(pair.long, tokens, long_windows, settings.measure, batch_tokens)
    base = gold_values(pair.base or pair.long, tokens, base_windows, settings.measure, batch_tokens)
    begin = settings.first_scored
    scores[begin:] = long[begin:] - base[begin:]
    return scores


def gold_values(
    model: nn.Module, tokens: NDArray[np.uint32], windows: Sequence[Window], measure: Measure, batch_tokens: int
) -> NDArray[np.float32]:
    """Log-probability or logit of each token itself after the tokens before it in its window.

    Args:
        model: a causal LM in evaluation mode.

    Returns:
        float32 [num_tokens], 0 where no window scores the token.
    """
    device = next(model.parameters()).device
    ids = torch.from_numpy(tokens.astype(np.int64)).to(device)
    values = np.zeros(tokens.size, np.float32)
    with torch.inference_mode():
        for batch in _batches(windows, batch_tokens):
            # The last token of a window predicts nothing that is asked of it.
            rows = torch.stack([ids[window.begin : window.end - 1] for window in batch])
            states = hidden_states(model, rows)
            for window, state in zip(batch, states, strict=True):
                gold = _gold(model, state[window.first - 1 - window.begin :], ids[window.first : window.end], measure)
                values[window.first : window.end] = gold.cpu().numpy()
    return values


def _batches(windows: Sequence[Window], batch_tokens: int) -> Iterator[list[Window]]:
    """Neighbouring windows of one width, about `batch_tokens` tokens together; those of one token ask nothing."""
    for width, group in groupby(windows, lambda window: window.end - window.begin):
        same = list(group)
        step = max(1, batch_tokens // width)
        if width > 1:
            yield from (same[begin : begin + step] for begin in range(0, len(same), step))


def _gold(model: nn.Module, states: Tensor, targets: Tensor, measure: Measure) -> Tensor:
    """float32 [num_targets] of the states [num_targets, hidden] that predict `targets`."""
    head: Any = model.get_output_embeddings()  # type: ignore[operator]
    parts = []
    for state, target in zip(states.split(LOGITS_CHUNK), targets.split(LOGITS_CHUNK), strict=True):
        logits = head(state).float()
        gold = logits.gather(1, target[:, None])[:, 0]
        parts.append(gold if measure == "logit" else gold - logits.logsumexp(dim=1))
    return torch.cat(parts)
