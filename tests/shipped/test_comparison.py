"""The comparison that comes with longspan, shortened, from another directory: corpus, base and analysis are made, and
every method is checked and staged, as `longspan compare` does before the first of them trains.
"""

from pathlib import Path
from typing import Any

import pytest

from longspan.compare.plan import make_runs
from longspan.compare.run import _base_config, _stage_all, analyse, prepare_material
from longspan.config.compare import load_comparison
from longspan.config.load import read_yaml
from longspan.launch.stage import RECIPE_FILE
from tests.shipped.conftest import JOBS

TINY = JOBS / "compare" / "tiny.yaml"


def test_every_method_of_the_comparison_can_be_staged(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    written: dict[str, Any] = read_yaml(TINY)
    changes: dict[str, Any] = {"seeds": [0], "budget.flops": 6e9, "recipe.train.warmup_steps": 0}
    changes |= {"base.recipe.data.mix": "[{weights: {tasks-128: 1}}]", "base.recipe.train.warmup_steps": 0}
    changes |= {"base.recipe.train.steps": 1, "corpus.sources.0.paths": '["{stdlib}/asyncio"]'}
    changes |= {
        f"corpus.sources.{number}.documents": 60
        for number, source in enumerate(written["corpus"]["sources"])
        if source.get("type") == "needles"
    }
    for number, method in enumerate(written["methods"]):
        if "budget" in method:
            changes[f"methods.{number}.budget"] = "{steps: 1}"
    overrides = [f"{key}={value}" for key, value in changes.items()]
    short = load_comparison(TINY, [*overrides, "output=compared"])
    said: list[str] = []
    prepare_material(short, said.append)
    runs = make_runs(short, _base_config(short))
    analyse(short, said.append)
    _stage_all(runs)
    assert {run.method for run in runs} == {method["name"] for method in written["methods"]}
    staged = {path.parts[-3] for path in Path("compared/runs").glob(f"*/*/{RECIPE_FILE}")}
    assert staged == {run.method for run in runs if run.seed is not None and run.start is None}
    assert len(staged) > 10
