"""A pipeline's file becomes complete recipes; every mistake is one line that names the dotted field of the file."""

import copy
import json
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from longspan.config.load import load_recipe
from longspan.config.pipeline import (
    SECTIONS,
    MergeStage,
    Pipeline,
    TrainStage,
    load_pipeline,
    overlay,
    show_pipeline,
)
from longspan.config.recipe import Recipe
from longspan.errors import ConfigError

RECIPE = {
    "name": "shared",
    "output": "runs/shared",
    "seed": 7,
    "model": {"path": "somewhere/else", "revision": "abc", "dtype": "float32"},
    "rope": {"type": "yarn", "factor": 4.0, "beta_fast": 16.0},
    "data": {"manifest": "corpus", "sample_length": 64, "target_length": 256, "mix": [{"weights": {"text": 1.0}}]},
    "train": {"steps": 10, "global_batch_size": 4, "learning_rate": 1e-3},
    "evaluate": {"lengths": [64]},
}
PIPELINE: dict[str, Any] = {
    "name": "line",
    "base": "org/model",
    "revision": "main",
    "seed": 3,
    "common": {"train": {"global_batch_size": 8}, "parallel": {"prefetch_batches": 2}},
    "evaluate": {"manifest": "corpus", "text_source": "held-out", "lengths": [64, 128]},
    "stages": [
        {"type": "train", "name": "extend", "extends": "recipe.yaml", "rope": {"type": "ntk"}, "train": {"steps": 5}},
        {
            "type": "train",
            "name": "replay",
            "data": {**RECIPE["data"], "sample_length": 32},  # type: ignore[dict-item]
            "positions": {"type": "contiguous"},
            "train": {"steps": 3},
            "evaluate": False,
        },
        {"type": "merge", "name": "blend", "weight": 0.25, "rope": "b"},
    ],
}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "recipe.yaml").write_text(json.dumps(RECIPE))
    return tmp_path


def written(folder: Path, values: dict[str, Any]) -> Path:
    path = folder / "line.yaml"
    path.write_text(json.dumps(values))
    return path


def changed(path: str, value: Any) -> dict[str, Any]:
    """PIPELINE with the value at a dotted path set."""
    values = copy.deepcopy(PIPELINE)
    target: Any = values
    *parts, last = path.split(".")
    for part in parts:
        target = target[int(part)] if isinstance(target, list) else target.setdefault(part, {})
    target[int(last) if isinstance(target, list) else last] = value
    return values


def stage(pipeline: Pipeline, number: int) -> TrainStage:
    found = pipeline.stages[number]
    assert isinstance(found, TrainStage)
    return found


def test_the_sections_of_a_stage_are_those_of_a_recipe() -> None:
    """A new section of recipes must be one of stages too."""
    assert set(SECTIONS) == set(Recipe.model_fields) - {"name", "seed", "output", "evaluate"}


def test_a_stage_is_the_file_it_extends_then_what_is_common_then_its_own(folder: Path) -> None:
    pipeline = load_pipeline(written(folder, PIPELINE))
    extend, replay = stage(pipeline, 0), stage(pipeline, 1)
    assert (extend.name, extend.folder, extend.recipe.name) == ("extend", "01-extend", "line-extend")
    assert extend.recipe.output == "runs/line/01-extend" == pipeline.folder(extend)
    assert (extend.recipe.train.steps, extend.recipe.train.global_batch_size) == (5, 8)
    assert extend.recipe.train.learning_rate == 1e-3
    assert extend.recipe.parallel.prefetch_batches == replay.recipe.parallel.prefetch_batches == 2
    assert (extend.recipe.rope.type, extend.recipe.rope.factor) == ("ntk", None), "another type replaces the section"
    assert extend.recipe.evaluate.lengths == []
    assert extend.recipe.seed == 7
    assert (extend.evaluate, replay.evaluate) == (True, False)


def test_a_stage_begins_with_the_stage_before(folder: Path) -> None:
    pipeline = load_pipeline(written(folder, PIPELINE), ["output=s3://bucket/out/"])
    extend, replay = stage(pipeline, 0), stage(pipeline, 1)
    assert (extend.start, extend.recipe.model.path, extend.recipe.model.revision) == ("base", "org/model", "main")
    assert extend.recipe.model.dtype == "float32"
    assert (replay.start, replay.recipe.model.revision) == ("extend", None)
    assert replay.recipe.model.path == "s3://bucket/out/01-extend/checkpoint"
    assert pipeline.stages[2] == MergeStage("blend", "03-blend", "base", "replay", 0.25, "b", None, True)


