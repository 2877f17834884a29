"""Random tables with typed columns for SynL documents, and the split of all schemas into train and held out.

LongSkywork (arXiv 2406.00605) names Synthetic Lengthy Tables as its data for long SFT, but what its schemas, formats
and questions are was not found; everything here is OUR DESIGN. `questions` asks about the tables, `renderings` writes
them, `synl` makes documents of both. Pure: numpy only.
"""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date, timedelta
from itertools import product
from typing import Literal

import numpy as np

from longspan.config.corpus import TableSplit
from longspan.errors import DataError

Kind = Literal["code", "name", "int", "float", "date", "category", "words", "reference"]
Split = TableSplit
EVAL_SHARE = 8
"""One schema in so many is held out."""

_QUALIFIERS = ("", "first", "second", "main", "current", "former", "local", "regional", "planned", "final")
_HEADERS: dict[Kind, tuple[str, ...]] = {
    "code": ("code", "badge", "serial", "ticket", "permit", "locker", "batch", "account"),
    "name": ("owner", "manager", "author", "driver", "teacher", "contact", "inspector", "pilot"),
    "int": ("stock", "visits", "points", "seats", "steps", "votes", "calls", "credits", "pages", "balance"),
    "float": ("weight", "price", "rating", "height", "rate", "dose", "distance", "duration"),
    "date": ("delivery", "birthday", "opening", "renewal", "audit", "departure", "deadline"),
    "category": ("status", "region", "colour", "shift", "grade", "material", "branch", "season"),
    "words": ("remark", "subject", "address", "label", "product", "motto"),
}
# fmt: off
_TITLES = (
    "Members", "Orders", "Rooms", "Parcels", "Machines", "Loans", "Trips", "Courses", "Samples", "Tools", "Boats",
    "Clinics", "Farms", "Concerts", "Routes", "Archives", "Bridges", "Gardens", "Kilns", "Markets",
)
_FIRST = (
    "Ada", "Bela", "Carl", "Dina", "Emil", "Fara", "Goro", "Hana", "Ivo", "Jana", "Kofi", "Lena", "Milo", "Nora",
    "Olek", "Pia", "Quinn", "Rosa", "Sami", "Tara", "Udo", "Vera", "Wim", "Xenia", "Yara", "Zeno", "Amina", "Boris",
)
_SYLLABLES = (
    "ba", "den", "fi", "gar", "hol", "ka", "lin", "mo", "nes", "pol", "ra", "sten", "ti", "vor", "wel", "zan", "bri",
    "cor", "dal", "el", "far", "gus", "hem", "jor",
)
_WORDS = (
    "amber", "birch", "cedar", "delta", "ember", "flint", "grove", "harbour", "island", "juniper", "kestrel",
    "lantern", "meadow", "north", "orchard", "pebble", "quarry", "river", "saddle", "timber", "upland", "valley",
    "willow", "yard",
)
# fmt: on
_JOINTS = (" ", " ", " ", " ", " ", " ", ", ", " & ", " | ", ' "new" ', " <old> ", "'s ", "\\", "; ", " é ", "#")
"""What stands between free words: mostly a space, sometimes what a format must escape."""
_FIRST_DAY = date(1950, 1, 1)
_NUM_DAYS = 30_000
_CODES = 10**6
_SPARE = 8
"""Keys drawn beside those of the rows, for questions about what is not there."""


@dataclass(frozen=True)
class Column:
    """One column.

    Attributes:
        header: unique in its table.
        kind: type of its cells; a reference holds the keys of another table, each once. The cells of code, int, float
            and reference columns differ from each other.
        decimals: digits behind the point of a float column, 0 for all others.
        low, high: range of a number column in units of its last digit, high excluded.
        choices: the values of a category column; the prefix of a code column.
    """

    header: str
    kind: Kind
    decimals: int = 0
    low: int = 0
    high: int = 0
    choices: tuple[str, ...] = ()

    @property
    def is_number(self) -> bool:
        return self.kind in ("int", "float")


@dataclass(frozen=True)
class Schema:
    """A table without its rows. The first column is the key: a code, different in every row."""

    title: str
    columns: tuple[Column, ...]


@dataclass(frozen=True)
class Table:
    """A schema with cells.

    Attributes:
        schema: title and columns.
        cells: cells[column][row], as text. Numbers are plain decimals, dates are YYYY-MM-DD.
        absent: codes in the style of the key that no row has.

    Raises:
        DataError: columns of different length, or a cell that is empty, not printable on one line, or has a space at
            an end: not every format could give it back.
    """

    schema: Schema
    cells: tuple[tuple[str, ...], ...]
    absent: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if len(self.cells) != len(self.schema.columns) or len({len(cells) for cells in self.cells}) != 1:
            raise DataError(f"table {self.schema.title}: columns of {[len(cells) for cells in self.cells]} rows")
        for column, cells in zip(self.schema.columns, self.cells, strict=True):
            for row, cell in enumerate(cells):
                if not cell or not cell.isprintable() or cell != cell.strip():
                    raise DataError(f"table {self.schema.title}, column {column.header}, row {row}: bad cell {cell!r}")

    @property
    def num_rows(self) -> int:
        return len(self.cells[0])

    def of_kind(self, *kinds: Kind) -> list[int]:
        """Indices of the columns of these kinds, the key aside."""
        return [index for index, column in enumerate(self.schema.columns) if index and column.kind in kinds]


