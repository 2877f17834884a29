"""Local runs that select sentences and weigh the loss by scores, from the recipe to the checkpoint."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from longspan import storage
from longspan.config.recipe import Recipe
from longspan.config.weighting import LongCE
from longspan.corpus.manifest import load_manifest
from longspan.corpus.plan_table import read_plan_info
from longspan.errors import ConfigError, DataError
from longspan.feed.source import Source, feed_spec
from longspan.launch.preview import preview
from longspan.launch.run import train
from longspan.launch.stage import located, stage_run
from longspan.observe.metrics import read_metrics
from longspan.positions import measure_coverage
from tests.impact_files import random_scores, write_scores
from tests.launch.conftest import MakeRecipe, prepare_corpus


@pytest.fixture(scope="module")
def scores(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> str:
    uri = str(tmp_path_factory.mktemp("scores"))
    manifest = load_manifest(str(folder / "data"))
    total = sum(source.tokens for source in manifest.sources.values())
    write_scores(uri, str(folder / "data"), manifest, random_scores(0, total))
    return uri


def selection(scores: str | None = None, mode: str = "weighted") -> dict[str, Any]:
    return {"mode": mode, "from_length": 96, **({"scores": scores} if scores else {})}


def losses(recipe: Recipe) -> list[float]:
    return [line["loss"] for line in read_metrics(recipe.run_uri)]


def test_a_run_on_selected_sentences(make: MakeRecipe, scores: str) -> None:
    recipe = make(data={"selection": selection(scores)}, train={"steps": 3})
    summary = train(recipe, show_progress=False)
    assert summary["finished"]
    assert read_plan_info(storage.join(recipe.run_uri, "plan")).sample_length == 96
    metrics = read_metrics(recipe.run_uri)
    assert [line["tokens"] for line in metrics] == [2 * 32 * step for step in (1, 2, 3)]
    source = Source(feed_spec(located(recipe)))
    batches = [source.micro_batch(k) for k in range(6)]
    for step, line in enumerate(metrics):
        own = batches[2 * step : 2 * step + 2]
        assert line["max_position"] == max(batch.positions.max() for batch in own)
        assert line["valid_targets"] == sum(int((batch.labels >= 0).sum()) for batch in own)
    description = storage.read_json(storage.join(recipe.run_uri, "plan.json"))
    measured = [float(batch.positions.max()) for batch in batches]
    assert description["positions"]["samples_measured"] == len(batches)
    assert description["positions"]["largest_position"] == max(measured)


def test_a_run_with_longce_reports_its_own_loss(make: MakeRecipe, scores: str, tmp_path: Path) -> None:
    """With a rate of almost 0: every step of all runs sees the same model, so the losses differ by the weights."""
    settings = {"learning_rate": 1e-30, "steps": 3}
    plain = make(train=settings, output=tmp_path / "plain")
    weighed = make(
        train=settings, output=tmp_path / "weighed", data={"loss_weighting": {"scores": scores, "gamma": 4.0}}
    )
    zero = make(train=settings, output=tmp_path / "one", data={"loss_weighting": {"scores": scores, "gamma": 1.0}})
    for recipe in (plain, weighed, zero):
        assert train(recipe, show_progress=False)["finished"]
    source = Source(feed_spec(located(weighed)))
    for step, (before, after) in enumerate(zip(losses(plain), losses(weighed), strict=True)):
        batches = source.micro_batches([2 * step, 2 * step + 1])
        weights = np.concatenate([batch.loss_weight[batch.labels >= 0] for batch in batches])
        # An untrained model is about as wrong about every token: the loss follows the mean weight.
        assert after / before == pytest.approx(weights.mean(), rel=0.05)
        assert weights.mean() > 1.3
    assert all(low < before for low, before in zip(losses(zero), losses(plain), strict=True))


@pytest.mark.parametrize(
    ("mode", "positions"),
    [
        ("uniform", {"type": "longrecipe"}),
        ("chunks", {"type": "pose", "text_offset": "same"}),
        ("chunks", {"type": "pose", "text_offset": "uniform", "num_chunks": 3}),
    ],
)
def test_preview_measures_the_samples_that_are_trained_on(
    make: MakeRecipe, mode: str, positions: dict[str, Any]
) -> None:
    data = {"selection": selection(mode=mode), "mix": [{"weights": {"text": 1.0, "held": 1.0}}], "packing": "best_fit"}
    recipe = located(make(data=data, positions=positions))
    stage_run(recipe)
    staged = storage.read_json(storage.join(recipe.run_uri, "plan.json"))
    assert preview(recipe)
    description = storage.read_json(storage.join(recipe.run_uri, "plan.json"))
    assert description == staged
    samples = [(b.positions, b.cu_seqlens) for b in Source(feed_spec(recipe)).micro_batches(range(12))]
    coverage = measure_coverage(samples, 256)
    run, found = description["run"], description["positions"]
    for name in ("largest_position", "mean_last_position", "mean_token_distance", "share_of_distances_seen"):
        assert found[name] == getattr(coverage, name)
    lengths = np.concatenate([np.diff(cu_seqlens) for _, cu_seqlens in samples])
    assert lengths.sum() == run["tokens"] == 12 * run["sample_length"] == 12 * 32
    assert run["mean_attended_length"] == pytest.approx((lengths**2).sum() / lengths.sum())
    assert (run["plan_length"], run["tokens_read"]) == (96, 12 * 96)
    if positions.get("text_offset") == "same":
        assert 32 < found["largest_position"] < 96, "where the text itself is"


def test_scores_of_another_corpus_stop_before_anything_is_written(
    make: MakeRecipe, scores: str, tmp_path: Path
) -> None:
    other = prepare_corpus(tmp_path, tmp_path / "other", seed=3)
    for section in ({"selection": selection(scores)}, {"loss_weighting": {"scores": scores}}):
        recipe = make(data={**section, "manifest": other})
        with pytest.raises(DataError, match=rf"^data\.{next(iter(section))}\.scores: .* scores of another corpus"):
            stage_run(located(recipe))
        assert not storage.exists(recipe.run_uri)
    with pytest.raises(DataError, match="no finished analysis here"):
        stage_run(located(make(data={"selection": selection(str(tmp_path / "none"))})))


def test_a_staged_run_does_not_go_on_with_other_scores(make: MakeRecipe, folder: Path, tmp_path: Path) -> None:
    corpus, own = str(folder / "data"), str(tmp_path / "own")
    manifest = load_manifest(corpus)
    total = sum(source.tokens for source in manifest.sources.values())
    write_scores(own, corpus, manifest, random_scores(0, total))
    recipe = located(make(data={"selection": selection(own)}))
    stage_run(recipe)
    stage_run(recipe)
    write_scores(own, corpus, manifest, random_scores(1, total), mark="other")
    with pytest.raises(DataError, match="scored anew since the run was staged"):
        stage_run(recipe)


def test_scores_are_made_absolute_with_the_other_paths(make: MakeRecipe) -> None:
    given = make(data={"selection": selection("here"), "loss_weighting": {"scores": "s3://there/scores"}})
    data = located(given).data
    assert data.selection is not None
    assert isinstance(data.loss_weighting, LongCE)
    assert data.selection.scores == str(Path("here").absolute())
    assert data.loss_weighting.scores == "s3://there/scores"


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ({"selection": {"mode": "weighted", "from_length": 64}}, "data.selection: mode 'weighted' needs 'scores'"),
        ({"selection": {"mode": "uniform", "from_length": 64, "statistic": "sum"}}, "'statistic' has no meaning"),
        ({"selection": {"mode": "uniform", "from_length": 64, "score_by": "type"}}, "'score_by' has no meaning"),
        (
            {"selection": {"mode": "prefix", "from_length": 16}},
            "'selection.from_length' 16 is below 'sample_length' 32",
        ),
        ({"loss_weighting": {"gamma": 2}}, "data.loss_weighting.scores: required"),
        ({"loss_weighting": {"scores": "x", "gamma": 0.5}}, "data.loss_weighting.gamma: input should be greater"),
    ],
)
def test_sections_that_do_not_fit_together(make: MakeRecipe, data: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        make(data=data)
