"""Texts to token ids, straight through the tokenizers library: many short texts at a time, a huge one in pieces.

`documents` and `windows` call it. What a mark in a text becomes ("<|eos|>", "<think>") is decided here.
"""

import json
import re
from collections.abc import Iterable, Iterator, Mapping
from functools import lru_cache
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

AddedTokens = Literal["ids", "text"]
WHOLE_BYTES = 120
"""Memory of a worker for each byte of a document that is encoded whole; in pieces it is 15 (docs/corpora.md)."""
_BATCH_CHARACTERS, _BATCH_TEXTS = 2_000_000, 512
_PIECE_CHARACTERS = 2_000_000
_CUT = re.compile(r"[A-Za-z](?= [A-Za-z])")
_CROSSES_CUTS = re.compile(r"[A-Za-z] ")
_CONTRACTIONS = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)"
_REST = r"|\s*[\r\n]+|\s+(?!\S)|\s+"
_WORD_PATTERNS = frozenset(
    {
        # GPT-2
        r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+",
        # Llama 3 and GPT-4, Qwen 2 and 3
        *(
            rf"{_CONTRACTIONS}|[^\r\n\p{{L}}\p{{N}}]?\p{{L}}+|\p{{N}}{digits}| ?[^\s\p{{L}}\p{{N}}]+[\r\n]*{_REST}"
            for digits in ("{1,3}", "")
        ),
    }
)
"""Patterns of words by which a text can be cut at `_CUT`: see `_is_divisible`."""


def encode(
    tokenizer: "PreTrainedTokenizerBase", texts: Iterable[str], added_tokens: AddedTokens = "ids"
) -> Iterator[NDArray[np.uint32]]:
    """Token ids uint32 [num_tokens] of each text, in order, without bos and eos.

    Special tokens inside a text, "<|eos|>", are encoded as text: a document cannot end itself. Other added tokens that
    the tokenizer has, "<think>" in many, become their ids, as when the model is used; with `added_tokens` "text" they
    are encoded as text too, those of spaces and line ends aside. A slow tokenizer encodes all of them as text.
    """
    for batch in _batches(texts):
        if not tokenizer.is_fast:
            encoded = tokenizer(batch, add_special_tokens=False, split_special_tokens=True, verbose=False)
            yield from (np.array(ids, dtype=np.uint32) for ids in encoded["input_ids"])
            continue
        backend = _backend(tokenizer, added_tokens)
        if len(batch) == 1 and len(batch[0]) > _PIECE_CHARACTERS and is_divisible(tokenizer):
            pieces = [_encode_batch(backend, [piece])[0] for piece in cut_text(batch[0], _PIECE_CHARACTERS)]
            yield np.concatenate(pieces)
        else:
            yield from _encode_batch(backend, batch)


def encode_with_offsets(
    tokenizer: "PreTrainedTokenizerBase", text: str
) -> tuple[NDArray[np.uint32], NDArray[np.int64]]:
    """As `encode`, of one text and with a fast tokenizer only.

    Returns:
        token ids uint32 [num_tokens], and int64 [num_tokens, 2], characters [begin, end) of each in the text.
    """
    encoding = _backend(tokenizer, "ids").encode(text, add_special_tokens=False)
    return np.array(encoding.ids, np.uint32), np.array(encoding.offsets, np.int64).reshape(-1, 2)


def plain_added_tokens(tokenizer: "PreTrainedTokenizerBase") -> list[str]:
    """Added tokens that are not special and not only space: those that the setting `added_tokens` is about."""
    added = tokenizer.added_tokens_decoder.values()
    return [token.content for token in added if not token.special and token.content.strip()]


def is_divisible(tokenizer: "PreTrainedTokenizerBase") -> bool:
    """Whether a text has the ids of its pieces (`cut_text`) laid end to end."""
    return bool(tokenizer.is_fast) and _is_divisible(tokenizer.backend_tokenizer.to_str())


def cut_text(text: str, size: int) -> Iterator[str]:
    """Pieces of at least `size` characters, each but the first beginning with a space between two ASCII letters."""
    begin = 0
    while cut := _CUT.search(text, begin + size):
        yield text[begin : cut.end()]
        begin = cut.end()
    yield text[begin:]


def _encode_batch(backend: Any, batch: list[str]) -> list[NDArray[np.uint32]]:
    # transformers' own call makes Python lists of every id, at twice the time or more.
    return [np.array(e.ids, dtype=np.uint32) for e in backend.encode_batch_fast(batch, add_special_tokens=False)]


def _backend(tokenizer: "PreTrainedTokenizerBase", added_tokens: AddedTokens) -> Any:
    """What is below a fast tokenizer, set to take every text whole and special tokens as text."""
    backend = tokenizer.backend_tokenizer
    if added_tokens == "text" and plain_added_tokens(tokenizer):
        backend = _with_special(backend.to_str())
    backend.no_truncation()
    backend.no_padding()
    backend.encode_special_tokens = True
    return backend


@lru_cache(maxsize=2)
def _with_special(description: str) -> Any:
    """The tokenizer of this JSON with all its added tokens special, those of only space aside.

    Left out they cannot be: the ids of the others would move up.
    """
    from tokenizers import Tokenizer

    values = json.loads(description)
    for token in values["added_tokens"]:
        token["special"] = bool(token["special"] or token["content"].strip())
    return Tokenizer.from_str(json.dumps(values))


@lru_cache(maxsize=2)
def _is_divisible(description: str) -> bool:
    """Whether nothing in the tokenizer of this JSON reaches over a space between two ASCII letters.

    Byte-level BPE merges inside words only, and by each of `_WORD_PATTERNS` a word ends behind an ASCII letter that a
    space follows (no branch takes a space behind a letter), the next one begins with that space (" ?" and the optional
    character before letters take it, and it alone: a letter follows), and none looks back. NFC changes nothing there,
    as neither of the three characters combines with another. Added tokens are found first: none may hold a letter with
    a space behind it, take spaces beside it, or ask for whole words.
    """
    values = json.loads(description)
    tokens = values["added_tokens"]
    if any(t["lstrip"] or t["rstrip"] or t["single_word"] or _CROSSES_CUTS.search(t["content"]) for t in tokens):
        return False
    model, normalizer = values["model"], values["normalizer"]
    if model["type"] != "BPE" or model.get("dropout") or (normalizer is not None and normalizer["type"] != "NFC"):
        return False
    steps = values["pre_tokenizer"] or {"type": "none"}
    steps = steps["pretokenizers"] if steps["type"] == "Sequence" else [steps]
    *first, last = steps
    if last["type"] != "ByteLevel" or last["add_prefix_space"]:
        return False
    return all(s["type"] == "Digits" or _cuts_words(s) for s in first) and any(map(_cuts_words, steps))


def _cuts_words(step: Mapping[str, Any]) -> bool:
    if step["type"] == "ByteLevel":  # the last one
        return bool(step["use_regex"])
    if step["type"] != "Split" or step["behavior"] != "Isolated" or step["invert"]:
        return False
    return step["pattern"].get("Regex") in _WORD_PATTERNS


def _batches(texts: Iterable[str]) -> Iterator[list[str]]:
    """Neighbouring texts of about as many characters together; a longer one is alone."""
    batch: list[str] = []
    characters = 0
    for text in texts:
        if batch and (characters + len(text) > _BATCH_CHARACTERS or len(batch) == _BATCH_TEXTS):
            yield batch
            batch, characters = [], 0
        batch.append(text)
        characters += len(text)
    if batch:
        yield batch
