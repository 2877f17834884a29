"""Questions about SynL tables, with exact answers and with the row that each answer needs at a wanted depth.

Called by `synl`. Which kinds there are and how they are worded is OUR DESIGN (LongSkywork's were not found). Questions
about the highest or the k-th value would fall wherever chance put it; so values are swapped inside their column until
the row at the wanted depth holds it. Rounding and ties: see KINDS.
"""

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple, get_args

import numpy as np

from longspan.config.corpus import TableQuestion
from longspan.corpus.synthesis.tables import Table, decimal_text, scaled
from longspan.errors import ConfigError

Kind = TableQuestion
KINDS: tuple[Kind, ...] = get_args(Kind)
"""lookup: a cell by key. reverse: the key by a value that occurs once. filter: the keys of the rows that meet a
condition, in the order of the table, joined by ", ". count, sum, mean, min, max: over the rows that meet a condition; a
mean is rounded to 2 decimals, halves up; the others keep the column's decimals. argmax, argmin, order: the key of the
row with the highest, lowest, k-th value; number columns have no ties. next: the key one row below. join: a cell of one
table by way of the other. absent: asks for a key that is not there.
"""
ABSENT = "not in the table"
NUM_DEPTHS = 10
_RANKED: tuple[Kind, ...] = ("argmax", "argmin", "order")
_LAST_RANK = 5
_ORDINALS = {2: "2nd", 3: "3rd", 4: "4th", 5: "5th"}
_MOST_ROWS = {"filter": 4, "count": 8, "sum": 4, "mean": 4, "min": 6, "max": 6}
"""Most rows that meet a condition: what a model can combine, and an answer that stays short."""


class Slot(NamedTuple):
    """What to ask: the kind, and the depth decile 0..9 of the row that the answer needs."""

    kind: Kind
    decile: int


@dataclass(frozen=True)
class Question:
    """A question with its answer.

    Attributes:
        kind: see KINDS.
        text: one line.
        answer: one line, exact.
        table: which table of the document holds the answer.
        row: the row that the answer needs (one of them, for kinds over several rows); None if the key is absent.
        depth: that row's number among all rows of the document, as a fraction in [0, 1); None if the key is absent.
    """

    kind: Kind
    text: str
    answer: str
    table: int
    row: int | None
    depth: float | None


class _Place(NamedTuple):
    table: int
    row: int


class _Rank(NamedTuple):
    """A value by its rank in a number column: 0 is the highest."""

    column: int
    rank: int


def least_rows(slots: Sequence[Slot]) -> int:
    """Rows that a document needs so that no two of its questions need the same row; at least 20."""
    # One row more than questions in every decile: the first row of a table is below no other.
    return NUM_DEPTHS * (max(Counter(slot.decile for slot in slots).values()) + 1)


def ask(rng: np.random.Generator, tables: Sequence[Table], slots: Sequence[Slot]) -> tuple[list[Table], list[Question]]:
    """Makes one question per slot.

    Args:
        rng: source of every random choice.
        tables: one table, or two of which one refers to the other; a join needs two.
        slots: what to ask, in order.

    Returns:
        The tables, with values swapped inside number columns, and the questions; no two need the same row.

    Raises:
        ConfigError: a decile has fewer rows than questions that need one there, or a join has one table only.
    """
    if len(tables) == 1 and any(slot.kind == "join" for slot in slots):
        raise ConfigError("SynL: a join needs two tables")
    places = _places(rng, [table.num_rows for table in tables], slots)
    tables, ranks = _arrange(rng, tables, slots, places)
    total = sum(table.num_rows for table in tables)
    before = [0, tables[0].num_rows]
    questions, absent = [], 0
    for slot, place, rank in zip(slots, places, ranks, strict=True):
        table = tables[place.table]
        if slot.kind == "absent":
            text = _lookup_text(table, _other(rng, table), table.absent[absent])
            questions.append(Question("absent", text, ABSENT, place.table, None, None))
            absent += 1
            continue
        if slot.kind == "join":
            text, answer = _join(rng, tables, place)
        elif rank is not None:
            text, answer = _ranked(table, rank), table.cells[0][place.row]
        else:
            text, answer = _SINGLE[slot.kind](rng, table, place.row, slot.kind)
        depth = (before[place.table] + place.row) / total
        questions.append(Question(slot.kind, text, answer, place.table, place.row, depth))
    return tables, questions


