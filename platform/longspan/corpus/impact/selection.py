"""Sentences of a long sample, kept up to a fixed number of tokens: LongRecipe trains on these, spread over the window.

Pure: arrays in, spans out. Selection comes first and segments are those of what is kept; the released code cuts the
sample to its first tokens, drops sentences from those and never fills up, so its positions end half way.
"""

from dataclasses import dataclass
from typing import Literal, NamedTuple, get_args

import numpy as np
from numpy.typing import NDArray

from longspan.errors import ConfigError, DataError
from longspan.positions import segment_starts

Mode = Literal["prefix", "uniform", "weighted"]
Statistic = Literal["mean", "sum", "mean_abs"]
_SELECTION_STREAM = 0x5E1


@dataclass(frozen=True)
class SelectionRule:
    """How sentences are chosen.

    Attributes:
        mode: `prefix` keeps the first tokens, `uniform` sentences at random (the paper's Random-T), `weighted` those
            with the highest scores.
        budget: tokens to keep.
        statistic: a sentence's weight is the mean or the sum of its tokens' scores, negative ones counted as 0: a
            token that the longer context hurts does not undo one that it helps. `mean_abs` counts both alike, by size.
        temperature: of `weighted`. 0 takes the highest weights, ties at random; 1 draws without replacement in
            proportion to the weights (Efraimidis and Spirakis 2006), between and beyond in proportion to
            weight**(1 / temperature). Sentences of weight 0, which hold no impactful token, come after all others.
        keep_first: the sample's first sentence is always kept; the paper says nothing of it, attention sinks do.

    Raises:
        ConfigError: a value out of its range.
    """

    mode: Mode
    budget: int
    statistic: Statistic = "mean"
    temperature: float = 0.0
    keep_first: bool = True

    def __post_init__(self) -> None:
        for name, choices in (("mode", get_args(Mode)), ("statistic", get_args(Statistic))):
            if getattr(self, name) not in choices:
                raise ConfigError(f"selection.{name}: '{getattr(self, name)}'; must be one of {', '.join(choices)}")
        if self.budget < 1:
            raise ConfigError(f"selection.budget: {self.budget}; must be at least 1 token")
        if not 0 <= self.temperature < float("inf"):
            raise ConfigError(f"selection.temperature: {self.temperature}; must be 0 or more")


class Selection(NamedTuple):
    """What is kept of a sample, in the sample's order; all int64 [num_spans].

    A span is a run of neighbouring tokens of one document. Between two spans of one document is a splice: text is left
    out there, so the last token of a span has no target.

    Attributes:
        starts: first token of each span, in the sample.
        lengths: tokens.
        document: place of the span's document in the sample.
    """

    starts: NDArray[np.int64]
    lengths: NDArray[np.int64]
    document: NDArray[np.int64]


def sentence_starts(
    tokens: NDArray[np.integer], document_starts: NDArray[np.integer], ends_sentence: NDArray[np.bool_]
) -> NDArray[np.int64]:
    """Where sentences of a packed sample begin: after tokens that end one (`positions.segment_starts`), and with every
    document; the last token of a document is never one by itself. int64 [num_sentences], rising from 0.

    Args:
        tokens: [num_tokens].
        document_starts: [num_documents], first token of each document in the sample, rising from 0.
        ends_sentence: bool [vocab_size] (`Manifest.ends_sentence`), so that it holds for any tokenizer.
    """
    starts = segment_starts(tokens, ends_sentence)
    # The eos behind a full stop is no sentence: alone, and easy to tell, it would be chosen before all others.
    last = np.append(document_starts[1:], tokens.size) - 1
    return np.union1d(starts[~np.isin(starts, last)], document_starts).astype(np.int64)


