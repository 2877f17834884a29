"""A result of a comparison holds for the model and corpus that it was made with, not for their paths."""

import shutil
from pathlib import Path
from typing import Any

import pytest

from longspan import storage
from longspan.compare.plan import Run
from longspan.compare.work import RESULT_FILE, contents_of, finished
from longspan.evaluate.run import EvaluationSettings
from tests.launch.conftest import prepare_corpus
from tests.tiny import tiny_model_directory, tiny_recipe


@pytest.fixture
def run(tmp_path: Path) -> Run:
    prepare_corpus(tmp_path, tmp_path / "data")
    model = tiny_model_directory(tmp_path / "model", vocab_size=320)
    recipe = tiny_recipe(model, tmp_path / "data", output=str(tmp_path / "run"))
    run = Run("yarn", 0, recipe, 1.0, EvaluationSettings((32,), "held"))
    measured: dict[str, Any] = {"steps": 4, "tokens": 128, "flops": 1.0, "seconds": 1.0, "evaluation": {}}
    record = {"mark": run.mark(), "label": run.label, "measured": measured, "contents": contents_of(run)}
    storage.write_json(storage.join(recipe.run_uri, RESULT_FILE), record)
    return run


def test_a_result_of_another_base_or_corpus_is_none(run: Run, tmp_path: Path) -> None:
    assert finished(run) is not None
    shutil.copytree(tmp_path / "model", tmp_path / "kept")
    tiny_model_directory(tmp_path / "model", vocab_size=320, seed=5)
    assert finished(run) is None
    shutil.rmtree(tmp_path / "model")
    assert finished(run) is not None, "what is gone is no difference"
    (tmp_path / "kept").rename(tmp_path / "model")
    assert finished(run) is not None
    shutil.rmtree(tmp_path / "data")
    prepare_corpus(tmp_path, tmp_path / "data", seed=2)
    assert finished(run) is None


def test_what_goes_on_from_another_run_is_told_by_that_run(run: Run) -> None:
    after = Run("replay", 0, run.recipe, 1.0, run.settings, run)
    assert set(contents_of(after)) == {"data.manifest", "data.scores"}
    assert set(contents_of(run)) == {"model.path", "data.manifest", "data.scores"}
