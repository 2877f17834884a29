"""The table of a corpus shows each source's counts."""

import io

from rich.console import Console
from tests.corpus.conftest import Prepared

from longspan.corpus.render import _median, render_manifest


def test_each_source_has_its_row(prepared: Prepared) -> None:
    shown = io.StringIO()
    Console(file=shown, width=140).print(render_manifest(prepared.manifest))
    lines = [line.split("\u2502") for line in shown.getvalue().splitlines() if "\u2502" in line]
    rows = {cells[1].strip(): [cell.strip() for cell in cells[2:-1]] for cells in lines}
    assert list(rows) == ["needles", "files", "lines"]
    assert rows["needles"] == ["12", "0", "2,400", "1", "128 to 255"]
    assert rows["files"][2] == f"{prepared.manifest.sources['files'].tokens:,}"


def test_the_median_is_in_the_bucket_shown() -> None:
    assert _median({1: 1, 1024: 3}) == "1,024 to 2,047"
    assert _median({1: 2, 1024: 2}) == "1 to 1"
    assert _median({}) == "-"
