"""The needle grid itself: examples in, one forward pass per batch, accuracy by depth and length out.

`needles` and `plain_needles` make the examples, each a pure function of (seed, length, index), so that every model is
asked the same questions; `run` puts the result in the report.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from longspan.errors import ConfigError

MakeExample = Callable[[int, int], "GridExample"]
"""Example number `index` of a length: `make(length, index)`, the same for every model."""
LOGITS_CHUNK = 2048
"""Tokens whose logits over the whole vocabulary are held at once."""


@dataclass(frozen=True)
class GridExample:
    """One sequence with a needle in every depth bin, all asked at its end, the true answers in place (teacher forcing).

    Attributes:
        tokens: uint32 [length].
        positions: int64 [num_answer_tokens], index of each answer token; what predicts it stands one before.
        bins: int64 [num_answer_tokens], depth bin (0 is the start) of the needle that the token answers for.
    """

    tokens: NDArray[np.uint32]
    positions: NDArray[np.int64]
    bins: NDArray[np.int64]


@dataclass(frozen=True)
class NeedleGrid:
    """Retrieval accuracy by needle depth and context length.

    Attributes:
        task: what was asked: `tokens` (needle tokens of the vocabulary), `text` (plain sentences), or a harder task.
        lengths: context lengths in tokens, rising.
        depths: centres of the depth bins, as fractions of the text (0 is its start).
        accuracy: [depth][length], share of needles retrieved exactly; `examples` needles a cell.
        mean: by length, over all depths.
        stderr: by length, of `mean`, over examples (the needles of one are not independent); None for one example.
        examples: sequences a length.
    """

    task: str
    lengths: tuple[int, ...]
    depths: tuple[float, ...]
    accuracy: tuple[tuple[float, ...], ...]
    mean: tuple[float, ...]
    stderr: tuple[float | None, ...]
    examples: int

    def to_dict(self) -> dict[str, Any]:
        """The same as JSON-able lists and numbers."""
        return {
            "task": self.task,
            "lengths": list(self.lengths),
            "depths": list(self.depths),
            "accuracy": [list(row) for row in self.accuracy],
            "mean": list(self.mean),
            "stderr": list(self.stderr),
            "examples": self.examples,
        }


def score_grid(
    model: nn.Module,
    make_example: MakeExample,
    lengths: Sequence[int],
    *,
    task: str,
    num_needles: int,
    examples: int,
    device: torch.device | str,
    batch_tokens: int = 16384,
    before_length: Callable[[int], None] | None = None,
    report: Callable[[str], None] | None = None,
) -> NeedleGrid:
    """Scores `make_example(length, index)` for every length and index < `examples`.

    Args:
        model: a causal LM on `device`; its mode is put back as it was.
        lengths: context lengths in tokens, questions and answers included.
        num_needles: needles (or questions) a sequence.
        batch_tokens: tokens a forward pass; a longer sequence goes alone.
        before_length: called with each length before the model reads the first sequence of it.
        report: called with one line after each length.

    Raises:
        ConfigError: no length, or a count below 1.
    """
    if not lengths or min(num_needles, examples, batch_tokens) < 1:
        raise ConfigError(
            f"needle grid: lengths={list(lengths)}, num_needles={num_needles}, examples={examples},"
            f" batch_tokens={batch_tokens}; needs at least one length, and counts of 1 or more"
        )
    lengths = sorted(set(lengths))
    hits = np.zeros((len(lengths), examples, num_needles), dtype=bool)
    for row, length in enumerate(lengths):
        if before_length is not None:
            before_length(length)
        batch = max(1, batch_tokens // length)
        for start in range(0, examples, batch):
            made = [make_example(length, index) for index in range(start, min(start + batch, examples))]
            hits[row, start : start + len(made)] = retrieved(model, made, num_needles, device)
        if report is not None:
            report(f"needle grid of {task}: {length:,} tokens: {hits[row].mean():.3f}")
    return grid_of(hits, lengths, task)


def grid_of(hits: NDArray[np.bool_], lengths: Sequence[int], task: str) -> NeedleGrid:
    """The grid of `hits` bool [lengths, examples, num_needles], needles in order of depth."""
    _, examples, num_needles = hits.shape
    by_example = hits.mean(axis=2)
    errors = [float(row.std(ddof=1)) / math.sqrt(examples) if examples > 1 else None for row in by_example]
    return NeedleGrid(
        task=task,
        lengths=tuple(int(length) for length in lengths),
        depths=tuple((index + 0.5) / num_needles for index in range(num_needles)),
        accuracy=tuple(tuple(float(cell) for cell in row) for row in hits.mean(axis=1).T),
        mean=tuple(float(value) for value in by_example.mean(axis=1)),
        stderr=tuple(errors),
        examples=examples,
    )


def retrieved(
    model: nn.Module, examples: Sequence[GridExample], num_needles: int, device: torch.device | str
) -> NDArray[np.bool_]:
    """Which needles the model retrieves: bool [examples, num_needles], in order of depth.

    A needle counts when every token of its answer is the most likely one of the whole vocabulary, given the true tokens
    before it.
    """
    tokens = torch.from_numpy(np.stack([example.tokens for example in examples]).astype(np.int64)).to(device)
    rows = np.repeat(np.arange(len(examples)), [example.positions.size for example in examples])
    columns = np.concatenate([example.positions for example in examples])
    bins = np.concatenate([example.bins for example in examples])
    row_index, column_index = (torch.from_numpy(index).to(device) for index in (rows, columns))
    predicted = predict(model, tokens, row_index, column_index - 1)
    right = (predicted == tokens[row_index, column_index]).cpu().numpy()
    wrong = np.zeros((len(examples), num_needles), dtype=np.int64)
    np.add.at(wrong, (rows, bins), ~right)
    hits: NDArray[np.bool_] = wrong == 0
    return hits


def predict(model: nn.Module, tokens: Tensor, rows: Tensor, columns: Tensor) -> Tensor:
    """Most likely next token int64 [N] after `tokens[rows[i], columns[i]]`; `tokens` int64 [batch, length].

    The language-model head sees the asked places only: logits of a whole long sequence would not fit.
    """
    was_training = model.training
    model.eval()
    try:
        with torch.no_grad():
            asked = hidden_states(model, tokens)[rows, columns]
            head: Any = model.get_output_embeddings()  # type: ignore[operator]
            return torch.cat([head(part).argmax(dim=-1) for part in asked.split(LOGITS_CHUNK)])
    finally:
        model.train(was_training)


def hidden_states(model: nn.Module, tokens: Tensor) -> Tensor:
    """Last hidden states [batch, length, hidden] of the base model, every row one document at positions 0, 1, 2, ..."""
    backbone: Any = getattr(model, str(model.base_model_prefix))
    states: Tensor = backbone(input_ids=tokens, use_cache=False).last_hidden_state
    return states
