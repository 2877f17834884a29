"""Needle tasks as asked of a model: one that reads the records right gets all, one that reads them wrong gets none."""

from typing import Any

import numpy as np
import pytest

from longspan.config.tasks import TASKS, Task
from longspan.corpus.synthesis.needles import NeedleVocabulary
from longspan.evaluate.needles import needle_grid
from longspan.evaluate.tasks import task_grid

VOCABULARY = NeedleVocabulary(first_id=20, num_keys=12, num_values=6)
SIZE = 20 + len(VOCABULARY)
TEXT = (np.arange(600) % 20).astype(np.uint32)


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


def grid(model: Any, task: Task, **settings: Any) -> Any:
    options: dict[str, Any] = {"num_questions": 4, "examples": 3, "seed": 5, "device": "cpu"} | settings
    return task_grid(model, VOCABULARY, TEXT, task, [60, 90], **options)


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


def test_recall_asks_what_the_needle_grid_asks(oracle: Any) -> None:
    first, second = oracle(lambda tokens: 0, SIZE), oracle(lambda tokens: 0, SIZE)
    grid(first, "recall")
    needle_grid(second, VOCABULARY, TEXT, [60, 90], num_needles=4, examples=3, seed=5, device="cpu")
    assert [row.tolist() for row in first.seen] == [row.tolist() for row in second.seen]


def test_tasks_are_asked_about_different_sequences(oracle: Any) -> None:
    first, second = oracle(lambda tokens: 0, SIZE), oracle(lambda tokens: 0, SIZE)
    grid(first, "latest")
    grid(second, "history")
    assert [row.tolist() for row in first.seen] != [row.tolist() for row in second.seen]
