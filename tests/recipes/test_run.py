"""Pipelines of a tiny model, run for real: trained, merged, evaluated, stopped, gone on with and refused."""

import json
from pathlib import Path
from typing import Any

import pytest

from longspan import storage
from longspan.config.pipeline import load_pipeline
from longspan.config.recipe import Recipe
from longspan.errors import ConfigError, LaunchError, StorageError
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
    kept = read(out / "summary.json")
    assert list(kept["models"]) == list(summary["models"]) == ["base", "extend", "replay", "blend"], (
        "not by the alphabet"
    )
    assert list(kept["stages"]) == ["extend", "replay", "blend"]
    rows = (out / "report.html").read_text(encoding="utf-8")
    assert [rows.index(f">{name}<") for name in kept["models"]] == sorted(
        rows.index(f">{name}<") for name in kept["models"]
    )
    blended = read(out / "03-blend" / "summary.json")
    assert blended["finished"]
    assert blended["checkpoint"] == str(out / "03-blend" / "checkpoint")
    assert {"versions", "evaluation", "models", "seconds", "a", "b"} <= set(blended)
    lengths = [list(model["needle_accuracy"]) for model in summary["models"].values()]
    assert lengths == [["128"], [], ["128"], ["128"]]
    assert summary["models"]["blend"]["note"] == "0.5 base + 0.5 replay, RoPE of b"
    assert summary["checkpoint"] == str(out / "03-blend" / "checkpoint")
    assert [str(cell) for cell in results_table(summary).columns[0].cells] == ["base", "extend", "replay", "blend"]
    for folder in (out, out / "02-replay", out / "03-blend"):
        assert "Needle retrieval" in (folder / "report.html").read_text(encoding="utf-8")
    assert (out / "02-replay" / "recipe.yaml").exists()
    cards = [
        (out / folder / "checkpoint" / "README.md").read_text() for folder in ("01-extend", "02-replay", "03-blend")
    ]
    assert ["## Evaluation" in card for card in cards] == [False, True, True]
    assert ["base_model: model\n" in card for card in cards] == [True, True, True]
    assert "model (as 01-extend made it)" in cards[1]
    assert str(room) not in "".join(cards)
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


def quick(calls: list[str]) -> Actions:
    """Stages that train nothing: what lies in their folders is `run`'s own."""

    def train(recipe: Recipe) -> dict[str, Any]:
        calls.append(recipe.name)
        storage.write_json(storage.join(recipe.run_uri, "checkpoint", "config.json"), {})
        return {"finished": True, "steps": recipe.train.steps, "tokens": 10, "seconds": 1.0}

    def merge(stage: Any, a: str, b: str, output: str) -> dict[str, Any]:
        calls.append(stage.name)
        storage.write_json(storage.join(output, "config.json"), {})
        return {"weight": stage.weight, "rope": stage.rope, "output": output}

    return Actions(train, merge, real_actions().evaluate)


EVALUATE = {"text_source": "held", "lengths": [128], "needles": 1, "examples": 1, "base": False}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ("stages.1.data.manifest=nowhere", r"^stage 'replay': data\.manifest: no finished corpus at 'nowhere'"),
        ("stages.1.data.mix=[{weights: {speech: 1}}]", r"^stage 'replay': data\.mix\.0\.weights\.speech: not a source"),
        ("evaluate.manifest=nowhere", r"^evaluate\.manifest: no finished corpus at 'nowhere'"),
        ("evaluate.text_source=speech", r"^evaluate\.text_source: 'speech' is no source .* it has text, held"),
        ("base=/no/such/model", r"^base: cannot read a model config at '/no/such/model'"),
    ],
)
def test_a_mistake_in_a_later_stage_is_found_before_the_first_is_run(
    make: MakePipeline, room: Path, tmp_path: Path, change: str, message: str
) -> None:
    calls: list[str] = []
    with pytest.raises(ConfigError, match=message):
        run_pipeline(make(change, evaluate={**EVALUATE, "manifest": str(room / "data")}), None, quick(calls))
    assert calls == []
    assert not (tmp_path / "out").exists(), "nothing is left that corrected settings would have to fit"


