"""The runs of a comparison: equal budgets whatever a step costs, and recipes that a user can follow."""

import json
import sysconfig
from pathlib import Path
from typing import Any

import pytest

from longspan.compare.plan import Run, base_recipe, make_runs, manifest_uri, steps_for
from longspan.config.compare import Budget, load_comparison
from longspan.config.corpus import Corpus, NeedleSource
from longspan.config.load import parse
from longspan.errors import ConfigError
from longspan.planner.costs import flops_per_token, model_sizes
from tests.compare.material import CONFIG, comparison, values

TINY = Path(__file__).parents[2] / "jobs" / "compare" / "tiny.yaml"


def budget(**amount: Any) -> Budget:
    return parse(Budget, amount, "budget")


def by_label(**changes: Any) -> dict[str, Run]:
    return {run.label: run for run in make_runs(comparison(**changes), CONFIG)}


def test_steps_come_nearest_to_the_budget() -> None:
    assert steps_for(budget(tokens=1000), 64, 5.0, "m") == 16
    assert steps_for(budget(flops=1000), 64, 5.0, "m") == 3
    assert steps_for(budget(steps=7), 64, 5.0, "m") == 7
    with pytest.raises(ConfigError, match=r"^m: the budget is less than one step of 64 tokens"):
        steps_for(budget(tokens=31), 64, 5.0, "m")


def test_methods_spend_alike_though_their_samples_differ() -> None:
    runs = by_label()
    assert list(runs) == ["yarn", "short, seed 0", "full, seed 0", "short, seed 1", "full, seed 1"]
    assert (runs["short, seed 0"].recipe.num_samples, runs["full, seed 0"].recipe.num_samples) == (8, 4)
    flops = {"flops": 4e7}
    runs = by_label(budget=flops)
    for run in (runs["short, seed 0"], runs["full, seed 0"]):
        step = 2 * run.recipe.data.sample_length * flops_per_token(model_sizes(CONFIG), run.recipe.data.sample_length)
        assert run.flops == run.recipe.train.steps * step
        assert abs(run.flops - 4e7) <= step / 2
    assert runs["yarn"].flops == 0


def test_a_method_may_have_a_budget_of_its_own() -> None:
    methods = values()["methods"]
    methods[2]["budget"] = {"steps": 9}
    runs = by_label(methods=methods)
    assert (runs["short, seed 1"].recipe.train.steps, runs["full, seed 1"].recipe.train.steps) == (4, 9)


def test_a_method_is_the_shared_recipe_with_its_values(tmp_path: Any) -> None:
    runs = by_label(output=str(tmp_path))
    short, full = runs["short, seed 1"].recipe, runs["full, seed 1"].recipe
    assert (short.positions.type, full.positions.type, runs["yarn"].recipe.rope.type) == (
        "longrecipe",
        "contiguous",
        "yarn",
    )
    assert (short.seed, short.name, short.run_uri) == (1, "short-1", f"{tmp_path}/runs/short/seed-1")
    assert (short.model.path, full.rope.type, short.evaluate.lengths) == ("base", "ntk", [])
    asked = {run.settings for run in runs.values()}
    assert len(asked) == 1
    assert next(iter(asked)).tasks == ("larger",)
    assert next(iter(asked)).short_length == 64


def test_a_result_is_for_its_settings_only() -> None:
    marks = {run.mark() for run in by_label().values()}
    assert len(marks) == 5
    assert {run.mark() for run in by_label(workers=2, claims=[]).values()} == marks
    assert not {run.mark() for run in by_label(evaluate=values()["evaluate"] | {"examples": 3}).values()} & marks
    train = {"global_batch_size": 2, "learning_rate": 1.0}
    changed = by_label(recipe=values()["recipe"] | {"train": train})
    assert not {run.mark() for run in changed.values()} & marks


def test_a_corpus_described_here_is_in_the_output(tmp_path: Any) -> None:
    assert manifest_uri(comparison(output=str(tmp_path), corpus={"sources": []})) == f"{tmp_path}/data"
    with pytest.raises(ConfigError, match=r"recipe\.data\.manifest: not given"):
        manifest_uri(comparison(recipe={}))


