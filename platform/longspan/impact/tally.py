"""Sums by kind of token, and what they say: how often, how much, and how much more often than chance.

`statistics` adds up a part at a time, by vocabulary item (which token types are groups of) and by part of speech.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from longspan.impact.part_of_speech import Tagger, token_tags

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

Sums = NDArray[np.float64]
"""[3, num_kinds]: tokens, their scores, and how many of them are top; whole numbers are exact."""


@dataclass(frozen=True)
class KindCount:
    """One kind of token.

    Attributes:
        name: of the kind.
        count: tokens of it.
        mean: score.
        top: of them, those among the top scores.
        share_of_top: of all top tokens, the share that is of this kind.
        rate: share of its tokens that are top.
        lift: `rate` over that of all tokens; above 1 the kind is impactful.
    """

    name: str
    count: int
    mean: float
    top: int
    share_of_top: float
    rate: float
    lift: float


def token_sums(
    kinds: NDArray[np.integer], scores: NDArray[np.floating], is_top: NDArray[np.bool_], num_kinds: int
) -> Sums:
    """Sums over tokens; all arguments but the last [num_tokens], kinds below `num_kinds`."""
    columns = (None, scores.astype(np.float64), is_top.astype(np.float64))
    return np.stack([np.bincount(kinds, column, num_kinds).astype(np.float64) for column in columns])


def grouped(sums: Sums, group: NDArray[np.integer], num_groups: int) -> Sums:
    """Sums over the kinds of each group; group [num_kinds]."""
    return np.stack([np.bincount(group, row, num_groups) for row in sums])


def kind_counts(names: Sequence[str], sums: Sums, tokens: int, top: int) -> tuple[KindCount, ...]:
    """The kinds that occur, in the order of `names`; `tokens` and `top` are those of all kinds together."""
    return tuple(
        KindCount(
            name=name,
            count=int(count),
            mean=float(total / count),
            top=int(tops),
            share_of_top=float(tops / top) if top else 0.0,
            rate=float(tops / count),
            lift=float(tops / count / (top / tokens)) if top else 0.0,
        )
        for name, (count, total, tops) in zip(names, sums.T, strict=True)
        if count
    )


class SpeechTally:
    """Sums by part of speech, which are named as they come."""

    def __init__(self, tokenizer: "PreTrainedTokenizerBase", is_text: NDArray[np.bool_], tagger: Tagger) -> None:
        self.untagged = 0
        self._tokenizer = tokenizer
        self._is_text = is_text
        self._tagger = tagger
        self._sums: dict[str, Sums] = {}

    def add(
        self,
        tokens: NDArray[np.uint32],
        scores: NDArray[np.floating],
        is_top: NDArray[np.bool_],
        is_scored: NDArray[np.bool_],
    ) -> None:
        """Count one document, all [num_tokens]; it is tagged whole, since words and sentences begin before the scores.

        It is left out, and counted in `untagged`, if the places of its tokens in its text cannot be known.
        """
        if not is_scored.any():
            return
        tags = token_tags(tokens, self._tokenizer, self._is_text, self._tagger)
        if tags is None:
            self.untagged += 1
            return
        names, kinds = np.unique(np.array(tags)[is_scored], return_inverse=True)
        sums = token_sums(kinds, scores[is_scored], is_top[is_scored], names.size)
        for name, column in zip(names.tolist(), sums.T, strict=True):
            self._sums[name] = self._sums.get(name, np.zeros(3)) + column

    def counts(self) -> tuple[KindCount, ...]:
        """The parts of speech, the most impactful first."""
        names = sorted(self._sums)
        sums = np.stack([np.zeros(3), *(self._sums[name] for name in names)], axis=1)[:, 1:]
        found = kind_counts(names, sums, int(sums[0].sum()), int(sums[2].sum()))
        return tuple(sorted(found, key=lambda kind: -kind.lift))
