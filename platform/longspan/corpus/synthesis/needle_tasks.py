"""Harder retrieval in the tokens of `needles`: overwritten keys, several values, two needles combined, a two-hop chain.

With one easy needle, training-free YaRN finds it at eight times the window; here the order of records at a distance
counts (`latest`, `history`), or two records must be brought together (`larger`, `hop`). No token is added: what is
asked shows in the form of the question, so any corpus with needle tokens can hold any task, and a tokenizer or a model
made before them keeps its meaning. `corpus/` writes the documents as shards, `evaluate/` scores the examples. The tasks
are our own; RULER (2404.06654) has the same ideas as text.

    recall   Q(a) V(x)        every key has one record N(a, x)
    latest   Q(a) V(x)        a key is bound again and again; x is its newest value, the older ones are distractors
    history  Q(a) V(x) V(y)   the newest value, then the one before
    larger   Q(a) Q(b) V(x)   the larger of the newest values of a and b
    hop      Q(a) Q(a) V(x)   N(a, b) points to key b, and N(b, x) holds the answer
"""

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from longspan.config.tasks import TASKS, Task
from longspan.corpus.synthesis.needles import (
    NeedleVocabulary,
    check_fractions,
    loss_weights,
    needle_document,
    needle_grid_example,
    passage_start,
)
from longspan.errors import ConfigError

_WIDTH: dict[Task, int] = {"recall": 2, "latest": 2, "history": 3, "larger": 3, "hop": 3}
_NEW_KEY = 0.5
"""Share of the records of `latest` and `history` that bind a new key, while there is one; the rest bind one again."""
_RECORDS: dict[Task, int] = {"recall": 1, "latest": 3, "history": 3, "larger": 2, "hop": 2}
"""Records that an example has for each question."""


class Piece(NamedTuple):
    """Needle tokens that stand together: a record, or a question with its answers.

    Attributes:
        tokens: ids.
        num_answers: how many of the last tokens are answers.
    """

    tokens: tuple[int, ...]
    num_answers: int


class TaskExample(NamedTuple):
    """One evaluation sequence: every question asked at its end, the true answers in place.

    Attributes:
        tokens: uint32 [length].
        answer_positions: int64 [num_answers], index of each answer token; its logits are at the index before.
        questions: int64 [num_answers], which question the token answers; they are numbered in the order in which the
            first record that a question needs lies in the sequence.
    """

    tokens: NDArray[np.uint32]
    answer_positions: NDArray[np.int64]
    questions: NDArray[np.int64]


def task_document(
    rng: np.random.Generator,
    text: NDArray[np.uint32],
    length: int,
    vocabulary: NeedleVocabulary,
    *,
    tasks: Mapping[Task, float],
    fill: tuple[float, float],
    query_fraction: float,
    pure_text_share: float,
) -> tuple[NDArray[np.uint32], NDArray[np.float32]]:
    """A training document of one task, drawn by the weights in `tasks`; else as `needles.needle_document`.

    Raises:
        ConfigError: no task with a weight above 0, or as `needle_document`.
        DataError: `text` is shorter than `length`.
    """
    check_tasks(tasks, vocabulary)
    names = [name for name in TASKS if tasks.get(name, 0.0) > 0]
    weights = np.array([tasks[name] for name in names])
    # One task draws nothing, so that a source of plain recall is what it was before there were others.
    task = names[0] if len(names) == 1 else names[int(rng.choice(len(names), p=weights / weights.sum()))]
    if task == "recall":
        return needle_document(
            rng,
            text,
            length,
            vocabulary,
            fill=fill,
            query_fraction=query_fraction,
            pure_text_share=pure_text_share,
        )
    check_fractions(length, fill, query_fraction, pure_text_share)
    start = passage_start(rng, text, length)
    budget = 0 if rng.random() < pure_text_share else round(float(rng.uniform(*fill)) * length)
    return _weave(rng, text[start : start + length], _pieces(rng, task, budget, query_fraction, vocabulary))


def check_tasks(tasks: Mapping[Task, float], vocabulary: NeedleVocabulary) -> None:
    """Raises ConfigError where no known task has a weight above 0, or `hop` has too few keys to point from and to."""
    unknown = sorted(set(tasks) - set(TASKS))
    if unknown or not any(weight > 0 for weight in tasks.values()):
        raise ConfigError(f"needle tasks: {dict(tasks)}; give weights, one of them above 0, for some of {TASKS}")
    if tasks.get("hop", 0.0) > 0 and vocabulary.num_keys < vocabulary.num_values + 1:
        raise ConfigError(
            f"needle task hop: {vocabulary.num_keys} keys and {vocabulary.num_values} values; a value must name a key"
            " and a key be left to point from"
        )


