"""Rows that cannot be documents: refused one by one, or left out and counted up to a limit.

`sources` and `chat` make a `BadRowError` of each; `documents` gives it to the unit's `Tally`, and `prepare` and
`combine` hold the counts of all units against the source's `max_bad_share`.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TypeVar

from longspan.config.corpus import FileSection
from longspan.errors import DataError

ROW = TypeVar("ROW")

SHORT, NO_ANSWER = "short", "no answer"
"""Kinds that are no mistake: fewer tokens than `min_document_tokens`, no answer that fits `max_tokens`."""
NOT_JSON, NOT_UTF8, NO_FIELD, NOT_TEXT, OVERLONG = "not JSON", "not UTF-8", "no field", "not text", "over-long"
NOT_CHAT, TEMPLATE, LOST = "no conversation", "refused by template", "lost by template"
BAD_KINDS = frozenset({NOT_JSON, NOT_UTF8, NO_FIELD, NOT_TEXT, OVERLONG, NOT_CHAT, TEMPLATE, LOST})
_NAMED = 3
_FIRST_ROWS = 1000


class BadRowError(DataError):
    """One row cannot be a document. Readers give it in the row's place, so that the rows behind it can be read.

    Attributes:
        kind: one of `BAD_KINDS`.
    """

    def __init__(self, kind: str, message: str) -> None:
        super().__init__(message)
        self.kind = kind


@dataclass
class Tally:
    """What became of the rows of one unit.

    Attributes:
        source: whose `on_bad` holds; None of made documents, which have no rows.
        rows: how many were read, bad ones included.
        left_out: rows without a document by kind.
        first: the first bad ones in words, three at most.
    """

    source: FileSection | None = None
    rows: int = 0
    left_out: dict[str, int] = field(default_factory=dict)
    first: list[str] = field(default_factory=list)

    @property
    def bad(self) -> int:
        return num_bad(self.left_out)

    def leave_out(self, kind: str) -> None:
        """Count a row that gives no document, and is not bad."""
        self.left_out[kind] = self.left_out.get(kind, 0) + 1

    def refuse(self, error: BadRowError) -> None:
        """Count a bad row. Raises DataError where the source refuses them."""
        if self.source is None or self.source.on_bad == "refuse":
            raise DataError(f"{error} (on_bad: skip leaves such rows out)") from None
        self.leave_out(error.kind)
        if len(self.first) < _NAMED:
            self.first.append(str(error))

    def good(self, rows: Iterable[ROW | BadRowError]) -> Iterator[ROW]:
        """Those of the rows that can be documents. Raises as `refuse`."""
        for row in rows:
            self.rows += 1
            if isinstance(row, BadRowError):
                self.refuse(row)
            else:
                yield row


def added(tallies: Iterable[Tally]) -> Tally:
    """All of them together, the first bad rows from the first of them on."""
    total = Tally()
    for tally in tallies:
        total.rows += tally.rows
        total.first = [*total.first, *tally.first][:_NAMED]
        for kind, count in tally.left_out.items():
            total.left_out[kind] = total.left_out.get(kind, 0) + count
    return total


def num_bad(left_out: Mapping[str, int]) -> int:
    """How many of the rows that were left out were bad."""
    return sum(count for kind, count in left_out.items() if kind in BAD_KINDS)


def describe(left_out: Mapping[str, int]) -> str:
    """For example "12 not JSON, 3 no field", the most frequent first."""
    ordered = sorted(left_out.items(), key=lambda item: (-item[1], item[0]))
    return ", ".join(f"{count:,} {kind}" for kind, count in ordered)


@dataclass
class LimitWatch:
    """Holds the bad rows of a source against its `allowed_bad_share` while its units are being done, in any order.

    That is done after each unit for the rows so far, units in order, from the thousandth row on, and at the end for
    all: so the answer is the same in whatever order units are done, and a source that is all wrong is refused long
    before its end.

    Attributes:
        source: of the units.
        units: their names, in order.
    """

    source: FileSection
    units: Sequence[str]
    _counts: dict[str, tuple[int, int]] = field(default_factory=dict)
    _done: int = 0
    _rows: int = 0
    _bad: int = 0

    def add(self, unit: str, rows: int, bad: int) -> int:
        """Take a unit's counts. Returns how many of the first units are over the limit together, 0 for none."""
        self._counts[unit] = (rows, bad)
        while self._done < len(self.units) and self.units[self._done] in self._counts:
            rows, bad = self._counts.pop(self.units[self._done])
            self._done, self._rows, self._bad = self._done + 1, self._rows + rows, self._bad + bad
            if self._rows >= _FIRST_ROWS and self._bad > self.source.allowed_bad_share * self._rows:
                return self._done
        is_over = self._done == len(self.units) and self._bad > self.source.allowed_bad_share * self._rows
        return self._done if is_over else 0


def limit_error(source: FileSection, tallies: Sequence[Tally]) -> DataError:
    """The error of a source with too many bad rows in these first units, with their kinds and the first of them."""
    tally = added(tallies)
    bad = {kind: count for kind, count in tally.left_out.items() if kind in BAD_KINDS}
    limit, mend = f"more than max_bad_share {source.max_bad_share:g}", "raise max_bad_share"
    if source.on_bad == "refuse":
        limit, mend = "and on_bad is refuse", "set on_bad: skip"
    return DataError(
        f"source {source.name}: {tally.bad:,} of the first {tally.rows:,} rows are bad ({describe(bad)}), {limit}; mend"
        f" them, or {mend}. First: {'; '.join(tally.first)}"
    )