def split_of(schema: Schema) -> Split:
    """Whether the schema is for training or held out: a hash of its set of (header, kind), so never both.

    Neither the title nor the order of columns nor a reference to another table counts: a held-out schema cannot come
    back in another dress. Held-out schemas do share single columns with those of training.
    """
    columns = (column for column in schema.columns if column.kind != "reference")
    signature = "\n".join(sorted(f"{column.kind}:{column.header}" for column in columns))
    digest = hashlib.blake2b(signature.encode(), digest_size=8).digest()
    return "eval" if int.from_bytes(digest, "little") % EVAL_SHARE == 0 else "train"


def draw_schema(rng: np.random.Generator, split: Split, avoid: Sequence[str] = ()) -> Schema:
    """A random schema of `split`: a key, two or three number columns, a category column and one to four others.

    Args:
        rng: source of every random choice.
        split: the side that it must be on (see `split_of`).
        avoid: titles already taken in the document.
    """
    titles = [title for title in _TITLES if title not in avoid]
    while True:
        kinds: list[Kind] = ["int", "float", "category", *_drawn(rng, ("int", "float"), int(rng.integers(0, 2)))]
        kinds += _drawn(rng, ("code", "name", "date", "category", "words"), int(rng.integers(1, 5)))
        columns = [_column(rng, "code")]
        for index in rng.permutation(len(kinds)).tolist():
            column = _column(rng, kinds[index])
            while column.header in {other.header for other in columns}:
                column = _column(rng, kinds[index])
            columns.append(column)
        schema = Schema(_one(rng, titles), tuple(columns))
        if split_of(schema) == split:
            return schema


def draw_table(rng: np.random.Generator, schema: Schema, num_rows: int) -> Table:
    """Fills `num_rows` rows, each column independent of the others."""
    keys, *rest = [_cells(rng, column, num_rows + _SPARE * (not index)) for index, column in enumerate(schema.columns)]
    return Table(schema, (tuple(keys[:num_rows]), *map(tuple, rest)), tuple(keys[num_rows:]))


def refer(rng: np.random.Generator, table: Table, other: Table) -> Table:
    """`table` with one more column: the keys of `other`, each once, in random order (both have as many rows)."""
    header = f"{other.schema.title} {other.schema.columns[0].header}"
    schema = Schema(table.schema.title, (*table.schema.columns, Column(header, "reference")))
    keys = tuple(other.cells[0][row] for row in rng.permutation(other.num_rows))
    return Table(schema, (*table.cells, keys), table.absent)


def scaled(cell: str) -> int:
    """The number in `cell` in units of its last digit: 12.50 is 1250."""
    return int(cell.replace(".", ""))


def decimal_text(value: int, decimals: int) -> str:
    """Inverse of `scaled`, for numbers that are not negative."""
    return f"{value // 10**decimals}.{value % 10**decimals:0{decimals}d}" if decimals else str(value)


def _one(rng: np.random.Generator, values: Sequence[str]) -> str:
    return values[int(rng.integers(len(values)))]


def _drawn(rng: np.random.Generator, kinds: tuple[Kind, ...], count: int) -> list[Kind]:
    return [kinds[index] for index in rng.integers(len(kinds), size=count)]


def _column(rng: np.random.Generator, kind: Kind) -> Column:
    header = f"{_one(rng, _QUALIFIERS)} {_one(rng, _HEADERS[kind])}".strip()
    if kind == "code":
        letters = rng.integers(26, size=2)
        return Column(header, kind, choices=("".join(chr(ord("A") + letter) for letter in letters) + "-",))
    if kind == "category":
        return Column(
            header, kind, choices=tuple(_WORDS[index] for index in rng.permutation(len(_WORDS))[: rng.integers(3, 9)])
        )
    if kind == "int":
        return Column(header, kind, low=int(rng.integers(0, 1000)), high=10 ** int(rng.integers(4, 7)))
    if kind == "float":
        decimals = int(rng.integers(1, 4))
        return Column(header, kind, decimals, low=10**decimals, high=10 ** (decimals + int(rng.integers(2, 5))))
    return Column(header, kind)


def _cells(rng: np.random.Generator, column: Column, count: int) -> list[str]:
    if column.is_number:
        # A long table needs a wider range than the schema's, as its numbers all differ.
        high = max(column.high, column.low + 4 * count)
        drawn = rng.choice(high - column.low, count, replace=False) + column.low
        return [decimal_text(value, column.decimals) for value in drawn.tolist()]
    if column.kind == "code":
        digits = rng.choice(max(_CODES, 4 * count), count, replace=False).tolist()
        return [f"{column.choices[0]}{number:06d}" for number in digits]
    if column.kind == "date":
        days = rng.integers(_NUM_DAYS, size=count).tolist()
        return [(_FIRST_DAY + timedelta(days=day)).isoformat() for day in days]
    if column.kind == "category":
        return [column.choices[index] for index in rng.integers(len(column.choices), size=count)]
    if column.kind == "name":
        pairs = zip(rng.integers(len(_FIRST), size=count), rng.integers(len(_SURNAMES), size=count), strict=True)
        return [f"{_FIRST[first]} {_SURNAMES[last]}" for first, last in pairs]
    words = rng.integers(len(_WORDS), size=(count, 2)).tolist()
    joints = rng.integers(len(_JOINTS), size=count).tolist()
    return [f"{_WORDS[one]}{_JOINTS[joint]}{_WORDS[two]}" for (one, two), joint in zip(words, joints, strict=True)]


_SURNAMES = tuple("".join(parts).capitalize() for parts in product(_SYLLABLES, repeat=3))