@pytest.mark.parametrize(
    ("set_values", "message"),
    [
        ({"positions.type": "guess"}, r"method full: positions\.type: input should be"),
        ({"train.warmup_steps": 9}, r"method full \(4 steps from its budget\): train: 'warmup_steps' 9 is above"),
        ({"train.steps": 9}, r"method full: train\.steps follows from the budget"),
        ({"evaluate.lengths": [64]}, "method full: evaluate belongs to the comparison"),
        ({"parallel.launch": "ray"}, "method full: parallel.launch is ray"),
        ({"data.mix.1.weights": {}}, "'1' is no item of the list"),
    ],
)
def test_a_wrong_method_is_named(set_values: dict[str, Any], message: str) -> None:
    methods = values()["methods"]
    methods[2]["set"] = set_values
    with pytest.raises(ConfigError, match=message):
        by_label(methods=methods)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"reference": "none"}, "'reference' none is none of the methods"),
        ({"seeds": [1, 1]}, "'seeds' must differ"),
        ({"budget": {"tokens": 1, "steps": 1}}, "budget: give one of 'tokens', 'flops' and 'steps'"),
        ({"budget": {}}, "budget: give one of"),
        ({"base": {"checkpoint": "x", "config": {}}}, "base: give either 'checkpoint', or"),
        ({"base": {"config": {}}}, "base: give either 'checkpoint', or"),
        ({"methods": [{"name": "full"}, {"name": "full"}]}, "'methods' need names that differ"),
    ],
)
def test_a_wrong_comparison_is_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        comparison(**changes)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"against": "nobody"}, r"claims\.0\.against: 'nobody' is none"),
        ({"metric": "hop"}, r"claims\.0\.metric: hop is not asked"),
        ({"metric": "loss", "length": 64}, r"claims\.0\.length: loss has none"),
        ({"length": 65}, r"claims\.0\.length: 65 is none of"),
    ],
)
def test_a_claim_must_be_about_what_is_measured(change: dict[str, Any], message: str) -> None:
    claim = {"name": "c", "method": "short", "against": "full", "metric": "tasks", "relation": "above"}
    with pytest.raises(ConfigError, match=message):
        comparison(claims=[claim | change])


def test_places_in_a_file_are_filled_in(tmp_path: Any) -> None:
    corpus = {"sources": [{"name": "text", "paths": ["{stdlib}/json"]}]}
    path = tmp_path / "c.yaml"
    path.write_text(json.dumps(values(corpus=corpus)))
    loaded = load_comparison(path, ["seeds=[5]"])
    assert loaded.corpus is not None
    assert loaded.corpus["sources"][0]["paths"] == [f"{sysconfig.get_paths()['stdlib']}/json"]
    assert loaded.seeds == [5]


def test_the_ready_comparison_is_whole_and_fair() -> None:
    asked = load_comparison(TINY)
    assert asked.corpus is not None
    corpus = parse(Corpus, asked.corpus | {"output": "data"}, "corpus")
    assert asked.base.config is not None
    config = asked.base.config | {"vocab_size": 944}
    runs = make_runs(asked, config)
    base = base_recipe(asked)
    assert base is not None
    made = {source.name: source for source in corpus.sources if isinstance(source, NeedleSource)}
    for recipe in (base, *(run.recipe for run in runs)):
        for phase in recipe.data.mix:
            for name in phase.weights:
                assert made[name].length <= recipe.data.sample_length
    trained = [run for run in runs if run.seed is not None and run.method != "full-length"]
    assert len({run.method for run in trained}) >= 6
    assert all(abs(run.flops / 4e11 - 1) < 0.02 for run in trained)
    for run in trained:
        # No method runs out of documents and reads some twice.
        name = next(iter(run.recipe.data.mix[0].weights))
        assert run.recipe.num_samples * run.recipe.data.sample_length <= made[name].documents * made[name].length
