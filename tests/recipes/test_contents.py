"""What lies at a pipeline's places is told by content: another model or corpus under the same path is noticed, by
name.
"""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from longspan import storage
from longspan.config.pipeline import Pipeline
from longspan.config.recipe import Recipe
from longspan.errors import ConfigError
from longspan.recipes.actions import Actions
from longspan.recipes.run import run_pipeline
from tests.launch.conftest import prepare_corpus
from tests.recipes.conftest import MakePipeline
from tests.tiny import tiny_model_directory


@pytest.fixture
def copied(room: Path, tmp_path: Path) -> Path:
    for name in ("data", "model"):
        shutil.copytree(room / name, tmp_path / name)
    shutil.copytree(room / "data", tmp_path / "asked")
    return tmp_path


@pytest.fixture
def line(make: MakePipeline, copied: Path) -> Pipeline:
    evaluate = {"manifest": str(copied / "asked"), "text_source": "held", "lengths": [32]}
    places = [f"stages.{number}.data.manifest={copied / 'data'}" for number in (0, 1)]
    return make(*places, base=str(copied / "model"), evaluate=evaluate)


def counted(calls: list[str]) -> Actions:
    """Actions that leave what the records need, and write down what was wanted."""

    def train(recipe: Recipe) -> dict[str, Any]:
        calls.append(recipe.name)
        storage.write_text(storage.join(recipe.run_uri, "checkpoint", "config.json"), "{}")
        storage.write_text(storage.join(recipe.run_uri, "report.html"), "")
        return {"finished": True, "steps": recipe.train.steps, "checkpoint": f"{recipe.run_uri}/checkpoint"}

    def merge(stage: Any, a: str, b: str, output: str) -> dict[str, Any]:
        calls.append(stage.name)
        storage.write_text(storage.join(output, "config.json"), "{}")
        return {"weight": 0.5, "rope": "b", "output": output}

    def evaluate(model: str, asked: Any) -> dict[str, Any]:
        calls.append("ask")
        grid = {"task": "recall", "lengths": [32], "depths": [0.5], "accuracy": [[1.0]], "mean": [1.0], "stderr": [0.0]}
        curve = {"positions": [4.0], "edges": [1, 16], "loss": [1.0], "stderr": [0.1], "counts": [9], "mean": 1.0}
        return {"needle": grid, "loss_by_position": curve}

    return Actions(train, merge, evaluate)


def other_base(folder: Path) -> None:
    tiny_model_directory(folder / "model", vocab_size=320, seed=7)


def other_theta(folder: Path) -> None:
    path = folder / "model" / "config.json"
    values = json.loads(path.read_text())
    values["rope_parameters"]["rope_theta"] = 9000.0
    path.write_text(json.dumps(values))


def other_corpus(folder: Path) -> None:
    shutil.rmtree(folder / "data")
    prepare_corpus(folder, folder / "data", seed=3)


BEGAN = "what it began with has changed"
REPLACED = {
    "weights": (
        other_base,
        f"'extend' .*{BEGAN} .model.path: model.safetensors: other weights.; remove 01-extend, 02-",
    ),
    "theta": (other_theta, f"{BEGAN} .model.path: config.json: rope_parameters.rope_theta was 500.0, is 9000.0.; rem"),
    "corpus": (other_corpus, f"'extend' .*{BEGAN} .data.manifest: another corpus lies there now.; remove 01-extend"),
}


@pytest.mark.parametrize("name", REPLACED)
def test_what_was_replaced_in_place_is_refused_by_name(line: Pipeline, copied: Path, name: str) -> None:
    replace, message = REPLACED[name]
    run_pipeline(line, actions=counted([]))
    replace(copied)
    calls: list[str] = []
    with pytest.raises(ConfigError, match=message):
        run_pipeline(line, actions=counted(calls))
    assert calls == []


def test_another_evaluation_corpus_is_asked_anew(line: Pipeline, copied: Path) -> None:
    calls: list[str] = []
    run_pipeline(line, actions=counted(calls))
    assert calls.count("ask") == 4
    run_pipeline(line, actions=counted(calls))
    assert calls.count("ask") == 4
    shutil.rmtree(copied / "asked")
    prepare_corpus(copied, copied / "asked", seed=3)
    calls.clear()
    run_pipeline(line, actions=counted(calls))
    assert calls == ["ask"] * 4


def test_what_is_gone_is_no_difference(line: Pipeline, copied: Path) -> None:
    """A finished stage needs neither its corpus nor its base any more."""
    run_pipeline(line, actions=counted([]))
    shutil.rmtree(copied / "data")
    calls: list[str] = []
    run_pipeline(line, actions=counted(calls))
    assert calls == []
