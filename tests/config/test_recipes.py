"""The recipes and sweeps that come with longspan are valid, each under its own name."""

from pathlib import Path

import pytest

from longspan.config.load import load_recipe, read_yaml

ROOT = Path(__file__).parents[2]
RECIPES = sorted((ROOT / "jobs" / "recipes").glob("*.yaml"))


def test_there_are_recipes() -> None:
    assert len(RECIPES) >= 4
    assert len({load_recipe(path).name for path in RECIPES}) == len(RECIPES)


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.stem)
def test_a_recipe_that_comes_with_longspan_loads(path: Path) -> None:
    recipe = load_recipe(path)
    assert recipe.num_samples > 0
    assert path.read_text(encoding="utf-8").startswith("# ")


def test_the_sweep_changes_fields_that_recipes_have() -> None:
    sweep = read_yaml(ROOT / "sweeps" / "demo.yaml")
    overrides = [f"{key}={value}" for key, value in sweep["set"].items()]
    for key, choice in sweep["space"].items():
        for value in choice["values"]:
            load_recipe(ROOT / "jobs" / "recipes" / "tiny.yaml", [*overrides, f"{key}={value}"])
