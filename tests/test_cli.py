"""The command line: `--help` costs nothing, a mistake is one line on stderr with exit code 2, and no traceback."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from typer.testing import CliRunner, Result

from longspan.cli import app
from longspan.config.corpus import Corpus
from longspan.config.load import load_recipe, parse, to_yaml
from longspan.config.recipe import Recipe
from longspan.corpus.impact.manifest import load_impact
from longspan.corpus.prepare import prepare
from tests.tiny import tiny_model_directory, tiny_recipe

ROOT = Path(__file__).parents[1]
HEAVY = ("torch", "ray", "transformers", "deepspeed", "pyarrow", "matplotlib", "s3fs", "wandb", "numpy")
COMMANDS = {
    (): "Extend the context window",
    ("demo",): "Extend a tiny model",
    ("prepare",): "Tokenise a corpus",
    ("plan",): "Say what a recipe will do and cost",
    ("train",): "Train a recipe",
    ("run",): "Run a pipeline's stages in order",
    ("evaluate",): "Needle grid and loss by position",
    ("impact",): "Score how much far text helps",
    ("merge",): "Average two checkpoints",
    ("export",): "Write the checkpoint of an E2-LLM run",
    ("compare",): "Train and ask several methods",
    ("sweep",): "Search recipe values",
    ("report",): "report.html",
    ("sample",): "Show a training sample",
    ("cache",): "Show what this node keeps",
    ("recipe",): "Look at recipes",
    ("recipe", "show"): "every default written out",
    ("recipe", "stages"): "every default of every stage",
    ("recipe", "schema"): "JSON schema",
}


def longspan(*arguments: str, cwd: Path = ROOT) -> "subprocess.CompletedProcess[str]":
    """The program as a user starts it, in a process of its own."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT / "platform"), "COLUMNS": "200", "HF_HUB_OFFLINE": "1"}
    command = [sys.executable, "-m", "longspan.cli", *arguments]
    return subprocess.run(command, capture_output=True, text=True, cwd=cwd, env=environment)


def assert_refused(ended: "subprocess.CompletedProcess[str] | Result", *parts: str) -> None:
    """Exit code 2, nothing on stdout, one line on stderr that holds `parts`."""
    lines = ended.stderr.splitlines()
    assert len(lines) == 1, ended.stderr
    assert lines[0].startswith("longspan: ")
    for part in parts:
        assert part in lines[0]
    assert (ended.exit_code if isinstance(ended, Result) else ended.returncode) == 2
    assert ended.stdout == ""


def test_a_pipeline_is_shown_whole_and_its_mistakes_named() -> None:
    shown = longspan("recipe", "stages", "jobs/pipelines/longrecipe-llama3-8b-80k.yaml")
    assert [stage["type"] for stage in yaml.safe_load(shown.stdout)["stages"]] == ["train", "train", "merge"]
    wrong = "stages.0.train.steps=many"
    assert_refused(
        longspan("run", "jobs/pipelines/longrecipe-llama3-8b-80k.yaml", "--set", wrong), "stages.0.train.steps"
    )


def test_help_of_every_command_loads_nothing_heavy() -> None:
    """One process asks all of them, and says which modules it has then."""
    code = f"""
import sys
from longspan.cli import app
for words in {[list(words) for words in COMMANDS]!r}:
    try:
        app([*words, "--help"], prog_name="longspan")
    except SystemExit as ended:
        assert ended.code == 0, words
    print("=====")
print(sorted(set({HEAVY!r}) & set(sys.modules)))
"""
    environment = {**os.environ, "PYTHONPATH": str(ROOT / "platform"), "COLUMNS": "200"}
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment)
    assert ended.returncode == 0, ended.stderr
    *helps, loaded = ended.stdout.split("=====\n")
    assert loaded.strip() == "[]"
    for (words, text), shown in zip(COMMANDS.items(), helps, strict=True):
        assert text in shown, words
        assert f"Usage: longspan {' '.join(words)}".rstrip() in shown


