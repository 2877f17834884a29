"""Needle grid over a vocabulary that has needle tokens: one token holds key and value, one asks, one answers.

Made for corpora that longspan prepares with `tokenizer.needle_tokens: true`; other models are asked in plain sentences
(`plain_needles`).
"""

import re
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from longspan.corpus.synthesis.needles import NeedleVocabulary, needle_grid_example
from longspan.errors import ConfigError
from longspan.evaluate.grid import GridExample, NeedleGrid, score_grid

_NEEDLE = re.compile(r"<n:(\d+):(\d+)>|<q:(\d+)>|<v:(\d+)>")


def has_needle_tokens(tokenizer: Any) -> bool:
    """Whether any added token of a Hugging Face tokenizer is a needle token."""
    return any(_NEEDLE.fullmatch(token) for token in tokenizer.get_added_vocab())


def vocabulary_from_tokenizer(tokenizer: Any) -> NeedleVocabulary:
    """The needle vocabulary that a Hugging Face tokenizer's added tokens (`<n:3:7>`, `<q:3>`, `<v:7>`) spell out.

    Raises:
        ConfigError: it has none, or they are not one whole block of ids in the order of `NeedleVocabulary.tokens`.
    """
    added = {token: index for token, index in tokenizer.get_added_vocab().items() if _NEEDLE.fullmatch(token)}
    if not added:
        raise ConfigError(
            "tokenizer: no needle tokens (<n:0:0>, <q:0>, <v:0>); the needle grid of this version needs a corpus"
            " prepared with tokenizer.needle_tokens: true"
        )
    pairs = [match.groups() for match in map(_NEEDLE.fullmatch, added) if match]
    num_keys = 1 + max(int(key or query or 0) for key, _, query, _ in pairs)
    num_values = 1 + max(int(value or answer or 0) for _, value, _, answer in pairs)
    vocabulary = NeedleVocabulary(min(added.values()), num_keys, num_values)
    expected = {token: vocabulary.first_id + index for index, token in enumerate(vocabulary.tokens())}
    if added != expected:
        differing = sorted(token for token in expected.keys() | added.keys() if expected.get(token) != added.get(token))
        raise ConfigError(
            f"tokenizer: needle token {differing[0]} has id {added.get(differing[0])}, expected"
            f" {expected.get(differing[0])} ({len(differing)} of {len(expected)} differ); prepare the corpus again with"
            " tokenizer.needle_tokens: true"
        )
    return vocabulary


def needle_grid(
    model: nn.Module,
    vocabulary: NeedleVocabulary,
    text: NDArray[np.uint32],
    lengths: Sequence[int],
    *,
    num_needles: int = 10,
    examples: int = 16,
    seed: int,
    device: torch.device | str,
    batch_tokens: int = 16384,
    report: Callable[[str], None] | None = None,
) -> NeedleGrid:
    """Accuracy of one-token retrieval by depth and length; blind chance is 1 / num_values.

    Args:
        model: a causal LM on `device` whose vocabulary includes the needle tokens.
        text: held-out token ids [num_text_tokens], at least as many as the longest length.
        lengths: context lengths in tokens, questions and answers included.
        num_needles: needles a sequence, one in each depth bin, each asked once.
        examples: sequences a length.
        seed: with length and index, decides the sequence; the same for every model.
        batch_tokens: tokens a forward pass.
        report: called with one line after each length.

    Raises:
        ConfigError: a length has no room for the needles, or there are more needles than keys.
        DataError: `text` is shorter than a length.
    """

    def make(length: int, index: int) -> GridExample:
        return token_example(seed, length, index, text, vocabulary, num_needles)

    return score_grid(
        model,
        make,
        lengths,
        task="tokens",
        num_needles=num_needles,
        examples=examples,
        device=device,
        batch_tokens=batch_tokens,
        report=report,
    )


def token_example(
    seed: int, length: int, index: int, text: NDArray[np.uint32], vocabulary: NeedleVocabulary, num_needles: int
) -> GridExample:
    """Example number `index` of a length: a pure function of its arguments."""
    rng = np.random.default_rng([seed, length, index])
    made = needle_grid_example(rng, text, length, vocabulary, num_needles)
    # One needle lies in each bin, so its rank by depth is its bin.
    bins = np.argsort(np.argsort(made.depths))
    return GridExample(made.tokens, made.answer_positions, bins.astype(np.int64))
