"""Pipelines of a tiny model, run for real: trained, merged, evaluated, stopped, gone on with and refused."""

import json
from pathlib import Path
from typing import Any

import pytest

from longspan import storage
from longspan.config.recipe import Recipe
from longspan.errors import ConfigError, LaunchError
from longspan.observe.tables import results_table
from longspan.recipes.actions import Actions, base_directory, real_actions
from longspan.recipes.run import run_pipeline
from tests.recipes.conftest import MakePipeline


def read(path: Path) -> Any:
    return json.loads(path.read_text(encoding="utf-8"))


def weights(path: Path) -> dict[str, Any]:
    from safetensors.torch import load_file

    return load_file(path / "model.safetensors")


def counted(calls: list[str], stop_in: str = "") -> Actions:
    """The real actions, with their calls written down; the training named `stop_in` breaks off."""
    real = real_actions()

    def train(recipe: Recipe) -> dict[str, Any]:
        calls.append(recipe.name)
        if recipe.name == stop_in:
            raise LaunchError("the cluster is gone")
        return real.train(recipe)

    def merge(stage: Any, a: str, b: str, output: str) -> dict[str, Any]:
        calls.append(stage.name)
        return real.merge(stage, a, b, output)

    def evaluate(model: str, asked: Any) -> dict[str, Any]:
        calls.append(f"ask {Path(model).parent.name if model.endswith('/checkpoint') else 'base'}")
        return real.evaluate(model, asked)

    return Actions(train, merge, evaluate)


def test_three_stages_from_the_first_to_the_last(make: MakePipeline, room: Path, tmp_path: Path) -> None:
    """Each stage begins with the one before, each model is asked the same, and one table holds them all."""
    import torch

    evaluate = {
        "manifest": str(room / "data"),
        "text_source": "held",
        "lengths": [128],
        "needles": 1,
        "examples": 1,
    }
    calls: list[str] = []
    said: list[str] = []
    summary = run_pipeline(make("stages.0.evaluate=false", evaluate=evaluate), said.append, counted(calls))
    out = tmp_path / "out"
    asked = [call for call in calls if call.startswith("ask")]
    assert asked == ["ask base", "ask 02-replay", "ask 03-blend"]
    assert [call for call in calls if call not in asked] == ["tiny-line-extend", "tiny-line-replay", "blend"]
    a, b, blend = weights(room / "model"), weights(out / "02-replay/checkpoint"), weights(out / "03-blend/checkpoint")
    assert any(not torch.equal(a[name], b[name]) for name in a)
    for name in a:
        torch.testing.assert_close(blend[name], (a[name] + b[name]) / 2)
    thetas = [
        read(out / folder / "checkpoint" / "config.json")["rope_theta"]
        for folder in ("01-extend", "02-replay", "03-blend")
    ]
    assert thetas[0] > 500
    assert len(set(thetas)) == 1
    assert read(out / "summary.json") == summary
    assert summary["finished"]
    assert list(summary["models"]) == ["base", "extend", "replay", "blend"]
    lengths = [list(model["needle_accuracy"]) for model in summary["models"].values()]
    assert lengths == [["128"], [], ["128"], ["128"]]
    assert summary["models"]["blend"]["note"] == "0.5 base + 0.5 replay, RoPE of b"
    assert summary["checkpoint"] == str(out / "03-blend" / "checkpoint")
    assert [str(cell) for cell in results_table(summary).columns[0].cells] == ["base", "extend", "replay", "blend"]
    for folder in (out, out / "02-replay", out / "03-blend"):
        assert "Needle retrieval" in (folder / "report.html").read_text(encoding="utf-8")
    assert (out / "02-replay" / "recipe.yaml").exists()
    assert said[-2:] == ["blend: merging base and replay", "blend: evaluating at 128 tokens and below"]

    calls.clear()
    again = run_pipeline(make("stages.0.evaluate=false", evaluate=evaluate), None, counted(calls))
    assert calls == []
    assert again == summary
    with pytest.raises(ConfigError, match=r"stage 'replay' in .* does not fit any more: its own settings have changed"):
        run_pipeline(make("stages.1.train.steps=3"), None, counted([]))


