"""Token needles: the vocabulary read from a tokenizer, retrieval entered where it happens, and harder tasks."""

from typing import Any

import numpy as np
import pytest

from longspan.config.tasks import TASKS, Task
from longspan.corpus.synthesis.needles import NeedleVocabulary
from longspan.errors import ConfigError, DataError
from longspan.evaluate.grid import score_grid
from longspan.evaluate.needles import has_needle_tokens, task_examples, vocabulary_from_tokenizer

VOCABULARY = NeedleVocabulary(first_id=20, num_keys=12, num_values=6)
SIZE = 20 + len(VOCABULARY)
TEXT = (np.arange(600) % 20).astype(np.uint32)


def lookup(window: int | None = None) -> Any:
    """Answers a query from the records among the last `window` tokens; anything else with token 0."""
    records = {VOCABULARY.needle(k, v): (k, v) for k in range(12) for v in range(6)}

    def answer(tokens: list[int]) -> int:
        key = tokens[-1] - VOCABULARY.query(0)
        seen = dict(records[token] for token in tokens[-window if window else 0 :] if token in records)
        return VOCABULARY.value(seen[key]) if 0 <= key < 12 and key in seen else 0

    return answer


def reader(newest: bool = True) -> Any:
    """Answers every form of question from the records; without `newest` from the oldest record of a key."""
    query, value = VOCABULARY.query(0), VOCABULARY.value(0)

    def answer(tokens: list[int]) -> int:
        bound: dict[int, list[int]] = {}
        for token in tokens:
            if 20 <= token < query:
                key, held = divmod(token - 20, VOCABULARY.num_values)
                bound.setdefault(key, []).append(held)
        recent = [values[-1 if newest else 0] for values in bound.values()]
        now = dict(zip(bound, recent, strict=True))
        last, before = tokens[-1], tokens[-2] if len(tokens) > 1 else 0
        if last >= value:
            # Only the second of two answers is scored here; where there is none, anything is right.
            older = bound[before - query][-2:-1] if query <= before < value else []
            return value + older[0] if older else 0
        if not query <= last < value:
            return 0
        key = last - query
        if before == last:
            return value + now[now[key]]
        return value + (max(now[key], now[before - query]) if query <= before < value else now[key])

    return answer


def grid(model: Any, task: Task = "recall", lengths: tuple[int, ...] = (60, 90), seed: int = 5, **options: Any) -> Any:
    make = task_examples(task, VOCABULARY, TEXT, seed, 4)
    settings = {"num_needles": 4, "examples": 3, "device": "cpu"} | options
    return score_grid(model, make, lengths, task=task, **settings)


def test_a_model_that_looks_back_retrieves_all(oracle: Any) -> None:
    assert grid(oracle(lookup(), SIZE)).mean == (1.0, 1.0)


def test_what_lies_before_a_models_window_is_lost_by_depth(oracle: Any) -> None:
    # 36 tokens back from the questions of 40 reach all but the start; of 80, the last two bins of 18 tokens at best.
    found = grid(oracle(lookup(window=38), SIZE), lengths=(40, 80), examples=6)
    assert [row[0] for row in found.accuracy][1:] == [1.0, 1.0, 1.0]
    assert [row[1] for row in found.accuracy][:2] == [0.0, 0.0]
    assert found.accuracy[3][1] > 0.9


def test_every_model_is_asked_the_same_and_another_seed_something_else(oracle: Any) -> None:
    first, second, third = oracle(lookup(), SIZE), oracle(lambda tokens: 0, SIZE), oracle(lookup(), SIZE)
    grid(first)
    grid(second, batch_tokens=1)
    grid(third, seed=6)
    assert [row.tolist() for row in first.seen] == [row.tolist() for row in second.seen]
    assert [row.tolist() for row in first.seen] != [row.tolist() for row in third.seen]


def test_an_example_depends_on_its_own_length_and_index_only(oracle: Any) -> None:
    model = oracle(lookup(), SIZE)
    grid(model, lengths=(80,), examples=2)
    alone = task_examples("recall", VOCABULARY, TEXT, 5, 4)(80, 1)
    assert model.seen[1].tolist() == alone.tokens.tolist()


def test_bins_rank_the_needles_by_depth() -> None:
    example = task_examples("recall", VOCABULARY, TEXT, 0, 4)(60, 0)
    places = {}
    for at, token in enumerate(example.tokens.tolist()):
        if VOCABULARY.needle(0, 0) <= token < VOCABULARY.query(0):
            places[(token - VOCABULARY.first_id) // VOCABULARY.num_values] = at
    asked = example.tokens[example.positions - 1].astype(int) - VOCABULARY.query(0)
    in_order = sorted(places, key=lambda key: places[key])
    assert [in_order[index] for index in example.bins] == asked.tolist()


def test_a_length_without_room_and_a_text_too_short_are_refused(oracle: Any) -> None:
    with pytest.raises(ConfigError, match="no room for 4 needles"):
        grid(oracle(lookup(), SIZE), lengths=(8,))
    with pytest.raises(DataError, match="needle text has 600 tokens"):
        grid(oracle(lookup(), SIZE), lengths=(800,))


@pytest.mark.parametrize("task", TASKS)
def test_a_model_that_reads_the_records_gets_all(oracle: Any, task: Task) -> None:
    found = grid(oracle(reader(), SIZE), task)
    assert (found.task, found.mean, found.examples) == (task, (1.0, 1.0), 3)
    assert np.shape(found.accuracy) == (4, 2)


@pytest.mark.parametrize(("task", "expected"), [("recall", 1.0), ("latest", 0.0), ("history", 0.0)])
def test_a_model_that_takes_the_oldest_value_fails_where_keys_are_bound_again(
    oracle: Any, task: Task, expected: float
) -> None:
    assert grid(oracle(reader(newest=False), SIZE), task).mean == (expected, expected)


def test_tasks_are_asked_about_different_sequences(oracle: Any) -> None:
    first, second = oracle(lambda tokens: 0, SIZE), oracle(lambda tokens: 0, SIZE)
    grid(first, "latest")
    grid(second, "history")
    assert [row.tolist() for row in first.seen] != [row.tolist() for row in second.seen]


def test_vocabulary_is_read_from_the_added_tokens(make_tokenizer: Any) -> None:
    tokenizer = make_tokenizer(needles=NeedleVocabulary(0, 3, 2).tokens())
    vocabulary = vocabulary_from_tokenizer(tokenizer)
    assert (vocabulary.num_keys, vocabulary.num_values) == (3, 2)
    assert tokenizer.convert_tokens_to_ids("<n:2:1>") == vocabulary.needle(2, 1)
    assert tokenizer.convert_tokens_to_ids("<v:1>") == vocabulary.value(1)
    assert has_needle_tokens(tokenizer)


def test_a_tokenizer_without_needle_tokens_is_refused(tokenizer: Any) -> None:
    assert not has_needle_tokens(tokenizer)
    with pytest.raises(ConfigError, match=r"corpus prepared with tokenizer.needle_tokens: true"):
        vocabulary_from_tokenizer(tokenizer)


@pytest.mark.parametrize("damage", ["missing", "order"])
def test_needle_tokens_that_are_no_whole_block_are_refused(make_tokenizer: Any, damage: str) -> None:
    names = NeedleVocabulary(0, 3, 2).tokens()
    names = names[:-1] if damage == "missing" else names[::-1]
    if damage == "missing":
        names.remove("<q:1>")
    with pytest.raises(ConfigError, match=r"needle token <\w:.*> has id .*, expected \d+"):
        vocabulary_from_tokenizer(make_tokenizer(needles=names))
