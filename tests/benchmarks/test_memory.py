"""The memory benchmark: its workers run, each in a process of its own, and say what they took."""

from pathlib import Path

from tests.benchmarks.memory import run


def test_planning_and_a_feed_worker_are_measured(tmp_path: Path) -> None:
    rows = run(tiny=True, output=tmp_path)
    assert [(row["what"], row["times"]) for row in rows] == [
        ("planning", 1),
        ("planning", 2),
        ("feed worker", 1),
    ]
    assert all(0 < row["peak_anon_mib"] <= row["peak_mib"] for row in rows)
    assert (tmp_path / "memory.json").exists()