def test_a_pipeline_that_broke_off_goes_on(make: MakePipeline, tmp_path: Path) -> None:
    """Over a mistake, in training, then in a merge, whose half an upload is no reason to refuse the place."""
    calls: list[str] = []
    out = tmp_path / "out"
    with pytest.raises(ConfigError, match=r"data\.manifest: no finished corpus at"):
        run_pipeline(make("stages.0.data.manifest=nowhere"))
    with pytest.raises(LaunchError, match="the cluster is gone"):
        run_pipeline(make(), None, counted(calls, stop_in="tiny-line-replay"))
    assert read(out / "02-replay" / "stage.json")["made"] == ""

    def broken(stage: Any, a: str, b: str, output: str) -> dict[str, Any]:
        storage.write_text(storage.join(output, "model.safetensors"), "half")
        raise LaunchError("no room")

    actions = counted(calls)
    with pytest.raises(LaunchError, match="no room"):
        run_pipeline(make(), None, Actions(actions.train, broken, actions.evaluate))
    assert read(out / "03-blend" / "stage.json")["made"] == ""
    summary = run_pipeline(make(), None, actions)
    assert calls == ["tiny-line-extend", "tiny-line-replay", "tiny-line-replay", "blend"]
    assert summary["finished"]
    assert weights(out / "03-blend" / "checkpoint")
    assert summary["models"]["extend"]["needle_accuracy"] == {}


def test_a_stage_that_was_stopped_ends_the_run_for_now(make: MakePipeline) -> None:
    """As after a first Ctrl-C: training has saved and returned, the later stages wait."""
    calls: list[str] = []
    actions = counted(calls)

    def train(recipe: Recipe) -> dict[str, Any]:
        if recipe.name == "tiny-line-replay" and not calls[1:]:
            calls.append("stopped")
            return {"finished": False}
        return actions.train(recipe)

    said: list[str] = []
    summary = run_pipeline(make(), said.append, Actions(train, actions.merge, actions.evaluate))
    assert not summary["finished"]
    assert list(summary["models"]) == ["extend"]
    assert said[-1] == "replay: stopped; the same command goes on from there"
    assert run_pipeline(make(), None, Actions(train, actions.merge, actions.evaluate))["finished"]
    assert calls == ["tiny-line-extend", "stopped", "tiny-line-replay", "blend"]


def test_a_base_that_cannot_be_had(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    assert base_directory(str(tmp_path), None) == str(tmp_path)
    for name in ("org/there-is-no-such-model", "no such/path/at all"):
        with pytest.raises(ConfigError, match=f"^base: '{name}' is neither a directory nor a model"):
            base_directory(name, None)


def test_stages_in_an_object_store(make: MakePipeline, s3_bucket: str) -> None:
    """Records, folders and reports lie in the bucket; training and merging are other rooms' matter."""

    def train(recipe: Recipe) -> dict[str, Any]:
        assert recipe.output is not None
        storage.write_json(storage.join(recipe.output, "checkpoint", "config.json"), {"path": recipe.model.path})
        return {"finished": True, "steps": recipe.train.steps, "tokens": 10, "seconds": 1.0}

    def merge(stage: Any, a: str, b: str, output: str) -> dict[str, Any]:
        storage.write_json(storage.join(output, "config.json"), {"a": a, "b": b})
        return {"weight": stage.weight, "rope": stage.rope}

    def evaluate(model: str, asked: Any) -> dict[str, Any]:
        raise AssertionError("nothing is asked")

    pipeline = make(f"output={s3_bucket}/out")
    summary = run_pipeline(pipeline, None, Actions(train, merge, evaluate))
    assert summary["tokens"] == 20
    merged = storage.read_json(f"{s3_bucket}/out/03-blend/checkpoint/config.json")
    assert merged == {"a": pipeline.base, "b": f"{s3_bucket}/out/02-replay/checkpoint"}
    began = storage.read_json(f"{s3_bucket}/out/02-replay/checkpoint/config.json")
    assert began == {"path": f"{s3_bucket}/out/01-extend/checkpoint"}
    assert {"report.html", "summary.json", "pipeline.yaml"} <= set(storage.list_files(f"{s3_bucket}/out"))
    said: list[str] = []
    assert run_pipeline(pipeline, said.append, Actions(train, merge, evaluate)) == summary
    assert said == ["extend: done already", "replay: done already", "blend: done already"]