def test_stages_without_a_seed_of_their_own_draw_apart(folder: Path) -> None:
    """With one seed, the second stage over a corpus would read what the first has read, in the same order."""
    first, second = ({**PIPELINE["stages"][1], "name": name} for name in ("first", "second"))

    def seeds(*stages: Any, seed: int = 3) -> list[int]:
        pipeline = load_pipeline(written(folder, {**PIPELINE, "seed": seed, "stages": list(stages)}))
        return [stage(pipeline, number).recipe.seed for number in range(len(stages))]

    alone, later = seeds(first, second)
    assert alone == 3
    assert later not in (alone, *seeds(first, second, seed=4))
    between = {**first, "name": "between"}
    assert seeds(first, between, second)[2] == later, "another stage before it changes nothing"
    assert seeds(first, {**second, "seed": 5}) == [3, 5]


def test_a_stage_may_begin_elsewhere(folder: Path) -> None:
    pipeline = load_pipeline(written(folder, changed("stages.1.start", "base")))
    assert stage(pipeline, 1).recipe.model.path == "org/model"
    pipeline = load_pipeline(written(folder, changed("stages.1.model", {"path": "other/model", "revision": "v2"})))
    replay = stage(pipeline, 1)
    assert (replay.start, replay.recipe.model.path, replay.recipe.model.revision) == (None, "other/model", "v2")


def test_the_first_stage_of_e2llm_says_from_which_window_all_models_count_the_scale(folder: Path) -> None:
    """Once for all, so that they can be compared; written out, since it is part of what was asked."""
    assert PIPELINE["evaluate"].get("scale_window") is None
    plain = load_pipeline(written(folder, PIPELINE)).evaluate
    assert plain is not None
    assert plain.scale_window == 0
    values = changed("stages.1.positions", {"type": "e2llm", "window": 64})
    values["stages"][1]["rope"] = {"type": "e2llm"}
    for window, expected in ((None, 64), (0, 0), (128, 128)):
        values["evaluate"]["scale_window"] = window
        evaluate = load_pipeline(written(folder, values)).evaluate
        assert evaluate is not None
        assert evaluate.scale_window == expected


def test_overrides_reach_every_part(folder: Path) -> None:
    path = written(folder, PIPELINE)
    pipeline = load_pipeline(path, ["stages.1.train.steps=4", "common.train.micro_batch_size=2", "base=other"])
    assert [stage(pipeline, number).recipe.train.steps for number in (0, 1)] == [5, 4]
    assert [stage(pipeline, number).recipe.train.micro_batch_size for number in (0, 1)] == [2, 2]
    assert pipeline.base == "other"


def test_what_is_shown_is_complete_and_gives_the_same_pipeline(folder: Path) -> None:
    pipeline = load_pipeline(written(folder, PIPELINE))
    shown = show_pipeline(pipeline)
    values = yaml.safe_load(shown)
    assert values["stages"][0]["train"]["beta2"] == 0.95
    assert values["stages"][2] == {
        "type": "merge",
        "name": "blend",
        "a": "base",
        "b": "replay",
        "weight": 0.25,
        "rope": "b",
        "vocabulary": None,
        "dtype": None,
        "evaluate": True,
    }
    assert load_pipeline(written(folder, values)) == pipeline
    elsewhere = load_pipeline(written(folder, changed("stages.1.model", {"path": "other/model", "revision": "v2"})))
    assert load_pipeline(written(folder, yaml.safe_load(show_pipeline(elsewhere)))) == elsewhere


