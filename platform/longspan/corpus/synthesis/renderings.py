"""Tables as text: CSV, markdown, JSON lines, HTML. Each can be parsed back to the same cells by a plain parser.

Called by `synl`. Numbers stand unquoted in JSON and keep their digits (12.50 is not 12.5). Our design, as
all of SynL.
"""

import csv
import html
import io
import json
from collections.abc import Callable, Iterable, Sequence

from longspan.config.corpus import TableFormat
from longspan.corpus.synthesis.tables import Table

Format = TableFormat


def render(table: Table, format: Format) -> str:
    """The table with its headers, one row a line, a line end at the end; without its title."""
    return "".join(_RENDERERS[format](table))


def _csv(table: Table) -> Iterable[str]:
    sink = io.StringIO()
    writer = csv.writer(sink, lineterminator="\n")
    writer.writerow([column.header for column in table.schema.columns])
    writer.writerows(zip(*table.cells, strict=True))
    return [sink.getvalue()]


def _markdown(table: Table) -> Iterable[str]:
    def line(cells: Sequence[str]) -> str:
        return f"| {' | '.join(cell.replace(chr(92), chr(92) * 2).replace('|', chr(92) + '|') for cell in cells)} |\n"

    yield line([column.header for column in table.schema.columns])
    yield line(["---"] * len(table.cells))
    yield from (line(row) for row in zip(*table.cells, strict=True))


def _jsonl(table: Table) -> Iterable[str]:
    heads = [json.dumps(column.header, ensure_ascii=False) for column in table.schema.columns]
    columns = [
        cells if column.is_number else [json.dumps(cell, ensure_ascii=False) for cell in cells]
        for column, cells in zip(table.schema.columns, table.cells, strict=True)
    ]
    for row in zip(*columns, strict=True):
        yield "{" + ", ".join(f"{head}: {cell}" for head, cell in zip(heads, row, strict=True)) + "}\n"


def _html(table: Table) -> Iterable[str]:
    def line(cells: Iterable[str], tag: str) -> str:
        return "<tr>" + "".join(f"<{tag}>{html.escape(cell)}</{tag}>" for cell in cells) + "</tr>\n"

    yield "<table>\n"
    yield line((column.header for column in table.schema.columns), "th")
    yield from (line(row, "td") for row in zip(*table.cells, strict=True))
    yield "</table>\n"


_RENDERERS: dict[Format, Callable[[Table], Iterable[str]]] = {
    "csv": _csv,
    "markdown": _markdown,
    "jsonl": _jsonl,
    "html": _html,
}
FORMATS: tuple[Format, ...] = tuple(_RENDERERS)
