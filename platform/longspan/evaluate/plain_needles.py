"""Needle grid in plain sentences, for models whose vocabulary has no needle tokens (every released one).

RULER's multi-key, many-query retrieval (2404.06654) in one forward pass: "The special magic number for {key} is:
{value}." lies in every depth bin of held-out text, and is asked again at the end with the true answer in place.
"""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from longspan.errors import ConfigError, DataError
from longspan.evaluate.grid import GridExample, MakeExample

QUESTION = "\nThe special magic number for {key} is:"
ADJECTIVES = (
    *("amber", "brave", "calm", "dusty", "eager", "faint", "gentle", "hollow"),
    *("icy", "jolly", "keen", "lively", "misty", "noble", "odd", "plain"),
)
NOUNS = (
    *("anchor", "bridge", "candle", "desert", "engine", "forest", "garden", "harbor"),
    *("island", "jacket", "kettle", "ladder", "mirror", "needle", "orchard", "piano"),
)


def sentence_examples(tokenizer: Any, text: NDArray[np.uint32], seed: int, num_needles: int) -> MakeExample:
    """Sequences for `grid.score_grid` that ask for seven-digit numbers; blind chance is about nil.

    Args:
        tokenizer: the model's fast Hugging Face tokenizer, the one that made `text`.
        text: held-out token ids [num_text_tokens].
        seed: with length and index, decides the sequence.
        num_needles: needles a sequence, one in each depth bin, each asked once.

    Raises:
        ConfigError: a tokenizer without character offsets; from the maker, too many needles, or a length without room
            for them.
        DataError (from the maker): `text` is too short.
    """
    if not getattr(tokenizer, "is_fast", False):
        raise ConfigError(
            f"tokenizer: {type(tokenizer).__name__} gives no character offsets; a fast tokenizer is needed"
        )

    def make(length: int, index: int) -> GridExample:
        return plain_example(seed, length, index, text, tokenizer, num_needles)

    return make


def plain_example(
    seed: int, length: int, index: int, text: NDArray[np.uint32], tokenizer: Any, num_needles: int
) -> GridExample:
    """Example number `index` of a length: a pure function of its arguments (see `sentence_examples`)."""
    if not 1 <= num_needles <= len(ADJECTIVES) * len(NOUNS):
        raise ConfigError(f"needle grid: num_needles={num_needles}; must be in [1, {len(ADJECTIVES) * len(NOUNS)}]")
    rng = np.random.default_rng([seed, length, index])
    names = rng.permutation(len(ADJECTIVES) * len(NOUNS))[:num_needles]
    keys = [f"{ADJECTIVES[name // len(NOUNS)]} {NOUNS[name % len(NOUNS)]}" for name in names]
    values = rng.choice(9_000_000, size=num_needles, replace=False) + 1_000_000
    encoded = [_statement(tokenizer, key, str(value)) for key, value in zip(keys, values, strict=True)]
    statements = [tokens for tokens, _ in encoded]
    start = _start_tokens(tokenizer)

    num_text = length - start.size - 2 * sum(tokens.size for tokens in statements)
    if num_text < num_needles:
        raise ConfigError(
            f"needle grid: a length of {length} tokens has no room for {num_needles} needles in plain text, which take"
            f" {length - num_text}; ask for fewer evaluate.needles or for lengths of at least"
            f" {length - num_text + num_needles}"
        )
    if text.size < num_text:
        raise DataError(f"needle grid: the held-out text has {text.size} tokens; a length of {length} needs {num_text}")
    first = int(rng.integers(text.size - num_text + 1))
    passage = text[first : first + num_text]
    edges = np.arange(num_needles + 1) * num_text // num_needles
    cuts = rng.integers(edges[:-1], edges[1:])
    order = rng.permutation(num_needles)

    pieces: list[NDArray[np.uint32]] = [start]
    for part, needle in zip(np.split(passage, cuts), [*statements, None], strict=True):
        pieces += [part] if needle is None else [part, needle]
    at = sum(piece.size for piece in pieces)
    positions, bins = [], []
    for needle_index in order:
        tokens, answer = encoded[needle_index]
        positions.append(at + answer)
        bins.append(np.full(answer.size, needle_index, dtype=np.int64))
        pieces.append(tokens)
        at += tokens.size
    return GridExample(np.concatenate(pieces).astype(np.uint32), np.concatenate(positions), np.concatenate(bins))


def _statement(tokenizer: Any, key: str, value: str) -> tuple[NDArray[np.uint32], NDArray[np.int64]]:
    """Tokens of the sentence, and the indices in it of the tokens that hold `value`.

    The whole sentence is tokenised at once, so that needle and question are the same tokens.
    """
    question = QUESTION.format(key=key)
    encoded = tokenizer(f"{question} {value}.\n", add_special_tokens=False, return_offsets_mapping=True)
    first, last = len(question) + 1, len(question) + 1 + len(value)
    answer = [i for i, (begin, end) in enumerate(encoded["offset_mapping"]) if begin < last and end > first]
    return np.array(encoded["input_ids"], dtype=np.uint32), np.array(answer, dtype=np.int64)


def _start_tokens(tokenizer: Any) -> NDArray[np.uint32]:
    """The begin-of-text token where the tokenizer puts one in front (Llama, Mistral), else nothing (Qwen)."""
    start = tokenizer("")["input_ids"][:1]
    return np.array(start if start and start[0] == tokenizer.bos_token_id else [], dtype=np.uint32)
