"""Needle retrieval at token level: training documents and evaluation examples woven from real text and records.

Takes tokenised text and gives token ids with a loss weight per token. `corpus/` writes the documents as shards;
`evaluate/` scores the grid examples. One record is ONE token that holds a key and its value, so that a two-layer model
can learn to read it.
"""

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from longspan.errors import ConfigError, DataError

MAX_ANSWER_WEIGHT = 16.0
"""No answer weighs more than this many text tokens; a long document with one question would else hang on one target."""


@dataclass(frozen=True)
class NeedleVocabulary:
    """The token ids of records N(k, v), queries Q(k) and values V(v): a block of ids after the text vocabulary.

    The block is laid out records first (key-major), then queries, then values; `tokens()` names them in that order, so
    a tokenizer that gets them as added tokens gives them exactly these ids.

    Attributes:
        first_id: id of the first needle token, i.e. the size of the text vocabulary.
        num_keys: number of different keys K; a document asks for at most that many.
        num_values: number of different values V; blind chance is 1 / V.

    Raises:
        ConfigError: `first_id` is negative, or a count is below 1.
    """

    first_id: int
    num_keys: int = 32
    num_values: int = 16

    def __post_init__(self) -> None:
        if self.first_id < 0 or self.num_keys < 1 or self.num_values < 1:
            raise ConfigError(
                f"needle vocabulary: first_id={self.first_id}, num_keys={self.num_keys}, num_values={self.num_values}; "
                "first_id must be >= 0 and both counts >= 1"
            )

    def __len__(self) -> int:
        """Number of needle tokens: K * V + K + V."""
        return self.num_keys * self.num_values + self.num_keys + self.num_values

    def needle(self, key: int, value: int) -> int:
        """Id of the record that binds `key` (0 <= key < K) to `value` (0 <= value < V)."""
        return self.first_id + key * self.num_values + value

    def query(self, key: int) -> int:
        """Id of the token that asks for the value of `key` (0 <= key < K)."""
        return self.first_id + self.num_keys * self.num_values + key

    def value(self, value: int) -> int:
        """Id of the token that answers with `value` (0 <= value < V)."""
        return self.first_id + self.num_keys * self.num_values + self.num_keys + value

    def tokens(self) -> list[str]:
        """Token strings in the order of their ids, e.g. `<n:3:7>`, `<q:3>`, `<v:7>`; length K * V + K + V."""
        records = [f"<n:{key}:{value}>" for key in range(self.num_keys) for value in range(self.num_values)]
        return (
            records
            + [f"<q:{key}>" for key in range(self.num_keys)]
            + [f"<v:{value}>" for value in range(self.num_values)]
        )


class NeedleGridExample(NamedTuple):
    """One evaluation sequence: a record in each depth bin, every one asked at the end.

    Attributes:
        tokens: uint32 [length].
        answer_positions: int64 [num_needles], index of each answer token; its logits are at the index before.
        answers: uint32 [num_needles], the true answer ids, `tokens[answer_positions]`.
        depths: float64 [num_needles], where the asked record lies, as a fraction of the sequence in [0, 1).
    """

    tokens: NDArray[np.uint32]
    answer_positions: NDArray[np.int64]
    answers: NDArray[np.uint32]
    depths: NDArray[np.float64]


def needle_document(
    rng: np.random.Generator,
    text: NDArray[np.uint32],
    length: int,
    vocabulary: NeedleVocabulary,
    *,
    fill: tuple[float, float],
    query_fraction: float,
    pure_text_share: float,
) -> tuple[NDArray[np.uint32], NDArray[np.float32]]:
    """Weaves records and (query, answer) pairs into a random passage of `text`.

    Keys differ within a document, every query comes after its record, and a record may be asked more than once. A key
    is asked for uniformly among the records seen so far, so all distances up to the whole document occur.

    Args:
        rng: source of every random choice; the document is a pure function of its state.
        text: token ids [num_text_tokens], a tokenised corpus, from which one contiguous passage is taken.
        length: tokens in the document.
        vocabulary: ids of the needle tokens.
        fill: bounds of the fraction of the document given to needle tokens; drawn uniformly per document. With few keys
            a long document has fewer records than it leaves room for; text takes their place.
        query_fraction: fraction of the needle tokens that belong to (query, answer) pairs.
        pure_text_share: probability that a document is text only.

    Returns:
        tokens uint32 [length] and loss_weight float32 [length]. `loss_weight[i]` is the weight of token i AS A TARGET:
        1 for text; 0 for records and queries, which nothing can predict, and for token 0, which nothing precedes; one
        constant for answers, which makes them together weigh as much as the text of the document (at most
        MAX_ANSWER_WEIGHT each, and 1 where there is no text).

    Raises:
        ConfigError: a fraction lies outside [0, 1], the bounds of `fill` are out of order, or `length` is below 1.
        DataError: `text` is shorter than `length`.
    """
    check_fractions(length, fill, query_fraction, pure_text_share)
    start = passage_start(rng, text, length)
    budget = 0 if rng.random() < pure_text_share else round(float(rng.uniform(*fill)) * length)
    num_records, num_pairs = _split_budget(budget, query_fraction, vocabulary.num_keys)
    is_pair = np.zeros(num_records + num_pairs, dtype=bool)
    is_pair[num_records:] = True
    # The first item must be a record, so that every question has something to ask for.
    is_pair[1:] = rng.permutation(is_pair[1:])
    keys = _item_keys(rng, is_pair, vocabulary.num_keys)
    values = rng.integers(vocabulary.num_values, size=vocabulary.num_keys)[keys]

    num_text = length - num_records - 2 * num_pairs
    text_before = np.sort(rng.integers(num_text + 1, size=is_pair.size))
    widths = np.where(is_pair, 2, 1)
    at = text_before + np.cumsum(widths) - widths
    records, questions = at[~is_pair], at[is_pair]
    is_text = np.ones(length, dtype=bool)
    is_text[np.concatenate((at, questions + 1))] = False

    tokens = np.empty(length, dtype=np.uint32)
    tokens[is_text] = text[start : start + num_text]
    tokens[records] = vocabulary.needle(0, 0) + keys[~is_pair] * vocabulary.num_values + values[~is_pair]
    tokens[questions] = vocabulary.query(0) + keys[is_pair]
    tokens[questions + 1] = vocabulary.value(0) + values[is_pair]
    return tokens, loss_weights(is_text, questions + 1)