def _places(rng: np.random.Generator, num_rows: list[int], slots: Sequence[Slot]) -> list[_Place]:
    total = sum(num_rows)
    places: list[_Place] = []
    for slot in slots:
        rows = range(-(-slot.decile * total // NUM_DEPTHS), -(-(slot.decile + 1) * total // NUM_DEPTHS))
        free = [_Place(0, row) if row < num_rows[0] else _Place(1, row - num_rows[0]) for row in rows]
        free = [place for place in free if place not in places and (place.row or slot.kind != "next")]
        if not free:
            raise ConfigError(
                f"SynL: {total} rows are too few for {len(slots)} questions; ask less or longer documents"
            )
        places.append(free[int(rng.integers(len(free)))])
    return places


def _arrange(
    rng: np.random.Generator, tables: Sequence[Table], slots: Sequence[Slot], places: list[_Place]
) -> tuple[list[Table], list[_Rank | None]]:
    """Puts the values that ranked questions ask for into their rows; each (column, rank) serves one question."""
    cells = [[list(column) for column in table.cells] for table in tables]
    ranks: list[_Rank | None] = []
    taken: set[tuple[int, _Rank]] = set()
    for slot, place in zip(slots, places, strict=True):
        if slot.kind not in _RANKED:
            ranks.append(None)
            continue
        table = tables[place.table]
        low = table.num_rows - 1
        wanted = {"argmax": [0], "argmin": [low]}.get(
            slot.kind, [*range(1, _LAST_RANK), *range(low - _LAST_RANK + 1, low)]
        )
        choices = [_Rank(column, rank) for column in table.of_kind("int", "float") for rank in wanted]
        choices = [choice for choice in choices if (place.table, choice) not in taken]
        rank = choices[int(rng.integers(len(choices)))]
        column = cells[place.table][rank.column]
        # Neither row holds a value placed before: rows differ between questions, and ranks within a column.
        source = sorted(range(len(column)), key=lambda row, column=column: -scaled(column[row]))[rank.rank]  # type: ignore[misc]
        column[source], column[place.row] = column[place.row], column[source]
        taken.add((place.table, rank))
        ranks.append(rank)
    arranged = [
        replace(table, cells=tuple(tuple(column) for column in columns))
        for table, columns in zip(tables, cells, strict=True)
    ]
    return arranged, ranks


def _lookup_text(table: Table, column: int, key: str) -> str:
    head = table.schema.columns
    return (
        f'In the table "{table.schema.title}", what is the "{head[column].header}" of the row whose "{head[0].header}"'
        f' is "{key}"?'
    )


def _lookup(rng: np.random.Generator, table: Table, row: int, kind: Kind) -> tuple[str, str]:
    column = _other(rng, table)
    return _lookup_text(table, column, table.cells[0][row]), table.cells[column][row]


def _reverse(rng: np.random.Generator, table: Table, row: int, kind: Kind) -> tuple[str, str]:
    column = _pick(rng, table.of_kind("int", "float", "code"))
    head = table.schema.columns
    text = (
        f'In the table "{table.schema.title}", what is the "{head[0].header}" of the row whose "{head[column].header}"'
        f' is "{table.cells[column][row]}"?'
    )
    return text, table.cells[0][row]


def _next(rng: np.random.Generator, table: Table, row: int, kind: Kind) -> tuple[str, str]:
    key = table.schema.columns[0].header
    text = (
        f'In the table "{table.schema.title}", what is the "{key}" of the row directly below the row whose "{key}" is'
        f' "{table.cells[0][row - 1]}"?'
    )
    return text, table.cells[0][row]


def _ranked(table: Table, rank: _Rank) -> str:
    from_top, from_bottom = rank.rank + 1, table.num_rows - rank.rank
    which = "highest" if from_top <= from_bottom else "lowest"
    ordinal = _ORDINALS.get(min(from_top, from_bottom))
    return (
        f'In the table "{table.schema.title}", what is the "{table.schema.columns[0].header}" of the row with the'
        f' {f"{ordinal} " if ordinal else ""}{which} "{table.schema.columns[rank.column].header}"?'
    )


def _filter(rng: np.random.Generator, table: Table, row: int, kind: Kind) -> tuple[str, str]:
    where, rows = _condition(rng, table, row, _MOST_ROWS[kind])
    text = (
        f'In the table "{table.schema.title}", list the "{table.schema.columns[0].header}" of all rows {where}, in the'
        " order of the table."
    )
    return text, ", ".join(table.cells[0][row] for row in rows)


def _count(rng: np.random.Generator, table: Table, row: int, kind: Kind) -> tuple[str, str]:
    where, rows = _condition(rng, table, row, _MOST_ROWS[kind])
    return f'In the table "{table.schema.title}", how many rows are there {where}?', str(len(rows))


def _aggregate(rng: np.random.Generator, table: Table, row: int, kind: Kind) -> tuple[str, str]:
    where, rows = _condition(rng, table, row, _MOST_ROWS[kind])
    column = _pick(rng, table.of_kind("int", "float"))
    head = table.schema.columns[column]
    values = [scaled(table.cells[column][row]) for row in rows]
    name = {"min": "lowest value", "max": "highest value"}.get(kind, kind)
    ending = ", rounded to 2 decimals, halves up" if kind == "mean" else ""
    text = (
        f'In the table "{table.schema.title}", what is the {name} of the "{head.header}" over all rows {where}{ending}?'
    )
    if kind == "mean":
        # Whole numbers throughout: round(100 * sum / unit / count), with halves up.
        divisor = len(values) * 10**head.decimals
        return text, decimal_text((200 * sum(values) + divisor) // (2 * divisor), 2)
    value = sum(values) if kind == "sum" else min(values) if kind == "min" else max(values)
    return text, decimal_text(value, head.decimals)


def _condition(rng: np.random.Generator, table: Table, row: int, most: int) -> tuple[str, list[int]]:
    """A condition that `row` and at most `most` rows in all meet: its text, and these rows in the table's order."""
    category, number = _pick(rng, table.of_kind("category")), _pick(rng, table.of_kind("int", "float"))
    value = table.cells[category][row]
    numbers = {
        other: scaled(table.cells[number][other]) for other, cell in enumerate(table.cells[category]) if cell == value
    }
    group = sorted(numbers, key=numbers.__getitem__)
    place = group.index(row)
    count = int(rng.integers(1, min(most, len(group)), endpoint=True))
    first = int(rng.integers(max(0, place - count + 1), min(place, len(group) - count), endpoint=True))
    lowest, highest = numbers[group[first]], numbers[group[first + count - 1]]
    # Bounds lie anywhere up to the neighbours outside, so that they are not themselves values to look for.
    below = numbers[group[first - 1]] + 1 if first else max(0, lowest - 100)
    above = numbers[group[first + count]] if first + count < len(group) else highest + 100
    low, high = int(rng.integers(below, lowest, endpoint=True)), int(rng.integers(highest, above))
    heads = table.schema.columns
    decimals = heads[number].decimals
    text = (
        f'where the "{heads[category].header}" is "{value}" and the "{heads[number].header}" is from'
        f" {decimal_text(low, decimals)} to {decimal_text(high, decimals)}"
    )
    return text, sorted(group[first : first + count])


def _join(rng: np.random.Generator, tables: list[Table], place: _Place) -> tuple[str, str]:
    """Two steps, from a row of the other table to the row at `place`; the tables refer to each other row by row."""
    target, other = tables[place.table], tables[1 - place.table]
    if other.schema.columns[-1].kind == "reference":
        own, there, known = 0, len(other.cells) - 1, 0
    else:
        own, there, known = len(target.cells) - 1, 0, _pick(rng, other.of_kind("int", "float"))
    link = target.cells[own][place.row]
    row = other.cells[there].index(link)
    column = _other(rng, target)
    near, far = target.schema.columns, other.schema.columns
    text = (
        f'Take the "{far[there].header}" of the row of the table "{other.schema.title}" whose "{far[known].header}" is'
        f' "{other.cells[known][row]}". What is the "{near[column].header}" of the row of the table'
        f' "{target.schema.title}" whose "{near[own].header}" is that?'
    )
    return text, target.cells[column][place.row]


def _other(rng: np.random.Generator, table: Table) -> int:
    """A column that is neither the key nor a reference."""
    return _pick(rng, table.of_kind("code", "name", "int", "float", "date", "category", "words"))


def _pick(rng: np.random.Generator, columns: list[int]) -> int:
    return columns[int(rng.integers(len(columns)))]


_SINGLE: dict[Kind, Callable[[np.random.Generator, Table, int, Kind], tuple[str, str]]] = {
    "lookup": _lookup,
    "reverse": _reverse,
    "filter": _filter,
    "count": _count,
    "sum": _aggregate,
    "mean": _aggregate,
    "min": _aggregate,
    "max": _aggregate,
    "next": _next,
}
