"""A sweep with Ray Tune: every trial a Ray Train run at the RoPE base that it asked for."""

import os
from pathlib import Path

import pytest
import yaml

from longspan import storage
from longspan.config.load import load_recipe, to_yaml
from longspan.errors import ConfigError
from longspan.sweep.run import located_sweep, render, run_sweep
from longspan.sweep.space import load_sweep, metric_of
from tests.tiny import tiny_recipe

pytestmark = pytest.mark.ray


def sweep_file(folder: Path, material: Path, **changes: object) -> str:
    """With paths relative to `material`: trials have working directories of their own."""
    recipe = tiny_recipe(
        "model",
        "data",
        rope={"type": "theta", "theta": 500.0},
        data={"upsample": {"threshold": 1000, "ratio": 1.0}},
        train={"steps": 2},
        parallel={"launch": "ray", "num_workers": 1},
    )
    (folder / "base.yaml").write_text(to_yaml(recipe))
    sweep = {
        "name": "tiny-sweep",
        "recipe": "base.yaml",
        "output": os.path.relpath(folder / "out", material),
        "metric": "final_loss",
        "mode": "min",
        "max_concurrent": 3,
        "space": {
            "rope.theta": {"type": "grid", "values": [500.0, 4000.0, 90000.0]},
            "data.upsample.ratio": {"type": "choice", "values": [1.0, 4.0]},
        },
    }
    (folder / "sweep.yaml").write_text(yaml.safe_dump({**sweep, **changes}))
    return str(folder / "sweep.yaml")


def test_three_trials_each_at_its_own_base_and_the_best_recipe_written(
    ray_cluster: None, material: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Three at a time take every slot of the cluster."""
    monkeypatch.chdir(material)
    sweep, base = load_sweep(sweep_file(tmp_path, material), [])
    rows = run_sweep(sweep, base)
    assert all(row["output"].startswith(f"{tmp_path}/out/trials/") for row in rows)
    assert [row["error"] for row in rows] == [None] * 3
    assert sorted(row["rope_theta"] for row in rows) == [500.0, 4000.0, 90000.0]
    assert all(row["rope_theta"] == row["params"]["rope.theta"] for row in rows)
    losses = [row["metric"] for row in rows]
    assert losses == sorted(losses)
    assert len(set(losses)) == 3, "three bases gave the same loss: the base was ignored"
    best = load_recipe(f"{sweep.output_uri}/best.yaml")
    assert best.rope.theta == rows[0]["params"]["rope.theta"]
    assert best.data.upsample is not None
    assert best.data.upsample.ratio == rows[0]["params"]["data.upsample.ratio"]
    assert storage.read_json(f"{sweep.output_uri}/trials.json") == rows
    assert Path(f"{sweep.output_uri}/sweep.png").stat().st_size > 5000
    assert render(sweep, rows).row_count == 3


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"space": {"rope.thetta": {"type": "grid", "values": [1.0]}}}, "did you mean 'theta'"),
        ({"space": {"rope.theta": {"type": "grid", "values": [-5.0]}}}, "space.rope.theta"),
        ({"space": {"rope.theta": {"type": "loguniform", "low": 0.0, "high": 5.0}}}, "above 0"),
        ({"space": {}}, "space"),
        ({"recipe": "missing.yaml"}, "no such file"),
        ({"mode": "best"}, "mode"),
        ({"metric": "loss"}, "metric: string should match pattern"),
        ({"metric": "evaluation.needle.mean.-1"}, "needs evaluate.lengths in the recipe"),
    ],
)
def test_a_wrong_sweep_is_refused_before_anything_runs(
    material: Path, tmp_path: Path, changes: dict[str, object], message: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        load_sweep(sweep_file(tmp_path, material, **changes), [])


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"set": {"data.manifest": "nowhere"}}, r"^data.manifest: no finished corpus at '/.*/nowhere'"),
        ({"set": {"model.path": "data"}}, "^model.path: "),
        (
            {"max_concurrent": 9, "samples": 3},
            r"^max_concurrent: 9 training workers x 1 \+ 9 tasks of the feed x 1 = 18 CPU slots, the cluster has 6;"
            " lower max_concurrent, or",
        ),
    ],
)
def test_what_no_trial_could_do_is_told_before_the_first(
    ray_cluster: None,
    material: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    changes: dict[str, object],
    message: str,
) -> None:
    monkeypatch.chdir(material)
    with pytest.raises(ConfigError, match=message):
        run_sweep(*load_sweep(sweep_file(tmp_path, material, **changes), []))
    assert not (tmp_path / "out").exists()


def test_places_in_the_space_are_absolute_and_trials_counted(
    material: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(material)
    space = {
        "data.manifest": {"type": "grid", "values": ["data", "s3://bucket/data"]},
        "rope.type": {"type": "grid", "values": ["theta", "ntk", "yarn"]},
        "train.learning_rate": {"type": "uniform", "low": 0.1, "high": 0.2},
    }
    sweep, base = load_sweep(sweep_file(tmp_path, material, space=space, samples=2), [])
    found, located = located_sweep(sweep, base)
    assert (found.output, located.model.path) == (str(tmp_path / "out"), str(material / "model"))
    assert found.space["data.manifest"].values == [str(material / "data"), "s3://bucket/data"]
    assert found.space["rope.type"].values == ["theta", "ntk", "yarn"]
    assert found.num_trials == 12
    assert found.first_values == {
        "data.manifest": str(material / "data"),
        "rope.type": "theta",
        "train.learning_rate": 0.1,
    }


def test_the_metric_path_is_followed_and_a_wrong_one_named() -> None:
    summary = {"evaluation": {"needle": {"mean": [0.5, 0.25]}}, "finished": True}
    assert metric_of(summary, "evaluation.needle.mean.-1") == 0.25
    for path in ("evaluation.loss", "evaluation.needle.mean.7", "evaluation.needle.mean.x", "finished"):
        with pytest.raises(ConfigError, match="metric"):
            metric_of(summary, path)
