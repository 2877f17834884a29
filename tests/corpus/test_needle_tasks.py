"""Needle tasks: every question is answered by the records before it, and by the newest ones."""

from itertools import pairwise
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from longspan.config.tasks import TASKS, Task
from longspan.corpus.synthesis.needle_tasks import task_document, task_example
from longspan.corpus.synthesis.needles import NeedleVocabulary, needle_document
from longspan.errors import ConfigError, DataError

VOCABULARY = NeedleVocabulary(first_id=384)
TEXT = np.arange(5000, dtype=np.uint32) % 384
QUERY, VALUE = VOCABULARY.query(0), VOCABULARY.value(0)


def read(tokens: np.ndarray) -> list[tuple[list[int], list[int], dict[int, list[int]], list[int]]]:
    """Every question: keys asked, values answered, the values of each key so far (oldest first), places of answers."""
    bound: dict[int, list[int]] = {}
    questions: list[Any] = []
    before = 0
    for place, token in enumerate(tokens.tolist()):
        if 384 <= token < QUERY:
            key, value = divmod(token - 384, VOCABULARY.num_values)
            bound.setdefault(key, []).append(value)
        elif QUERY <= token < VALUE:
            if before < QUERY or before >= VALUE:
                questions.append(([], [], {key: list(values) for key, values in bound.items()}, []))
            questions[-1][0].append(token - QUERY)
        elif token >= VALUE:
            questions[-1][1].append(token - VALUE)
            questions[-1][3].append(place)
        before = token
    return questions


def expected(keys: list[int], num_answers: int, bound: dict[int, list[int]]) -> list[int]:
    """What the form of a question means, the same in every task."""
    if num_answers == 2:
        return [bound[keys[0]][-1], bound[keys[0]][-2]]
    if len(keys) == 1:
        return [bound[keys[0]][-1]]
    if keys[0] == keys[1]:
        return [bound[bound[keys[0]][-1]][-1]]
    return [max(bound[key][-1] for key in keys)]


def document(seed: int, tasks: dict[Task, float], length: int = 256, **changes: Any) -> tuple[np.ndarray, np.ndarray]:
    options: dict[str, Any] = {"fill": (0.3, 0.9), "query_fraction": 0.6, "pure_text_share": 0.0} | changes
    return task_document(np.random.default_rng(seed), TEXT, length, VOCABULARY, tasks=tasks, **options)


@given(
    seed=st.integers(0, 2**32 - 1),
    task=st.sampled_from(TASKS),
    length=st.integers(1, 300),
    fill=st.floats(0, 1),
    query_fraction=st.floats(0, 1),
)
def test_every_answer_follows_from_the_records_before_it(
    seed: int, task: Task, length: int, fill: float, query_fraction: float
) -> None:
    tokens, weight = document(seed, {task: 1.0}, length, fill=(0.0, fill), query_fraction=query_fraction)
    assert (tokens.dtype.name, weight.dtype.name) == ("uint32", "float32")
    assert tokens.shape == weight.shape == (length,)
    answers = []
    for keys, values, bound, places in read(tokens):
        assert values == expected(keys, len(values), bound)
        answers += places
    is_text = tokens < 384
    is_answer = np.isin(np.arange(length), answers)
    assert not weight[~is_text & ~is_answer].any()
    assert (weight[is_answer] > 0).all()
    assert weight[1:][is_text[1:]].tolist() == [1.0] * int(is_text[1:].sum())


@pytest.mark.parametrize(
    ("task", "form"),
    [("latest", (1, 1, False)), ("history", (1, 2, False)), ("larger", (2, 1, False)), ("hop", (2, 1, True))],
)
def test_most_questions_have_the_form_of_the_task(task: Task, form: tuple[int, int, bool]) -> None:
    forms = []
    for seed in range(20):
        for keys, values, _, _ in read(document(seed, {task: 1.0})[0]):
            forms.append((len(keys), len(values), len(keys) > len(set(keys))))
    assert len(forms) > 300
    assert forms.count(form) > 0.8 * len(forms)


def test_a_key_is_bound_again_to_another_value() -> None:
    bindings = []
    for seed in range(10):
        questions = read(document(seed, {"latest": 1.0})[0])
        bindings += list(questions[-1][2].values())
    repeated = [values for values in bindings if len(values) > 1]
    assert len(repeated) > len(bindings) / 3
    assert all(a != b for values in repeated for a, b in pairwise(values))