def test_what_is_done_needs_its_corpus_no_more(make: MakePipeline, room: Path, tmp_path: Path) -> None:
    import shutil

    moved = tmp_path / "corpus"
    shutil.copytree(room / "data", moved)
    pipeline = make(f"stages.0.data.manifest={moved}")
    run_pipeline(pipeline, None, quick([]))
    shutil.rmtree(moved)
    assert run_pipeline(pipeline, None, quick([]))["finished"]


def test_a_finished_model_that_was_cleared_away_is_missed_only_where_it_is_needed(
    make: MakePipeline, tmp_path: Path
) -> None:
    import shutil

    out = tmp_path / "out"
    run_pipeline(make(), None, quick([]))
    shutil.rmtree(out / "02-replay" / "checkpoint")
    assert run_pipeline(make(), None, quick([]))["finished"]
    shutil.rmtree(out / "03-blend")
    calls: list[str] = []
    with pytest.raises(
        ConfigError, match=r"^stage 'replay': it is done, but its model is not at .*, or remove 02-replay"
    ):
        run_pipeline(make(), None, quick(calls))
    assert calls == []


@pytest.mark.parametrize("text", ["{half", "[]", "{}", '{"name": "replay"}'])
def test_a_damaged_record_says_how_to_go_on(make: MakePipeline, tmp_path: Path, text: str) -> None:
    run_pipeline(make(), None, quick([]))
    (tmp_path / "out" / "02-replay" / "stage.json").write_text(text)
    with pytest.raises(
        ConfigError, match=r"02-replay/stage\.json: not the record of a stage; remove its folder to make"
    ):
        run_pipeline(make(), None, quick([]))


@pytest.mark.parametrize("folder", ["02-replay", "03-blend"])
def test_a_report_that_could_not_be_written_is_made_up_for(make: MakePipeline, tmp_path: Path, folder: str) -> None:
    """The stage is done and not done again, but what it leaves is to be whole."""
    report = tmp_path / "out" / folder / "report.html"
    report.mkdir(parents=True)
    calls: list[str] = []
    with pytest.raises(StorageError, match=r"report\.html"):
        run_pipeline(make(), None, quick(calls))
    report.rmdir()
    said: list[str] = []
    assert run_pipeline(make(), said.append, quick(calls))["finished"]
    assert report.is_file()
    assert calls == ["tiny-line-extend", "tiny-line-replay", "blend"]
    assert said[0] == "extend: done already"
    written = report.stat().st_mtime_ns
    run_pipeline(make(), None, quick(calls))
    assert report.stat().st_mtime_ns == written


def test_the_command_says_so_when_the_first_stage_is_stopped(
    make: MakePipeline, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """There is no model to show a table of yet."""
    from typer.testing import CliRunner

    from longspan.cli import app

    make()
    stopped = Actions(lambda recipe: {"finished": False}, quick([]).merge, quick([]).evaluate)
    monkeypatch.setattr("longspan.recipes.run.real_actions", lambda: stopped)
    result = CliRunner().invoke(app, ["run", str(tmp_path / "line.yaml")])
    assert result.exit_code == 130
    assert "stopped; the same command resumes from there" in result.output
    assert not read(tmp_path / "out" / "summary.json")["finished"]


def test_the_pipeline_that_a_run_leaves_is_the_one_that_ran(make: MakePipeline, tmp_path: Path) -> None:
    """OUTPUT/pipeline.yaml, with every default, can be run again and finds all done."""
    run_pipeline(make(), None, quick([]))
    calls: list[str] = []
    assert run_pipeline(load_pipeline(tmp_path / "out" / "pipeline.yaml"), None, quick(calls))["finished"]
    assert calls == []


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
    assert said[-1] == "replay: stopped; the same command resumes from there"
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
