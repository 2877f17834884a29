"""Interleaved documents: windows over the text of a source, each mixed by itself, with Untie-the-Knots' hints if asked.

`documents` makes a unit's windows with it; before that it says how much text every window takes, of which `units` cuts
the units. A window is a function of its text, the source's settings and its number.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import count
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from longspan.config.corpus import InterleavedSource, KnotMarks
from longspan.corpus.encoding import encode
from longspan.corpus.synthesis.interleave import (
    NAME_LENGTH,
    Marks,
    Pieces,
    chunk_names,
    interleave,
    most_marks,
    shuffle_chunks,
    splices,
    tie_knots,
    token_indices,
    window_sizes,
)
from longspan.corpus.writer import Document
from longspan.errors import ConfigError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

NAME_TOKENS = NAME_LENGTH + 1
"""Most tokens of a chunk's name: one a letter, and one before them, where SentencePiece puts a space."""


@dataclass(frozen=True)
class Knots:
    """UtK's hints in the tokens of one tokenizer.

    Attributes:
        marks: their token ids.
        tokenizer: writes the names of chunks; None without names.
        room: tokens that the hints of one document take at most.
    """

    marks: Marks
    tokenizer: "PreTrainedTokenizerBase | None"
    room: int


def open_knots(source: InterleavedSource, tokenizer: "PreTrainedTokenizerBase", num_bos: int) -> Knots | None:
    """What the source asks for; None where it asks for no hints.

    Raises:
        ConfigError: a mark or a name that the tokenizer cannot write, or no room in a window.
    """
    if source.marks is None:
        return None
    marks = _marks(source.marks, tokenizer)
    most = source.chunk_bounds[1]
    room = most_marks(marks, most, NAME_TOKENS if source.names else 0)
    if room >= source.window - num_bos:
        raise ConfigError(
            f"window: {source.window} tokens have no room for the marks of a document in {most} chunks, {room}"
            f" tokens; give a larger window, or fewer chunks"
        )
    if source.names:
        _names(np.random.default_rng(0), tokenizer, 100)  # one that cannot be written is said before anything is made
    return Knots(marks, tokenizer if source.names else None, room)


def text_of_windows(
    source: InterleavedSource,
    lengths: Sequence[NDArray[np.integer]],
    num_bos: int,
    knots: Knots | None,
    key: Sequence[int],
) -> NDArray[np.int64]:
    """Tokens of text in each window that the source's text fills: int64 [num_windows].

    Args:
        lengths: int [num_documents] of each shard, tokens of each document, `num_bos` of them no text.
        key: entropy of the source's random streams.
    """
    size = source.window - num_bos
    if knots is None:
        total = sum(int(length.sum()) - num_bos * length.size for length in lengths)
        return np.full(total // size, size, np.int64)
    rooms = (knots.room if _is_mixed(source, window_rng(key, number)) else 0 for number in count())
    return window_sizes(np.concatenate(lengths).astype(np.int64) - num_bos, size, rooms)


def window_rng(key: Sequence[int], number: int) -> np.random.Generator:
    """Random numbers of window `number`."""
    return np.random.default_rng([*key, number])


def window_document(
    source: InterleavedSource,
    rng: np.random.Generator,
    documents: Sequence[NDArray[np.uint32]],
    goes_on: Sequence[bool],
    before: NDArray[np.uint32],
    knots: Knots | None,
) -> Document:
    """One window: bos once, then chunks of documents, each of which keeps the eos at its own end.

    Weights are those of `tie_knots` where there are hints. Elsewhere they are 1, and 0 for the first token and for
    every one that its document does not have behind the one before.

    Args:
        rng: `window_rng`.
        documents: token ids uint32 [length] of what the window has of each document.
        goes_on: whether it is not the document's begin.
        before: token ids uint32 [num_bos].
    """
    length = np.array([document.size for document in documents], np.int64)
    is_mixed = _is_mixed(source, rng)
    order = _mixed(rng, source, length) if is_mixed else _in_order(length)
    if knots is not None and is_mixed:
        count = order.document.size
        names = [np.zeros(0, np.uint32)] * count if knots.tokenizer is None else _names(rng, knots.tokenizer, count)
        tokens, weight = tie_knots(documents, order, knots.marks, names)
    else:
        tokens = np.concatenate(documents)[token_indices(order, np.cumsum(length) - length)]
        weight = np.ones(tokens.size, np.float32)
        weight[splices(order)] = 0
        # A window may begin inside a document: nothing before it there tells of its first token.
        if order.start[0] > 0 or goes_on[order.document[0]]:
            weight[0] = 0
    weight = np.concatenate([np.zeros(before.size, np.float32), weight])
    weight[0] = 0
    return Document(np.concatenate([before, tokens]).astype(np.uint32, copy=False), weight)


def _is_mixed(source: InterleavedSource, rng: np.random.Generator) -> bool:
    return source.share == 1 or bool(rng.random() < source.share)


def _in_order(length: NDArray[np.int64]) -> Pieces:
    return Pieces(np.arange(length.size), np.zeros_like(length), length)


def _mixed(rng: np.random.Generator, source: InterleavedSource, length: NDArray[np.int64]) -> Pieces:
    if source.method == "utk":
        return shuffle_chunks(rng, length, chunks=source.chunk_bounds, cut=source.cut, keep_order=source.keep_order)
    return interleave(rng, length, chunks=source.chunk_bounds, cut=source.cut)


def _marks(texts: KnotMarks, tokenizer: "PreTrainedTokenizerBase") -> Marks:
    vocabulary = tokenizer.get_vocab()
    ids: dict[str, tuple[int, ...]] = {}
    for name, text in texts.model_dump(exclude_none=True).items():
        found = [vocabulary[text]] if text in vocabulary else next(encode(tokenizer, [text])).tolist()
        if not found or (text not in vocabulary and tokenizer.unk_token_id in found):
            raise ConfigError(f"marks.{name}: the tokenizer has no token for {text!r}; give another text")
        ids[name] = tuple(found)
    return Marks(**ids)


def _names(rng: np.random.Generator, tokenizer: "PreTrainedTokenizerBase", number: int) -> list[NDArray[np.uint32]]:
    """Token ids uint32 [name_length] of `number` different names, at most NAME_TOKENS each."""
    names = chunk_names(rng, number)
    encoded = list(encode(tokenizer, names))
    for name, ids in zip(names, encoded, strict=True):
        if not 0 < ids.size <= NAME_TOKENS or tokenizer.unk_token_id in ids:
            raise ConfigError(
                f"names: the tokenizer writes the name {name} in {ids.size} tokens, or not at all, and there is room"
                f" for {NAME_TOKENS}; set names: false, or take another tokenizer"
            )
    return encoded
