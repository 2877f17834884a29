"""The table of a corpus shows each source's counts."""

import io

from rich.console import Console

from longspan.corpus.render import render_manifest
from tests.corpus.conftest import Prepared


def test_each_source_has_its_row(prepared: Prepared) -> None:
    shown = io.StringIO()
    Console(file=shown, width=140).print(render_manifest(prepared.manifest))
    lines = [line.split("\u2502") for line in shown.getvalue().splitlines() if "\u2502" in line]
    rows = {cells[1].strip(): [cell.strip() for cell in cells[2:-1]] for cells in lines}
    assert list(rows) == ["needles", "files", "lines"]
    assert rows["needles"] == ["12", "2,400", "200", "128 to 255"]
    assert rows["files"][1] == f"{prepared.manifest.sources['files'].tokens:,}"