def _pieces(
    rng: np.random.Generator, task: Task, budget: int, query_fraction: float, vocabulary: NeedleVocabulary
) -> list[Piece]:
    """Records and questions of a document in order, at most `budget` tokens of them. What cannot be asked yet in the
    form of the task is asked as plain recall, which means the same in every document.
    """
    num_questions = int(budget * query_fraction) // _WIDTH[task]
    num_records = budget - _WIDTH[task] * num_questions
    if task in ("larger", "hop"):
        num_records = min(num_records, vocabulary.num_keys)
    if num_records == 0:
        return []
    is_question = np.zeros(num_records + num_questions, dtype=bool)
    is_question[num_records:] = True
    is_question[1:] = rng.permutation(is_question[1:])
    draws = rng.random((is_question.size, 3))
    unused = [int(key) for key in rng.permutation(vocabulary.num_keys)]
    bound: dict[int, list[int]] = {}
    pieces = []
    for question, draw in zip(is_question, draws, strict=True):
        if question:
            pieces.append(_question(task, draw, bound, vocabulary))
        else:
            key, value = _new_record(task, draw, bound, unused, vocabulary)
            bound.setdefault(key, []).append(value)
            pieces.append(Piece((vocabulary.needle(key, value),), 0))
    return pieces


def _new_record(
    task: Task,
    draw: NDArray[np.float64],
    bound: Mapping[int, list[int]],
    unused: list[int],
    vocabulary: NeedleVocabulary,
) -> tuple[int, int]:
    """Key and value of the next record; a new key is taken off `unused`."""
    can_repeat = task in ("latest", "history") and bool(bound)
    if can_repeat and (not unused or draw[0] >= _NEW_KEY):
        key = list(bound)[_below(draw[1], len(bound))]
        # Another value than its newest: else nothing tells whether the newest was found.
        return key, (bound[key][-1] + 1 + _below(draw[2], vocabulary.num_values - 1)) % vocabulary.num_values
    key = unused.pop()
    targets = [other for other in bound if other < vocabulary.num_values] if task == "hop" else []
    if targets and draw[0] >= 0.5:
        return key, targets[_below(draw[2], len(targets))]
    return key, _below(draw[2], vocabulary.num_values)


def _question(
    task: Task, draw: NDArray[np.float64], bound: Mapping[int, list[int]], vocabulary: NeedleVocabulary
) -> Piece:
    """A question of the task that `bound` (values of each key, oldest first) answers, or plain recall."""
    keys = _askable(task, bound)
    if not keys:
        task, keys = "recall", list(bound)
    first = _below(draw[0], len(keys))
    second = (first + 1 + _below(draw[1], len(keys) - 1)) % len(keys) if task == "larger" else first
    return _ask(task, keys[first], keys[second], bound, vocabulary)


def _askable(task: Task, bound: Mapping[int, list[int]]) -> list[int]:
    """Keys that the task can ask for."""
    if task == "history":
        return [key for key, values in bound.items() if len(values) > 1]
    if task == "hop":
        return [key for key, values in bound.items() if values[-1] in bound and values[-1] != key]
    return list(bound) if task != "larger" or len(bound) > 1 else []


def _ask(task: Task, key: int, other: int, bound: Mapping[int, list[int]], vocabulary: NeedleVocabulary) -> Piece:
    """The tokens of one question with its answers; `other` is the second key of `larger`."""
    newest = bound[key][-1]
    match task:
        case "history":
            return Piece((vocabulary.query(key), vocabulary.value(newest), vocabulary.value(bound[key][-2])), 2)
        case "larger":
            largest = vocabulary.value(max(newest, bound[other][-1]))
            return Piece((vocabulary.query(key), vocabulary.query(other), largest), 1)
        case "hop":
            return Piece((vocabulary.query(key), vocabulary.query(key), vocabulary.value(bound[newest][-1])), 1)
        case _:
            return Piece((vocabulary.query(key), vocabulary.value(newest)), 1)


def _below(draw: float, count: int) -> int:
    """A number in [0, count) of a uniform draw in [0, 1); 0 where there is only one."""
    return min(int(draw * count), max(count - 1, 0))


def _weave(
    rng: np.random.Generator, passage: NDArray[np.uint32], pieces: list[Piece]
) -> tuple[NDArray[np.uint32], NDArray[np.float32]]:
    """The pieces in order at random places of the passage [length], whose end they push out; with target weights."""
    widths = np.array([len(piece.tokens) for piece in pieces], np.int64)
    num_text = passage.size - int(widths.sum())
    at = np.sort(rng.integers(num_text + 1, size=widths.size)) + np.cumsum(widths) - widths
    inside = np.repeat(at - np.cumsum(widths) + widths, widths) + np.arange(int(widths.sum()))
    is_text = np.ones(passage.size, dtype=bool)
    is_text[inside] = False
    tokens = np.empty(passage.size, dtype=np.uint32)
    tokens[is_text] = passage[:num_text]
    tokens[inside] = [token for piece in pieces for token in piece.tokens]
    is_answer = np.zeros(inside.size, dtype=bool)
    for end, piece in zip(np.cumsum(widths), pieces, strict=True):
        is_answer[end - piece.num_answers : end] = True
    return tokens, loss_weights(is_text, inside[is_answer])


