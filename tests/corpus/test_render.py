"""The table of a corpus shows each source's counts, and those of all."""

import io

from rich.console import Console

from longspan.corpus.render import render_manifest
from tests.corpus.conftest import Prepared


def test_each_source_has_its_row(prepared: Prepared) -> None:
    shown = io.StringIO()
    Console(file=shown, width=80).print(render_manifest(prepared.manifest))
    lines = [line.split("\u2502") for line in shown.getvalue().splitlines() if "\u2502" in line]
    rows = {cells[1].strip(): [cell.strip() for cell in cells[2:-1]] for cells in lines}
    assert list(rows) == ["needles", "files", "lines", "all"]
    shards = [shard.source for shard in prepared.manifest.shards]
    assert rows["needles"] == ["12", "2,400", "0", "200", "128+", "128+", "128+", str(shards.count("needles"))]
    assert rows["files"][1] == f"{prepared.manifest.sources['files'].tokens:,}"
    length = {name: source.length_histogram for name, source in prepared.manifest.sources.items()}
    # The middle two of eight documents have 61 and 76 sentences: more than 512 and fewer than 1,024 tokens.
    assert rows["files"][4:7] == ["512+", "1k+", f"{max(length['files']) // 1024}k+"]
    assert rows["all"][0] == "40"
    assert rows["all"][7] == str(len(shards))
