"""An evaluation as a task of the cluster answers what it answers in this process, and fails with the same one line."""

from pathlib import Path
from typing import Any

import pytest

from longspan.config.recipe import Recipe
from longspan.errors import ConfigError
from longspan.launch.run import evaluate_checkpoint
from longspan.recipes.actions import real_actions
from tests.tiny import tiny_recipe

pytestmark = pytest.mark.ray


def recipe_for(base: Path | str, launch: str, **evaluate: Any) -> Recipe:
    asked = {"lengths": [128, 256], "needles": 1, "examples": 2, "text_source": "other", "scale_window": 64}
    return tiny_recipe(
        f"{base}/model", f"{base}/data", evaluate={**asked, **evaluate}, parallel={"launch": launch, "num_workers": 1}
    )


def answers(found: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in found.items() if key not in ("seconds", "model")}


def test_a_task_of_the_cluster_gives_the_answers_of_this_process(
    ray_cluster: None, material: Path, s3_material: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A stage's model on this machine with a corpus given by a relative path, and a run's in an object store."""
    here = evaluate_checkpoint(str(material / "model"), recipe_for(material, "local"))
    monkeypatch.chdir(material)
    stage = real_actions().evaluate(str(material / "model"), recipe_for(".", "ray"))
    stored = evaluate_checkpoint(f"{s3_material}/model", recipe_for(s3_material, "ray"))
    assert answers(stage) == answers(stored) == answers(here)
    assert here["scales"] == {"128": 2, "256": 4}
    assert here["loss_by_position"]["windows"] > 1


def test_a_mistake_found_in_the_task_is_one_line(ray_cluster: None, material: Path) -> None:
    for launch in ("local", "ray"):
        with pytest.raises(ConfigError) as raised:
            evaluate_checkpoint(str(material / "model"), recipe_for(material, launch, text_source="none"))
        assert str(raised.value).startswith(
            "evaluate.text_source: 'none' is no source of the corpus; it has text, other"
        )
        assert "\n" not in str(raised.value)