def task_example(
    rng: np.random.Generator,
    task: Task,
    text: NDArray[np.uint32],
    length: int,
    vocabulary: NeedleVocabulary,
    num_questions: int = 10,
) -> TaskExample:
    """One evaluation sequence of a task: records spread evenly over text, then all questions in random order.

    `recall` is `needles.needle_grid_example`. Each other question has records of its own (three of one key for `latest`
    and `history`, of two keys for `larger`, pointer and target for `hop`); all records, in random order, lie one in
    each of as many equal bins.

    Args:
        rng: source of every random choice.
        text: token ids [num_text_tokens], held out from training.
        length: tokens in the sequence.
        num_questions: how many are asked.

    Raises:
        ConfigError: more questions than the vocabulary has keys for, or a length without room.
        DataError: `text` is shorter than `length`.
    """
    check_tasks({task: 1.0}, vocabulary)
    if task == "recall":
        plain = needle_grid_example(rng, text, length, vocabulary, num_questions)
        return TaskExample(plain.tokens, plain.answer_positions, np.argsort(np.argsort(plain.depths)))
    num_records, width = _RECORDS[task] * num_questions, _WIDTH[task]
    _check_room(task, length, num_questions, vocabulary)
    start = passage_start(rng, text, length)
    body = length - width * num_questions
    edges = np.arange(num_records + 1) * body // num_records
    at = rng.integers(edges[:-1], edges[1:])
    groups = rng.permutation(np.repeat(np.arange(num_questions), _RECORDS[task]))
    keys, values = _bindings(rng, task, groups, vocabulary)
    bound: dict[int, list[int]] = {}
    members: list[list[int]] = [[] for _ in range(num_questions)]
    for group, key, value in zip(groups, keys, values, strict=True):
        bound.setdefault(int(key), []).append(int(value))
        members[group].append(int(key))

    tokens = np.array(text[start : start + length], dtype=np.uint32)
    tokens[at] = vocabulary.needle(0, 0) + keys * vocabulary.num_values + values
    # Numbered by where the first record of each lies.
    number = {int(group): rank for rank, group in enumerate(dict.fromkeys(groups.tolist()))}
    positions: list[int] = []
    questions: list[int] = []
    place = body
    for group in rng.permutation(num_questions):
        asked = [key for key in members[group] if task != "hop" or key >= vocabulary.num_values]
        piece = _ask(task, asked[0], asked[-1], bound, vocabulary)
        tokens[place : place + width] = piece.tokens
        positions += range(place + width - piece.num_answers, place + width)
        questions += [number[int(group)]] * piece.num_answers
        place += width
    return TaskExample(tokens, np.array(positions, np.int64), np.array(questions, np.int64))


def _check_room(task: Task, length: int, num_questions: int, vocabulary: NeedleVocabulary) -> None:
    most = vocabulary.num_keys
    if task == "larger":
        most = vocabulary.num_keys // 2
    if task == "hop":
        most = min(vocabulary.num_values, vocabulary.num_keys - vocabulary.num_values)
    if not 1 <= num_questions <= most:
        raise ConfigError(
            f"needle task {task}: {num_questions} questions; must be in [1, {most}], what the keys are enough for"
        )
    room = (_RECORDS[task] + _WIDTH[task]) * num_questions
    if length < room:
        raise ConfigError(f"needle task {task}: length={length} has no room for {num_questions} questions; >= {room}")


def _bindings(
    rng: np.random.Generator, task: Task, groups: NDArray[np.int64], vocabulary: NeedleVocabulary
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Key and value, int64 [num_records], of each record in order of place; `groups` says which question it is for."""
    num_questions, num_values = int(groups.max()) + 1, vocabulary.num_values
    # 0, 1, ... among the records of its question.
    turn = np.array([np.sum(groups[:index] == group) for index, group in enumerate(groups)])
    if task == "larger":
        keys = rng.permutation(vocabulary.num_keys)[: 2 * num_questions].reshape(num_questions, 2)
        return keys[groups, turn], rng.integers(num_values, size=groups.size)
    if task == "hop":
        targets = rng.permutation(num_values)[:num_questions]
        pointers = num_values + rng.permutation(vocabulary.num_keys - num_values)[:num_questions]
        points_first = rng.random(num_questions) < 0.5
        is_pointer = (turn == 0) == points_first[groups]
        answers = rng.integers(num_values, size=num_questions)
        keys = np.where(is_pointer, pointers[groups], targets[groups])
        return keys, np.where(is_pointer, targets[groups], answers[groups])
    keys = rng.permutation(vocabulary.num_keys)[:num_questions]
    # The values of one key all differ, so that no older one is right by chance.
    values = np.argsort(rng.random((num_questions, num_values)), axis=1)
    return keys[groups], values[groups, turn]
