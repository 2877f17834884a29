"""The GPU benchmark must not rot on machines without one."""

from pathlib import Path

from tests.benchmarks.spine_gpu import measure


def test_the_benchmark_runs_where_there_is_no_gpu(tmp_path: Path) -> None:
    rows = measure(tmp_path, tiny=True, layers=1, lengths=[64], steps=4)
    assert rows[0]["spine"]["tokens_per_s"] > 0
    assert rows[0]["ratio"] > 0