def select_sentences(
    rule: SelectionRule,
    starts: NDArray[np.integer],
    document_starts: NDArray[np.integer],
    num_tokens: int,
    *,
    seed: int,
    index: int,
    scores: NDArray[np.floating] | None = None,
) -> Selection:
    """Exactly min(`rule.budget`, `num_tokens`) tokens of a sample, a pure function of its arguments.

    Sentences are taken whole, best first, until the next one has more tokens than there is room for: that one is cut to
    its first tokens, which fills the budget. They are put back in the order of the sample.

    Args:
        starts: [num_sentences], rising from 0 (`sentence_starts`).
        document_starts: [num_documents], rising from 0, all of them in `starts`.
        seed, index: of the run and of the sample in the whole plan; `uniform`, draws and ties depend on these alone.
        scores: [num_tokens], needed by `weighted`.

    Raises:
        DataError: starts that do not fit together, or scores that are missing, of another length or not finite.
    """
    if num_tokens < 1 or starts.size == 0 or starts[0] != 0 or starts[-1] >= num_tokens or (np.diff(starts) < 1).any():
        raise DataError(f"selection: sentence starts must rise from 0 within the sample's {num_tokens} tokens")
    known = document_starts.size > 0 and document_starts[0] == 0 and bool(np.isin(document_starts, starts).all())
    if not known or (np.diff(document_starts) < 1).any():
        raise DataError("selection: document starts must rise from 0, and each must begin a sentence")
    sizes = np.diff(np.append(starts, num_tokens)).astype(np.int64)
    rng = np.random.default_rng([seed, _SELECTION_STREAM, index])
    order = _order(rule, starts, sizes, rng, scores, num_tokens)
    if rule.keep_first:
        order = np.concatenate([[0], order[order != 0]])
    kept = np.zeros_like(sizes)
    before = np.cumsum(sizes[order]) - sizes[order]
    kept[order] = np.clip(rule.budget - before, 0, sizes[order])
    return _spans(starts.astype(np.int64), sizes, kept, document_starts)


def splice(
    selection: Selection, offsets: NDArray[np.int64], lengths: NDArray[np.integer]
) -> tuple[NDArray[np.int64], NDArray[np.int32]]:
    """The kept spans in the global token stream, as the sample plan gives spans: offsets int64 and lengths int32.

    Args:
        offsets, lengths: [num_documents], where each document of the sample lies in the stream.
    """
    sample_starts = np.cumsum(lengths, dtype=np.int64) - lengths
    moved = offsets[selection.document] + selection.starts - sample_starts[selection.document]
    return moved, selection.lengths.astype(np.int32)


def sentence_weights(
    scores: NDArray[np.floating], starts: NDArray[np.integer], statistic: Statistic
) -> NDArray[np.float64]:
    """Mean or sum of the positive scores of each sentence, or mean of all scores' sizes: float64 [num_sentences]."""
    sizes = np.abs(scores) if statistic == "mean_abs" else np.maximum(scores, 0)
    total = np.add.reduceat(sizes.astype(np.float64), starts)
    return total if statistic == "sum" else total / np.diff(np.append(starts, scores.size))


def _order(
    rule: SelectionRule,
    starts: NDArray[np.integer],
    sizes: NDArray[np.int64],
    rng: np.random.Generator,
    scores: NDArray[np.floating] | None,
    num_tokens: int,
) -> NDArray[np.intp]:
    """Sentences, those to be kept before others."""
    if rule.mode == "prefix":
        return np.arange(sizes.size)
    if rule.mode == "uniform":
        return rng.permutation(sizes.size)
    if scores is None or scores.shape != (num_tokens,) or not np.isfinite(scores).all():
        found = "none" if scores is None else f"shape {scores.shape}"
        raise DataError(f"selection: weighted needs a finite score for each of {num_tokens} tokens, found {found}")
    weights = sentence_weights(scores, starts, rule.statistic)
    ties = rng.random(sizes.size)
    if rule.temperature == 0:
        return np.lexsort((ties, -weights))
    with np.errstate(divide="ignore"):
        # log(weight) / temperature + Gumbel noise: the order of draws without replacement.
        keys = np.log(weights) / rule.temperature + rng.gumbel(size=sizes.size)
    return np.lexsort((ties, -keys))


def _spans(
    starts: NDArray[np.int64],
    sizes: NDArray[np.int64],
    kept: NDArray[np.int64],
    document_starts: NDArray[np.integer],
) -> Selection:
    """Runs of sentences kept whole, up to the end of their document, joined to one span each."""
    document = np.searchsorted(document_starts, starts, side="right") - 1
    chosen = np.flatnonzero(kept)
    begins = np.ones(chosen.size, np.bool_)
    is_next = np.diff(chosen) == 1
    is_whole = (kept == sizes)[chosen[:-1]]
    begins[1:] = ~(is_next & is_whole & (np.diff(document[chosen]) == 0))
    first = chosen[begins]
    lengths = np.add.reduceat(kept[chosen], np.flatnonzero(begins))
    return Selection(starts[first], lengths, document[first])