def test_recall_alone_is_the_plain_document_byte_for_byte() -> None:
    options: dict[str, Any] = {"fill": (0.05, 0.9), "query_fraction": 0.6, "pure_text_share": 0.2}
    for seed in range(5):
        plain = needle_document(np.random.default_rng(seed), TEXT, 200, VOCABULARY, **options)
        tasks = task_document(np.random.default_rng(seed), TEXT, 200, VOCABULARY, tasks={"recall": 2.0}, **options)
        assert [part.tobytes() for part in plain] == [part.tobytes() for part in tasks]


def test_tasks_are_drawn_by_weight() -> None:
    kinds = []
    for seed in range(200):
        questions = read(document(seed, {"recall": 1.0, "larger": 3.0, "hop": 0.0}, 64)[0])
        kinds.append(any(len(keys) == 2 for keys, _, _, _ in questions))
    assert 0.65 < np.mean(kinds) < 0.85


@pytest.mark.parametrize("task", TASKS)
def test_an_example_asks_every_question_at_its_end(task: Task) -> None:
    orders = set()
    for seed in range(10):
        made = task_example(np.random.default_rng(seed), task, TEXT, 160, VOCABULARY, 8)
        questions = read(made.tokens)
        assert len(questions) == 8
        for keys, values, bound, _ in questions:
            assert values == expected(keys, len(values), bound)
        places = [place for *_, own in questions for place in own]
        assert made.answer_positions.tolist() == places
        assert sorted(set(made.questions.tolist())) == list(range(8))
        width = len(questions[0][0]) + len(questions[0][1])
        assert min(places) > 160 - 8 * width
        records = np.flatnonzero((made.tokens >= 384) & (made.tokens < QUERY))
        # One record in each of as many equal parts of what is before the questions.
        edges = np.arange(records.size + 1) * (160 - 8 * width) // records.size
        assert (np.searchsorted(edges, records, side="right") - 1).tolist() == list(range(records.size))
        orders.add(tuple(made.questions.tolist()))
    assert len(orders) > 5


def test_questions_are_numbered_by_their_first_record() -> None:
    made = task_example(np.random.default_rng(3), "latest", TEXT, 160, VOCABULARY, 8)
    records = made.tokens[(made.tokens >= 384) & (made.tokens < QUERY)]
    first = list(dict.fromkeys(((records - 384) // VOCABULARY.num_values).tolist()))
    asked = made.tokens[made.answer_positions - 1].astype(int) - QUERY
    assert [first[number] for number in made.questions] == asked.tolist()


def test_the_newest_of_three_values_is_no_older_one() -> None:
    made = task_example(np.random.default_rng(0), "latest", TEXT, 160, VOCABULARY, 8)
    for keys, values, bound, _ in read(made.tokens):
        assert len(bound[keys[0]]) == len(set(bound[keys[0]])) == 3
        assert values[0] not in bound[keys[0]][:-1]


def test_an_example_and_a_document_are_pure_functions_of_the_generator() -> None:
    one, two = (task_example(np.random.default_rng(7), "hop", TEXT, 160, VOCABULARY, 8) for _ in range(2))
    assert one.tokens.tobytes() == two.tokens.tobytes()
    first, second = (document(7, {"hop": 1.0, "history": 1.0}) for _ in range(2))
    assert first[0].tobytes() == second[0].tobytes()


@pytest.mark.parametrize("tasks", [{}, {"recall": 0.0}, {"guess": 1.0}])
def test_refuses_tasks_that_are_none(tasks: dict[Any, float]) -> None:
    with pytest.raises(ConfigError, match="needle tasks"):
        document(0, tasks)


@pytest.mark.parametrize(("task", "count"), [("larger", 17), ("hop", 17), ("latest", 33), ("recall", 33)])
def test_refuses_more_questions_than_keys_are_enough_for(task: Task, count: int) -> None:
    with pytest.raises(ConfigError, match=rf"must be in \[1, {count - 1}\]"):
        task_example(np.random.default_rng(0), task, TEXT, 2000, VOCABULARY, count)


def test_refuses_a_length_without_room_a_short_text_and_a_vocabulary_without_pointers() -> None:
    with pytest.raises(ConfigError, match="no room for 10 questions; >= 50"):
        task_example(np.random.default_rng(0), "latest", TEXT, 49, VOCABULARY)
    with pytest.raises(DataError, match="5000 tokens"):
        task_example(np.random.default_rng(0), "hop", TEXT, 5001, VOCABULARY)
    with pytest.raises(ConfigError, match="16 keys and 16 values"):
        task_example(np.random.default_rng(0), "hop", TEXT, 200, NeedleVocabulary(384, num_keys=16))
