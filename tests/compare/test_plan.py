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
from longspan.config.weighting import LongCE
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


def test_groups_of_tokens_cost_less_than_whole_samples() -> None:
    methods = [{"name": "full"}, {"name": "s2", "set": {"model.attention_pattern": {"type": "s2", "groups": 4}}}]
    runs = by_label(methods=methods, budget={"steps": 2})
    whole, groups = (flops_per_token(model_sizes(CONFIG), length) for length in (32, 8))
    assert runs["full, seed 0"].flops == 2 * 64 * whole
    assert runs["s2, seed 0"].flops == 2 * 64 * groups


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


def chain(**changes: Any) -> list[dict[str, Any]]:
    """`short`, `full`, then `again` from `short`, and `mean` of `again` and the base."""
    again = {"name": "again", "start": "short", "budget": {"tokens": 64}, "set": {"rope.type": "keep"}} | changes
    return [*values()["methods"][1:], again, {"name": "mean", "start": "again", "merge": {"weight": 0.25}}]


def test_a_method_may_go_on_from_another(tmp_path: Any) -> None:
    runs = by_label(methods=chain(), output=str(tmp_path))
    short, again, mean = (runs[f"{name}, seed 1"] for name in ("short", "again", "mean"))
    assert again.start is short
    assert mean.start is again
    assert mean.root is short
    assert (short.depth, again.depth, mean.depth) == (0, 1, 2)
    assert again.recipe.model.path == f"{tmp_path}/runs/short/seed-1/checkpoint"
    recipe = values()["recipe"]
    pinned = by_label(methods=chain(), recipe=recipe | {"model": recipe["model"] | {"revision": "abc"}})
    # The hub's revision is the base's alone.
    assert [pinned[f"{name}, seed 1"].recipe.model.revision for name in ("short", "again")] == ["abc", None]
    assert (mean.checkpoint, mean.recipe.seed) == (f"{tmp_path}/runs/mean/seed-1/checkpoint", 1)
    # What went before counts.
    assert again.flops == pytest.approx(1.25 * short.flops)
    assert mean.flops == again.flops
    marks = {label: run.mark() for label, run in runs.items()}
    changed = {run.label: run.mark() for run in by_label(methods=chain(note="other"), output=str(tmp_path)).values()}
    assert changed == marks
    slower = chain()
    slower[0] = slower[0] | {"set": {"train.learning_rate": 0.5}}
    later = {label: run.mark() for label, run in by_label(methods=slower, output=str(tmp_path)).items()}
    assert {label.split(",")[0] for label in marks if later[label] != marks[label]} == {"short", "again", "mean"}


def test_e2llm_is_asked_at_the_scale_of_the_length() -> None:
    scaled = {"rope.type": "e2llm", "positions.type": "e2llm", "positions.window": 64}
    methods = [
        {"name": "pi", "train": False, "set": scaled},
        {"name": "full", "set": scaled},
        {"name": "replayed", "start": "full", "set": {"rope.type": "keep"}},
        {"name": "average", "start": "full", "merge": {}},
        {"name": "raised", "start": "full"},
    ]
    windows = {run.method: run.settings.scale_window for run in by_label(methods=methods, seeds=[0]).values()}
    assert windows == {"pi": 64, "full": 64, "replayed": 64, "average": 64, "raised": None}


def test_methods_that_need_scores_find_those_of_the_comparison(tmp_path: Any) -> None:
    chosen = {"data.selection": {"mode": "weighted", "from_length": 64}}
    methods = [
        {"name": "full"},
        {"name": "chosen", "set": chosen},
        {"name": "random", "set": {"data.selection": {"mode": "uniform", "from_length": 64}}},
        {"name": "longce", "set": {"data.loss_weighting": {"gamma": 4}}},
        {"name": "own", "set": {"data.selection": chosen["data.selection"] | {"scores": "there"}}},
    ]
    analysis = {"rope": "yarn", "window": 64, "sources": ["text"]}
    runs = by_label(methods=methods, impact=analysis, seeds=[0], output=str(tmp_path))
    found = {run.method: run.recipe.data for run in runs.values()}
    here = f"{tmp_path}/impact"
    assert {name: data.selection.scores for name, data in found.items() if data.selection} == {
        "chosen": here,
        "random": None,
        "own": "there",
    }
    assert isinstance(found["longce"].loss_weighting, LongCE)
    assert found["longce"].loss_weighting.scores == here
    with pytest.raises(ConfigError, match=r"method chosen: .*mode 'weighted' needs 'scores'"):
        by_label(methods=methods, seeds=[0])


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
        ({"methods": [{"name": "full", "start": "full"}]}, r"methods\.0\.start: 'full' is no earlier trained method"),
        (
            {"methods": [{"name": "full", "train": False}, {"name": "b", "start": "full"}]},
            r"methods\.1\.start: 'full' is no earlier trained method of \[\]",
        ),
        ({"methods": [{"name": "full", "merge": {}}]}, "'merge' needs 'start'"),
        (
            {"methods": [{"name": "full"}, {"name": "b", "start": "full", "merge": {}, "set": {"seed": 1}}]},
            "'merge' trains nothing",
        ),
        ({"methods": [{"name": "full"}, {"name": "b", "start": "full", "train": False}]}, "'start' goes on training"),
        ({"impact": {"window": 64, "sources": ["a"]}}, "impact: give either 'model', or 'rope'"),
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
                assert made[name].length <= recipe.data.plan_length
    trained = [run for run in runs if run.seed is not None and run.method != "full-length"]
    assert len({run.method for run in trained}) >= 14
    assert all(abs(run.flops / 4e11 - 1) < 0.02 for run in trained if run.start is None)
    assert {run.method: round(run.flops / 1e11) for run in trained if run.start} == {"replay": 5, "merged": 5}
    for run in trained:
        # No method runs out of documents and reads some twice.
        name = next(iter(run.recipe.data.mix[0].weights))
        assert run.recipe.num_samples * run.recipe.data.plan_length <= made[name].documents * made[name].length
