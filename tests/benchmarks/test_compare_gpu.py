"""The comparison for a GPU must not rot on machines without one."""

from pathlib import Path

from longspan.compare.plan import make_runs
from longspan.compare.run import run_comparison
from longspan.planner.costs import count_parameters, model_sizes
from tests.benchmarks.compare_gpu import CLAIMS, LARGE, TASKS, TINY, model_config, settings


def test_the_comparison_runs_where_there_is_no_gpu(tmp_path: Path) -> None:
    summary = run_comparison(settings(tmp_path, TINY, [0], ["yarn", "merged"]))
    assert list(summary["methods"]) == ["yarn", "longrecipe", "replay", "merged", "full-length"]
    assert summary["methods"]["full-length"]["steps"] == TINY.steps
    assert summary["tasks"] == list(TASKS)
    assert len(summary["claims"]) == 5


def test_the_large_setting_is_whole_and_of_the_size_it_says(tmp_path: Path) -> None:
    comparison = settings(tmp_path, LARGE, [0, 1, 2])
    assert len(comparison.methods) == 20
    assert len(comparison.claims) == len(CLAIMS)
    assert comparison.evaluate.lengths == [512, 1024, 2048, 4096, 8192]
    config = {**model_config(LARGE), "vocab_size": LARGE.vocab_size + 560}
    runs = make_runs(comparison, config)
    trained = [run for run in runs if run.seed is not None and run.start is None and run.method != "full-length"]
    assert all(abs(run.flops / trained[0].flops - 1) < 0.02 for run in trained)
    sizes = model_sizes(config)
    assert 25e6 < count_parameters(sizes) < 35e6
