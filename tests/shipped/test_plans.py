"""Every recipe and every stage that comes with longspan can be planned, from any directory, with stand-ins by override
for the models and corpora that it names.
"""

from pathlib import Path
from typing import Any

import pytest

from longspan.config.load import apply_overrides, parse
from longspan.config.pipeline import load_pipeline
from longspan.config.recipe import Recipe
from longspan.launch.preview import preview
from tests.shipped.conftest import PIPELINES, shape_of, stages

STAGES = dict(stages())


def base_of(name: str) -> str:
    """The model that a recipe, or the pipeline of a stage, begins with."""
    file, _, stage = name.partition("/")
    if not stage:
        return STAGES[name].model.path
    return next(load_pipeline(path).base for path in PIPELINES if path.stem == file)


@pytest.mark.parametrize("name", list(STAGES))
def test_it_can_be_planned(stand_ins: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    recipe = STAGES[name]
    monkeypatch.chdir(stand_ins)
    changes: dict[str, Any] = {"model.path": shape_of(base_of(name)), "model.revision": "null"}
    changes |= {"data.manifest": "corpus", "output": str(tmp_path), "data.repetition": "{}"}
    changes |= {"train.steps": recipe.data.mix[-1].from_step + 2, "train.warmup_steps": 1}
    groups = recipe.parallel.num_workers // recipe.parallel.sequence_parallel
    changes |= {"train.global_batch_size": groups * recipe.train.micro_batch_size}
    if recipe.data.selection is not None and recipe.data.selection.scores:
        changes["data.selection.scores"] = "scores"
    overrides = [f"{key}={value}" for key, value in changes.items()]
    short = parse(Recipe, apply_overrides(recipe.model_dump(mode="json"), overrides), name)
    assert preview(short)
    for file in ("plan.json", "plots"):
        assert (tmp_path / file).exists()