@pytest.mark.parametrize(
    ("path", "value", "message"),
    [
        ("stages.1.train.steps", "many", "stages.1.train.steps: input should be a valid integer"),
        ("stages.1.train.stepz", 3, "stages.1.train.stepz: unknown key; did you mean 'steps'?"),
        ("stages.1.data.mix", [], "stages.1.data: 'mix' phases need from_step"),
        ("stages.1.data", {"sample_length": 3}, "stages.1.data.manifest: required, but not given"),
        ("stages.0.stepz", 3, "stages.0.stepz: unknown key"),
        ("stages.0.evaluate", {"lengths": [3]}, "stages.0.evaluate: input should be a valid boolean"),
        ("stages.0.type", "sft", "stages.0.type: input should be one of 'train', 'merge', not 'sft'"),
        ("stages.0.extends", "no.yaml", "stages.0.extends: "),
        ("stages.0.start", "replay", "stages.0.start: 'replay' is no earlier stage; earlier are base"),
        ("stages.2.b", "blend", "stages.2.b: 'blend' is no earlier stage; earlier are base, extend, replay"),
        ("stages.2.b", "base", "stages.2: a and b are both 'base'"),
        ("stages.2.weight", 2, "stages.2.weight: input should be less than or equal to 1"),
        ("stages.1.name", "extend", "stages.1.name: 'extend' is taken"),
        ("stages.1.name", "base", "stages.1.name: 'base' is taken"),
        ("stages.1.name", "a/b", "stages.1.name: string should match"),
        ("stages.1.model", {"revision": "x"}, "stages.1.model.revision: belongs to a model.path"),
        ("common.model", {"path": "x"}, "common.model.path: the pipeline's base and the stages before say it"),
        ("common.train.global_batch_size", 0, "common.train.global_batch_size: input should be greater than 0"),
        ("common.tracker", {}, "common.tracker: unknown key; did you mean 'tracking'?"),
        ("common.parallel", {"num_workers": 2}, "common.parallel: 'launch' local is one process"),
        ("evaluate.lengths", [], "evaluate: 'lengths' is needed"),
        ("evaluate.text_source", None, "evaluate: 'text_source' is needed"),
        ("stages", [{"type": "merge", "name": "m", "b": "base"}], "stages.0: a and b are both 'base'"),
        ("stages", [], "stages: list should have at least 1 item"),
        ("bases", "x", "bases: unknown key; did you mean 'base'?"),
    ],
)
def test_a_mistake_is_one_line_with_the_field(folder: Path, path: str, value: Any, message: str) -> None:
    file = written(folder, changed(path, value))
    with pytest.raises(ConfigError) as raised:
        load_pipeline(file)
    assert str(raised.value).startswith(f"{file}: {message}")
    assert "\n" not in str(raised.value)


def test_a_mistake_in_the_extended_recipe_names_that_file(folder: Path) -> None:
    (folder / "recipe.yaml").write_text(json.dumps({**RECIPE, "data": {**RECIPE["data"], "sample_length": 1}}))  # type: ignore[dict-item]
    with pytest.raises(ConfigError, match=r"stages\.0\.extends \(recipe\.yaml\): data\.sample_length: input should"):
        load_pipeline(written(folder, PIPELINE))


def test_two_places_to_begin_are_refused(folder: Path) -> None:
    values = changed("stages.1.model", {"path": "x"})
    values["stages"][1]["start"] = "base"
    with pytest.raises(ConfigError, match=r"stages\.1\.start: model\.path says already"):
        load_pipeline(written(folder, values))


VALUES = st.recursive(
    st.integers() | st.text("ab", max_size=2) | st.none(),
    lambda inner: st.dictionaries(st.sampled_from("abc"), inner, max_size=3) | st.lists(inner, max_size=2),
    max_leaves=6,
)


@given(st.dictionaries(st.sampled_from("abc"), VALUES), st.dictionaries(st.sampled_from("abc"), VALUES))
def test_overlaying_keeps_what_is_not_given(under: dict[str, Any], over: dict[str, Any]) -> None:
    before = copy.deepcopy((under, over))
    result = overlay(under, over)
    assert set(result) == set(under) | set(over)
    assert overlay(result, over) == result
    assert all(result[key] == under[key] for key in set(under) - set(over))
    assert overlay(under, {}) == under
    assert overlay({}, over) == over
    assert (under, over) == before


def test_the_recipes_of_the_repository_may_be_extended(folder: Path) -> None:
    """By their path from the pipeline's file."""
    path = Path(__file__).parents[2] / "jobs" / "recipes" / "tiny.yaml"
    values = changed("stages.0.extends", str(path))
    values["stages"] = [{"type": "train", "name": "extend", "extends": str(path)}]
    values["common"] = {}
    recipe = stage(load_pipeline(written(folder, values)), 0).recipe
    assert recipe.rope == load_recipe(path).rope
    assert recipe.parallel == load_recipe(path).parallel
