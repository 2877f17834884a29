"""Which rows of two embeddings belong to one token; `merge` averages those, and keeps one side's alone elsewhere.

Nobody may guess whose vocabulary the result has, so where two differ the caller says it, as for RoPE.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from longspan.errors import CheckpointError, ConfigError

TOKENIZER = "tokenizer.json"


@dataclass(frozen=True)
class Rows:
    """The rows of the result's embeddings, where the vocabularies differ.

    Attributes:
        side: the side (`a` or `b`) whose vocabulary the result has.
        other: int64 [its vocab_size], the row of the same token on the other side; -1 where it has none.
    """

    side: str
    other: NDArray[np.int64]


def match_vocabularies(
    directories: tuple[Path, Path], configs: tuple[Mapping[str, Any], Mapping[str, Any]], side: str | None
) -> Rows | None:
    """How the rows fit together; None where every token has one id on both sides.

    Tokens are compared where both sides have a tokenizer.json, else a row is the same token on both. Rows that no
    token of the kept tokenizer has (padding) stay as they are there.

    Raises:
        ConfigError: they differ, and `side` is None.
        CheckpointError: a tokenizer.json without a vocabulary.
    """
    sizes = tuple(int(config["vocab_size"]) for config in configs)
    files = [directory / TOKENIZER for directory in directories]
    tokens = None
    if all(file.is_file() for file in files):
        tokens = (_token_ids("a", files[0]), _token_ids("b", files[1]))
    difference = _difference(sizes, tokens)
    if difference is None:
        return None
    if side is None:
        raise ConfigError(
            f"merge: the vocabularies differ: {difference}; rows of the embedding would mix different tokens. Say"
            " which the result keeps: --vocabulary a or b, in a pipeline's stage vocabulary: a or b"
        )
    return Rows(side, _other_rows(sizes, tokens, "ab".index(side)))


def _difference(sizes: tuple[int, ...], tokens: tuple[dict[str, int], dict[str, int]] | None) -> str | None:
    if tokens is not None:
        a, b = tokens
        different = [token for token in a.keys() | b.keys() if a.get(token) != b.get(token)]
        if different:
            token = min(different)
            return (
                f"the tokenizers differ in {len(different)} tokens, {token!r} is {_id_text(a.get(token))} in a and"
                f" {_id_text(b.get(token))} in b"
            )
    return f"vocab_size is {sizes[0]} in a and {sizes[1]} in b" if sizes[0] != sizes[1] else None


def _other_rows(
    sizes: tuple[int, ...], tokens: tuple[dict[str, int], dict[str, int]] | None, kept: int
) -> NDArray[np.int64]:
    rows = np.full(sizes[kept], -1, dtype=np.int64)
    if tokens is None:
        shared = min(sizes)
        rows[:shared] = np.arange(shared)
        return rows
    theirs = tokens[1 - kept]
    for token, index in tokens[kept].items():
        row = theirs.get(token, -1)
        if index < sizes[kept] and row < sizes[1 - kept]:
            rows[index] = row
    return rows


def _id_text(index: int | None) -> str:
    return "absent" if index is None else f"id {index}"


def _token_ids(side: str, file: Path) -> dict[str, int]:
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
        vocabulary = content["model"]["vocab"]
        # Unigram models keep a list of (token, score) in the order of ids.
        pairs = (
            vocabulary.items() if isinstance(vocabulary, dict) else ((item[0], i) for i, item in enumerate(vocabulary))
        )
        return dict(pairs) | {entry["content"]: entry["id"] for entry in content.get("added_tokens") or []}
    except (ValueError, KeyError, TypeError, IndexError):
        raise CheckpointError(f"merge: {side}: {file} is not a tokenizer.json with a vocabulary") from None