def needle_grid_example(
    rng: np.random.Generator,
    text: NDArray[np.uint32],
    length: int,
    vocabulary: NeedleVocabulary,
    num_needles: int = 10,
) -> NeedleGridExample:
    """Makes one evaluation sequence with a record in every depth bin, all of them asked at the end in random order.

    The sequence is `length - 2 * num_needles` tokens of text with one record at a random place in each of `num_needles`
    equal bins, then `num_needles` pairs (query, true answer). The true answer follows its query, so one forward pass
    scores all.

    Args:
        rng: source of every random choice.
        text: token ids [num_text_tokens], held out from training.
        length: tokens in the sequence.
        vocabulary: ids of the needle tokens.
        num_needles: number of records, and so of depth bins and questions.

    Raises:
        ConfigError: `num_needles` is not in [1, num_keys], or `length` is below 3 * num_needles (each bin holds one).
        DataError: `text` is shorter than `length`.
    """
    if not 1 <= num_needles <= vocabulary.num_keys:
        raise ConfigError(
            f"needle grid: num_needles={num_needles}; must be in [1, {vocabulary.num_keys}], the number of keys"
        )
    if length < 3 * num_needles:
        raise ConfigError(
            f"needle grid: length={length} has no room for {num_needles} needles; must be >= {3 * num_needles}"
        )
    start = passage_start(rng, text, length)
    body = length - 2 * num_needles
    edges = np.arange(num_needles + 1) * body // num_needles
    records = rng.integers(edges[:-1], edges[1:])
    keys = rng.permutation(vocabulary.num_keys)[:num_needles]
    values = rng.integers(vocabulary.num_values, size=num_needles)
    order = rng.permutation(num_needles)
    answer_positions = body + 1 + 2 * np.arange(num_needles, dtype=np.int64)

    tokens = np.array(text[start : start + length], dtype=np.uint32)
    tokens[records] = vocabulary.needle(0, 0) + keys * vocabulary.num_values + values
    tokens[answer_positions - 1] = vocabulary.query(0) + keys[order]
    tokens[answer_positions] = vocabulary.value(0) + values[order]
    return NeedleGridExample(
        tokens=tokens,
        answer_positions=answer_positions,
        answers=tokens[answer_positions],
        depths=records[order] / length,
    )


def _split_budget(budget: int, query_fraction: float, num_keys: int) -> tuple[int, int]:
    """Numbers of records and (query, answer) pairs that `budget` tokens hold; no pairs without a record to ask for."""
    num_pairs = int(budget * query_fraction) // 2
    num_records = min(budget - 2 * num_pairs, num_keys)
    return num_records, num_pairs if num_records else 0


def _item_keys(rng: np.random.Generator, is_pair: NDArray[np.bool_], num_keys: int) -> NDArray[np.int64]:
    """Key of each item in document order, int64 [num_items]: new for a record, one already seen for a pair."""
    record_keys = rng.permutation(num_keys)
    # At a record this count less one is its own index; at a pair every smaller number is a record already seen.
    seen = np.cumsum(~is_pair)
    asked = rng.integers(np.maximum(seen, 1))
    keys: NDArray[np.int64] = record_keys[np.where(is_pair, asked, seen - 1)].astype(np.int64)
    return keys


def loss_weights(is_text: NDArray[np.bool_], answers: NDArray[np.int64]) -> NDArray[np.float32]:
    """Target weights float32 [length]: text 1, answers (indices [num_answers]) together as much, all else 0."""
    weight = is_text.astype(np.float32)
    weight[0] = 0.0
    if answers.size:
        total_text = float(weight.sum())
        weight[answers] = min(total_text / answers.size, MAX_ANSWER_WEIGHT) if total_text else 1.0
    return weight


def passage_start(rng: np.random.Generator, text: NDArray[np.uint32], length: int) -> int:
    if text.size < length:
        raise DataError(f"needle text has {text.size} tokens; a document of {length} needs at least {length}")
    return int(rng.integers(text.size - length + 1))


def check_fractions(length: int, fill: tuple[float, float], query_fraction: float, pure_text_share: float) -> None:
    if length < 1:
        raise ConfigError(f"needle document: length={length}; must be >= 1")
    if not 0.0 <= fill[0] <= fill[1] <= 1.0:
        raise ConfigError(f"needle document: fill={fill}; must be two ascending fractions in [0, 1]")
    for name, fraction in (("query_fraction", query_fraction), ("pure_text_share", pure_text_share)):
        if not 0.0 <= fraction <= 1.0:
            raise ConfigError(f"needle document: {name}={fraction}; must be in [0, 1]")
