"""The pipelines that come with longspan are valid, say where their settings come from, and hold the papers' figures."""

from pathlib import Path

import pytest

from longspan.config.pipeline import MergeStage, Pipeline, TrainStage, load_pipeline
from longspan.config.recipe import Recipe
from longspan.recipes.plan import plan_stages
from longspan.rope import RopeSettings
from longspan.rope.resolve import resolve_rope

FILES = sorted((Path(__file__).parents[2] / "jobs" / "pipelines").glob("*.yaml"))
THETAS = {"llama3-8b-80k": 48.9e6, "llama3-8b-128k": 131.5e6, "qwen2-7b-80k": 13.5e6, "qwen2-7b-128k": 13.5e6}
"""Table 4 of LongRecipe (2409.00509)."""
WINDOWS = {"llama3-8b": (5e5, 8192), "mistral-7b": (1e6, 32768), "qwen2-7b": (1e6, 131072)}
"""rope_theta and max_position_embeddings of the models' own config.json."""


def named(name: str) -> Pipeline:
    return load_pipeline(next(path for path in FILES if path.stem == name))


def recipe(pipeline: Pipeline, name: str) -> Recipe:
    stage = next(stage for stage in pipeline.stages if stage.name == name)
    assert isinstance(stage, TrainStage)
    return stage.recipe


def tokens(recipe: Recipe) -> int:
    return recipe.num_samples * recipe.data.sample_length


def test_there_are_pipelines_each_under_the_name_of_its_file() -> None:
    assert len(FILES) >= 8
    assert [load_pipeline(path).name for path in FILES] == [path.stem for path in FILES]


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_a_pipeline_that_comes_with_longspan_can_be_planned(path: Path) -> None:
    pipeline = load_pipeline(path)
    steps = plan_stages(pipeline, {})
    assert [step.action for step in steps] == ["run"] * len(pipeline.stages)
    assert all(step.evaluate for step in steps)
    text = path.read_text(encoding="utf-8")
    assert text.startswith("# ")
    assert "Ours" in text or "our design" in text


@pytest.mark.parametrize("model", list(WINDOWS))
@pytest.mark.parametrize(("size", "target", "sample"), [("80k", 81920, 24000), ("128k", 131072, 38400)])
def test_longrecipe_has_the_figures_of_the_paper(model: str, size: str, target: int, sample: int) -> None:
    pipeline = named(f"longrecipe-{model}-{size}")
    extend, replay = recipe(pipeline, "extend"), recipe(pipeline, "replay")
    assert (extend.data.sample_length, extend.data.target_length) == (sample, target)
    assert (extend.train.global_batch_size, extend.train.steps, extend.train.learning_rate) == (96, 104, 5e-5)
    assert tokens(extend) == pytest.approx(240e6 if size == "80k" else 384e6, rel=0.01)
    assert (replay.train.global_batch_size, replay.train.learning_rate, replay.rope.type) == (96, 5e-6, "keep")
    assert tokens(replay) == pytest.approx(68e6, rel=0.01)
    theta, window = WINDOWS[model]
    found = resolve_rope(RopeSettings(rope_type="default", rope_theta=theta), extend.rope, 128, window, target)
    assert found.rope_theta == pytest.approx(THETAS.get(f"{model}-{size}", found.rope_theta), rel=0.005)
    merge = pipeline.stages[2]
    assert isinstance(merge, MergeStage)
    assert (merge.a, merge.b, merge.weight, merge.rope) == ("base", "replay", 0.5, "b")


def test_prolong_has_the_figures_of_the_paper() -> None:
    pipeline = named("prolong-llama3-8b-512k")
    first, second, tune = (recipe(pipeline, name) for name in ("long-64k", "long-512k", "tune"))
    assert [stage.rope.theta for stage in (first, second)] == [8e6, 1.28e8]
    assert [tokens(stage) for stage in (first, second)] == pytest.approx([20e9, 20e9], rel=0.05)
    assert tokens(tune) == pytest.approx(1e9, rel=0.05)
    assert [stage.train.warmup_steps / stage.train.steps for stage in (first, second)] == [0.1, 0.1]
    assert tune.train.learning_rate == 2e-5
    assert tune.rope.type == "keep"
    assert second.data.mix[0].short == first.data.mix[0].short


def test_longskywork_has_what_is_known_of_it() -> None:
    pipeline = named("longskywork-qwen2-7b-128k")
    assert [stage.name for stage in pipeline.stages] == ["long-pretrain", "tune", "long-tune"]
    long = recipe(pipeline, "long-pretrain")
    assert tokens(long) == pytest.approx(20e9, rel=0.01)
    assert not long.data.document_mask
    assert recipe(pipeline, "long-tune").train.steps == 200