def test_every_command_is_asked_for_help() -> None:
    """So that a new command is held to it as well."""
    import typer.main

    group = typer.main.get_command(app)
    names = {(name,) for name in group.commands}  # type: ignore[attr-defined]
    inner = {("recipe", name) for name in group.commands["recipe"].commands}  # type: ignore[attr-defined]
    assert {(), *names, *inner} == set(COMMANDS)


def test_without_a_command_the_help_is_shown() -> None:
    ended = CliRunner().invoke(app, [])
    assert ended.exit_code == 2
    assert "Usage:" in ended.output


@pytest.fixture(scope="module")
def material(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with two models, a corpus, and a recipe.yaml that fits them."""
    folder = tmp_path_factory.mktemp("cli")
    (folder / "text").mkdir()
    (folder / "text" / "a.txt").write_text("".join(f"line {n}: the {n * 7 % 13} grey geese.\n" for n in range(200)))
    values = {
        "output": "data",
        "tokenizer": {"train_vocab_size": 300},
        "sources": [{"type": "text", "name": "text", "paths": ["text"]}],
    }
    (folder / "corpus.yaml").write_text(yaml.safe_dump(values))
    absolute = {**values, "output": str(folder / "data")}
    absolute["sources"] = [{"type": "text", "name": "text", "paths": [str(folder / "text")]}]
    prepare(parse(Corpus, absolute, "test corpus"))
    tiny_model_directory(folder / "model", vocab_size=320)
    tiny_model_directory(
        folder / "other", vocab_size=320, seed=1, rope_parameters={"rope_type": "default", "rope_theta": 9e5}
    )
    recipe = tiny_recipe("model", "data", output="run")
    (folder / "recipe.yaml").write_text(to_yaml(recipe))
    return folder


def test_a_missing_corpus_is_refused(material: Path) -> None:
    ended = longspan("train", "recipe.yaml", "--set", "data.manifest=nowhere", cwd=material)
    place = material.resolve() / "nowhere"
    assert_refused(ended, f"data.manifest: no finished corpus at '{place}'; give the directory that `longspan prepare`")
    assert not (material / "run").exists()


def test_merging_asks_whose_positions_to_keep(material: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(material)
    merge = ["merge", "model", "other", "--output", str(tmp_path / "merged")]
    ended = CliRunner().invoke(app, merge)
    assert_refused(ended, "--rope", "rope")
    assert not (tmp_path / "merged").exists()
    ended = CliRunner().invoke(app, [*merge, "--rope", "b"])
    assert ended.exit_code == 0, ended.stderr
    assert "RoPE of b" in ended.stdout
    config = json.loads((tmp_path / "merged" / "config.json").read_text())
    assert config["rope_parameters"]["rope_theta"] == 9e5


def test_a_recipe_is_shown_resolved(material: Path) -> None:
    path = str(material / "recipe.yaml")
    ended = CliRunner().invoke(app, ["recipe", "show", path, "--set", "train.steps=77", "--set", "tracking.wandb=off"])
    assert ended.exit_code == 0
    shown = parse(Recipe, yaml.safe_load(ended.stdout), "shown")
    assert shown == load_recipe(path, ["train.steps=77"])
    assert shown.train.steps == 77
    assert "beta2: 0.95" in ended.stdout


def test_the_schema_is_json_with_help_and_bounds() -> None:
    ended = CliRunner().invoke(app, ["recipe", "schema"])
    assert ended.exit_code == 0
    schema = json.loads(ended.stdout)
    assert schema["additionalProperties"] is False
    assert set(schema["properties"]) == set(Recipe.model_fields)
    assert schema["$defs"]["Train"]["properties"]["steps"]["exclusiveMinimum"] == 0
    assert "Samples an optimizer step" in schema["$defs"]["Train"]["properties"]["global_batch_size"]["description"]


def test_a_bug_keeps_its_traceback(monkeypatch: pytest.MonkeyPatch, material: Path) -> None:
    from longspan.config import load

    def broken(*_: object) -> None:
        raise ZeroDivisionError("a bug")

    monkeypatch.setattr(load, "load_recipe", broken)
    ended = CliRunner().invoke(app, ["recipe", "show", str(material / "recipe.yaml")])
    assert isinstance(ended.exception, ZeroDivisionError)


def test_an_interrupt_says_how_to_go_on(monkeypatch: pytest.MonkeyPatch, material: Path) -> None:
    from longspan.launch import run

    def interrupted(*_: object, **options: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(run, "train", interrupted)
    ended = CliRunner().invoke(app, ["train", str(material / "recipe.yaml")])
    assert ended.exit_code == 130
    assert ended.stderr == "longspan: interrupted; the same command resumes from the last checkpoint\n"
    monkeypatch.setattr(run, "train", lambda recipe, resume_from: {"finished": False, "steps": 3})
    ended = CliRunner().invoke(app, ["train", str(material / "recipe.yaml")])
    assert ended.exit_code == 130
    assert ended.stderr == "longspan: stopped after step 3; the same command resumes it\n"


def test_a_run_from_the_command_line(material: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(material)
    ended = CliRunner().invoke(app, ["train", "recipe.yaml", "--set", "train.steps=2", "--output", "done"])
    assert ended.exit_code == 0, ended.stderr
    checkpoint, report = ended.stdout.splitlines()[-2:]
    assert checkpoint.endswith("done/checkpoint: 2 steps, 256 tokens")
    assert report.endswith("done/report.html")
    for name in ("recipe.yaml", "metrics.jsonl", "summary.json", "report.html", "checkpoint/config.json"):
        assert (material / "done" / name).is_file()
    ended = CliRunner().invoke(app, ["report", str(material / "done")])
    assert (ended.exit_code, ended.stdout.strip()) == (0, str(material / "done" / "report.html"))


def test_an_evaluation_at_the_scale_of_each_length(material: Path, tmp_path: Path) -> None:
    words = ["evaluate", str(material / "model"), "--manifest", str(material / "data"), "--source", "text"]
    words += ["--lengths", "128,256", "--needles", "1", "--examples", "1", "--dtype", "float32", "--scale-window", "64"]
    ended = CliRunner().invoke(app, [*words, "--output", str(tmp_path)])
    assert ended.exit_code == 0, ended.stderr
    assert json.loads((tmp_path / "summary.json").read_text())["evaluation"]["scales"] == {"128": 2, "256": 4}
    assert "evaluation.scales.256" in (tmp_path / "report.html").read_text()
    ended = CliRunner().invoke(app, [*words, "--scale", "2"])
    assert ended.exit_code == 2
    assert ended.stderr.splitlines()[-1].startswith("longspan: evaluate: both a scale and a scale_window are given")


def test_every_setting_of_an_analysis_reaches_it(material: Path, tmp_path: Path) -> None:
    """LongCE's K and d among them: papers.md 4.5, the released code takes its own whatever its flags say."""
    words = ["impact", str(material / "data"), "--model", str(material / "model"), "--output", str(tmp_path / "scores")]
    words += ["--window", "64", "--short-prefix", "12", "--stride", "4", "--measure", "logit", "--documents", "1"]
    ended = CliRunner().invoke(app, [*words, "--dtype", "float32", "--drop-sliding-window"])
    assert ended.exit_code == 0, ended.stderr
    manifest = load_impact(str(tmp_path / "scores"))
    found = manifest.settings
    assert (found.short_prefix, found.stride, found.measure, found.documents) == (12, 4, "logit", 1)
    assert (found.dtype, found.drop_sliding_window, found.first_scored) == ("float32", True, 16)
    statistics = json.loads((tmp_path / "scores" / "statistics.json").read_text())
    assert statistics["tokens"] == manifest.tokens - 16
