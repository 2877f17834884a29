"""The results of an evaluation as a table in the terminal: models by context lengths, with what each one cost.

`evaluate/`, `compare/` and the demo print it at their end; the report shows the same rows in HTML.
"""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from longspan.errors import DataError
from longspan.observe.formatting import MISSING, compact, duration, percent, token_length
from longspan.observe.results import all_lengths, model_rows

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table


def results_table(summary: Mapping[str, Any]) -> "Table":
    """A rich table of summary["models"]; lengths beyond summary["window"] have a bold head.

    Raises:
        DataError: the summary has no models, or they are not laid out as `results.model_rows` reads them.
    """
    from rich.table import Table
    from rich.text import Text

    models, window = summary.get("models"), summary.get("window")
    if not isinstance(models, Mapping) or not models:
        raise DataError("summary: no models to show; expected models: {name: {needle_accuracy: {length: accuracy}}}")
    rows = model_rows(models)
    lengths = all_lengths(rows)
    # Text objects, not strings: rich would read brackets in a model's name as markup.
    beyond = f"; bold: beyond the training window of {window:,} tokens" if isinstance(window, int) else ""
    table = Table(title="Needle retrieval by context length", caption=Text(f"percent retrieved{beyond}"))
    table.add_column("model", no_wrap=True)
    for length in lengths:
        outside = isinstance(window, int) and length > window
        table.add_column(Text(token_length(length), style="bold" if outside else "not bold"), justify="right")
    table.add_column("tokens", justify="right")
    table.add_column("time", justify="right")
    with_notes = any(row.note for row in rows)
    if with_notes:
        table.add_column("note", overflow="fold")
    for row in rows:
        cells = [Text(row.name)]
        cells += [_accuracy_cell(row.accuracy.get(length)) for length in lengths]
        cells += [Text(compact(row.num_tokens)), Text(duration(row.seconds))]
        table.add_row(*cells, *([Text(row.note)] if with_notes else []))
    return table


def print_results(summary: Mapping[str, Any], console: "Console | None" = None) -> None:
    """Print `results_table(summary)` to `console` (standard output by default)."""
    from rich.console import Console

    (console or Console()).print(results_table(summary))


def _accuracy_cell(accuracy: float | None) -> Any:
    from rich.text import Text

    if accuracy is None:
        return Text(MISSING, style="dim")
    style = "green" if accuracy >= 0.9 else "yellow" if accuracy >= 0.5 else "red"
    return Text(percent(accuracy).removesuffix("%"), style=style)
