"""SynL documents: long synthetic tables, questions about them, and the loss on the answers only.

LongSkywork (arXiv 2406.00605) trains its long SFT stage on Synthetic Lengthy Tables; their schemas, formats, questions
and sizes were NOT FOUND, so everything here is OUR DESIGN. A document is a preamble, one or two tables in one format,
and questions with answers. Rows that no question needs are its filler; their number sets the length. For `prepare`,
which makes the documents of a source, and for evaluation with held-out schemas (split "eval").
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from longspan.corpus.synthesis.questions import KINDS, NUM_DEPTHS, Kind, Question, Slot, ask, least_rows
from longspan.corpus.synthesis.renderings import FORMATS, Format, render
from longspan.corpus.synthesis.tables import Schema, Split, Table, draw_schema, draw_table, refer
from longspan.errors import ConfigError

QUESTION, ANSWER = "\nQuestion: ", "\nAnswer: "
_DOCUMENTS, _ROUNDS, _DEPTHS, _SCHEMAS, _ROWS = range(5)
"""Tags that keep the random streams apart."""
_FORMAT_NAMES: dict[Format, str] = {"csv": "CSV", "markdown": "markdown", "jsonl": "JSON lines", "html": "HTML"}
_AIM, _SLACK = 0.99, 0.02
_MOST_BUILDS = 10
_MOST_SCHEMAS = 200
"""Schemas tried until a short document has room for one."""
_CHECKED_SCHEMAS = 20
"""The same for `check_room`: what needs no more there does not run out of the others by chance."""
_CHECKED_DOCUMENTS = 2000

CountTokens = Callable[[str], int] | float
"""How many tokens a text has: a function, or an estimate of characters per token."""


@dataclass(frozen=True)
class SynlSettings:
    """What a set of SynL documents is.

    Attributes:
        lengths: tokens of a document at most; every length is as frequent.
        questions: questions in each document, at most as many as `kinds`.
        kinds: kinds of questions; all are as frequent, each with all depths.
        formats: formats of tables; all are as frequent, with every length.
        split: schemas for training or the held-out ones.

    Raises:
        ConfigError: something is empty, unknown or named twice, or `questions` is out of its range.
    """

    lengths: tuple[int, ...]
    questions: int = 8
    kinds: tuple[Kind, ...] = KINDS
    formats: tuple[Format, ...] = FORMATS
    split: Split = "train"

    def __post_init__(self) -> None:
        for name, given, known in (("kinds", self.kinds, KINDS), ("formats", self.formats, FORMATS)):
            if not given or len(set(given)) < len(given) or not set(given) <= set(known):
                raise ConfigError(f"SynL {name}: {given}; must be different ones of {known}")
        if not self.lengths or len(set(self.lengths)) < len(self.lengths) or min(self.lengths) < 1:
            raise ConfigError(f"SynL lengths: {self.lengths}; must be different and at least 1")
        if not 1 <= self.questions <= len(self.kinds):
            raise ConfigError(
                f"SynL questions: {self.questions}; must be in [1, {len(self.kinds)}], the number of kinds, so that a"
                " document does not repeat itself"
            )
        if self.split not in ("train", "eval"):
            raise ConfigError(f"SynL split: {self.split!r}; must be 'train' or 'eval'")


class DocumentPlan(NamedTuple):
    """What one document of a set is: its length in tokens, its format, and what it asks."""

    length: int
    format: Format
    slots: tuple[Slot, ...]


@dataclass(frozen=True)
class SynlDocument:
    """A document.

    Attributes:
        text: all of it, answers included.
        spans: int64 [num_questions, 2], characters [begin, end) of each answer in `text`, rising. The line end behind
            the answer belongs to it: it says that the answer is over.
        questions: in the order of the text.
        tables: the tables in the order of the text.
        format: how they are written.
        num_tokens: tokens by the count that was given; without bos and eos.
    """

    text: str
    spans: NDArray[np.int64]
    questions: tuple[Question, ...]
    tables: tuple[Table, ...]
    format: Format
    num_tokens: int


def plan_document(settings: SynlSettings, key: Sequence[int], number: int) -> DocumentPlan:
    """What document `number` of the set is, known without the others.

    Balance: each run of lengths x formats documents has every pair once. Of one length, each run of 10 x kinds
    questions has every (kind, decile of depth) once; the questions of a document differ in both as far as possible.

    Args:
        settings: the set.
        key: entropy of the set: seed, tag, source.
        number: the document's number, from 0.
    """
    num_formats = len(settings.formats)
    block, place = divmod(number, len(settings.lengths) * num_formats)
    order = np.random.default_rng([*key, _DOCUMENTS, block]).permutation(len(settings.lengths) * num_formats)
    length, format = divmod(int(order[place]), num_formats)
    # The document's number among those of its length.
    among = block * num_formats + int((order[:place] // num_formats == length).sum())
    first = among * settings.questions
    slots = tuple(_slot(settings, [*key, length], index) for index in range(first, first + settings.questions))
    return DocumentPlan(settings.lengths[length], settings.formats[format], slots)


def synl_document(settings: SynlSettings, key: Sequence[int], number: int, count: CountTokens) -> SynlDocument:
    """Makes document `number` of the set; a pure function of its arguments.

    Its tokens are at most the planned length, and rarely fewer by more than 2 % or two rows.

    Args:
        settings, key, number: see `plan_document`.
        count: tokens of a text, or characters per token.

    Raises:
        ConfigError: the length has no room for the fewest rows that the questions need.
    """
    build, least, plan = _with_room(settings, key, number, count)
    return _fitted(build, least, plan.length)


def check_room(settings: SynlSettings, key: Sequence[int], documents: int, count: CountTokens) -> None:
    """Whether the shortest documents have room for their questions, tried in every format on the ones that need most
    rows: of the first documents, since looking at all plans of a large set takes long.

    For `prepare`, before hours of other work. Raises ConfigError as `synl_document`.
    """
    hardest: dict[tuple[Format, int], tuple[int, int]] = {}
    for number in range(min(documents, _CHECKED_DOCUMENTS)):
        plan = plan_document(settings, key, number)
        if plan.length == min(settings.lengths):
            place = (plan.format, _num_tables(plan, _schema_rng(key, number)))
            hardest[place] = max(hardest.get(place, (0, 0)), (least_rows(plan.slots), number))
    for _, number in hardest.values():
        _with_room(settings, key, number, count, _CHECKED_SCHEMAS)


def _schema_rng(key: Sequence[int], number: int) -> np.random.Generator:
    return np.random.default_rng([*key, _SCHEMAS, number])


def _num_tables(plan: DocumentPlan, rng: np.random.Generator) -> int:
    return 2 if any(slot.kind == "join" for slot in plan.slots) else int(rng.integers(1, 3))


def _with_room(
    settings: SynlSettings, key: Sequence[int], number: int, count: CountTokens, most_schemas: int = _MOST_SCHEMAS
) -> tuple[Callable[[int], SynlDocument], int, DocumentPlan]:
    """What builds document `number` with so many rows a table, the fewest rows, with which it fits, and its plan."""
    plan = plan_document(settings, key, number)
    rng = _schema_rng(key, number)
    num_tables = _num_tables(plan, rng)
    least = -(-least_rows(plan.slots) // num_tables)
    shortest = []
    for _ in range(most_schemas):
        schemas = [draw_schema(rng, settings.split)]
        if num_tables == 2:
            schemas.append(draw_schema(rng, settings.split, avoid=[schemas[0].title]))
        build = partial(_build, schemas, [*key, _ROWS, number], plan, count)
        shortest.append(build(least).num_tokens)
        # Short documents have no room for wide tables.
        if shortest[-1] <= plan.length:
            return build, least, plan
    raise ConfigError(
        f"SynL lengths: {plan.length} tokens have no room for the {plan.format} table that {len(plan.slots)} questions"
        f" need (about {min(shortest)}); ask for longer documents, fewer questions or a terser format"
    )


def answer_weights(offsets: NDArray[np.integer], spans: NDArray[np.int64]) -> NDArray[np.float32]:
    """Loss weights of tokens as targets, float32 [num_tokens]: 1 if the token shares a character with an answer.

    Args:
        offsets: int [num_tokens, 2], characters [begin, end) of each token, as a tokenizer's `offset_mapping`; a token
            without characters (bos, eos) weighs 0.
        spans: int64 [num_spans, 2], see `SynlDocument.spans`.
    """
    begin, end = offsets[:, 0], offsets[:, 1]
    following = np.searchsorted(spans[:, 1], begin, side="right")
    limits = np.append(spans[:, 0], np.iinfo(np.int64).max)
    return ((limits[following] < end) & (begin < end)).astype(np.float32)


def _slot(settings: SynlSettings, key: list[int], index: int) -> Slot:
    """The index-th question of a length: a Latin square of kinds and depths, shuffled every ten rounds of the kinds."""
    count = len(settings.kinds)
    number, place = divmod(index, count)
    kind = int(np.random.default_rng([*key, _ROUNDS, number]).permutation(count)[place])
    rng = np.random.default_rng([*key, _DEPTHS, number // NUM_DEPTHS])
    shift, depths, rounds = rng.permutation(count), rng.permutation(NUM_DEPTHS), rng.permutation(NUM_DEPTHS)
    return Slot(settings.kinds[kind], int(depths[(shift[kind] + rounds[number % NUM_DEPTHS]) % NUM_DEPTHS]))


def _build(
    schemas: list[Schema], key: list[int], plan: DocumentPlan, count: CountTokens, num_rows: int
) -> SynlDocument:
    """The document with `num_rows` rows a table; `key` is its entropy."""
    rng = np.random.default_rng([*key, num_rows])
    tables = [draw_table(rng, schema, num_rows) for schema in schemas]
    if len(tables) == 2:
        referring = int(rng.integers(2))
        tables[referring] = refer(rng, tables[referring], tables[1 - referring])
    return _write(*ask(rng, tables, plan.slots), plan.format, count)


def _write(tables: list[Table], questions: list[Question], format: Format, count: CountTokens) -> SynlDocument:
    subject = "is a table" if len(tables) == 1 else "are two tables"
    parts = [f"Here {subject} in {_FORMAT_NAMES[format]}, then questions with their answers.\n"]
    parts += [f'\nTable "{table.schema.title}":\n{render(table, format)}' for table in tables]
    place = sum(map(len, parts))
    spans = []
    for question in questions:
        asked = f"{QUESTION}{question.text}{ANSWER}"
        parts += [asked, f"{question.answer}\n"]
        spans.append((place + len(asked), place + len(asked) + len(question.answer) + 1))
        place = spans[-1][1]
    text = "".join(parts)
    num_tokens = count(text) if callable(count) else round(len(text) / count)
    return SynlDocument(
        text, np.array(spans, np.int64).reshape(-1, 2), tuple(questions), tuple(tables), format, num_tokens
    )


def _fitted(build: Callable[[int], SynlDocument], least: int, length: int) -> SynlDocument:
    """The document of at most `length` tokens, its rows found by straight lines through earlier tries; `least` fit."""
    best = build(least)
    low, low_tokens, base = least, best.num_tokens, best.num_tokens
    high: int | None = None
    rows = 2 * least
    for _ in range(_MOST_BUILDS):
        made = build(rows)
        per_row = max((made.num_tokens - base) / (rows - least), 1.0)
        if made.num_tokens > length:
            high = rows
        else:
            best, low, low_tokens = made, rows, made.num_tokens
        if length - low_tokens <= max(_SLACK * length, per_row) or high == low + 1:
            break
        rows = max(low + 1, low + int((_AIM * length - low_tokens) / per_row))
        rows = rows if high is None else min(rows, high - 1)
    return best
