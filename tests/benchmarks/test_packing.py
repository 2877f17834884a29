"""The packing benchmark: its figures are there and mean what they say."""

from dataclasses import replace
from pathlib import Path

import numpy as np

from longspan.sampling.plan import plan_parts
from longspan.sampling.table import CorpusTable
from tests.benchmarks.packing import cut_share, reads, run, settings_of


def test_every_mix_is_packed_both_ways(tmp_path: Path) -> None:
    packed, shuffled = run(tiny=True, output=tmp_path)
    padding = {(row["mix"], row["packing"]): row["padding_percent"] for row in packed}
    cut = {(row["mix"], row["packing"]): row["cut_percent"] for row in packed}
    for mix in ("web", "long", "mixed"):
        assert padding[mix, "sequential"] == 0
        assert padding[mix, "best_fit"] < 5
        assert cut[mix, "best_fit"] == 0
        assert cut[mix, "sequential"] > 0
    in_order = [row for row in shuffled if row["shuffle_tokens"] == 0]
    assert all(row["neighbours_percent"] > 90 for row in in_order)
    assert (tmp_path / "packing.json").exists()
    assert (tmp_path / "shuffle.json").exists()


def test_reads_and_cuts_of_a_plan_counted_by_hand() -> None:
    """Documents of 6 tokens in samples of 8, end to end, in chunks of 12: every other document is cut."""
    lengths = np.full(8, 6)
    table = CorpusTable.from_lengths(np.zeros(8, np.int16), lengths, ["one"], chunk_tokens=12)
    settings = replace(settings_of(table, 8, "sequential", 0), steps=1, global_batch_size=6)
    parts = list(plan_parts(table, settings))
    assert cut_share(table, parts, 8) == 4 / 8
    assert reads(table, parts) == (8 / 6, 1.0, 4 / 6)
