"""Every command that writes to an output finds out first whether another driver has it, and takes `--take-over`."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner, Result

from longspan.cli import app
from longspan.config.load import to_yaml
from longspan.storage.lease import acquire
from longspan.uri import parse
from tests.compare.material import values as comparison_values
from tests.launch.conftest import MakeRecipe
from tests.launch.test_export import base_of, finished_run
from tests.leases import dead, someone
from tests.recipes.conftest import three_stages

Arguments = Callable[[Path, Path, MakeRecipe], list[str]]


def file_of(folder: Path, values: Any) -> str:
    path = folder / "given.yaml"
    path.write_text(values if isinstance(values, str) else json.dumps(values))
    return str(path)


def train(material: Path, folder: Path, make: MakeRecipe) -> list[str]:
    return ["train", file_of(folder, to_yaml(make()))]


def run(material: Path, folder: Path, make: MakeRecipe) -> list[str]:
    return ["run", file_of(folder, three_stages(str(material / "data"), str(material / "model"), str(folder / "run")))]


def compare(material: Path, folder: Path, make: MakeRecipe) -> list[str]:
    base = {"checkpoint": str(material / "model")}
    return ["compare", file_of(folder, comparison_values(base=base, output=str(folder / "run")))]


def sweep(material: Path, folder: Path, make: MakeRecipe) -> list[str]:
    (folder / "recipe.yaml").write_text(to_yaml(make()))
    space = {"rope.theta": {"type": "grid", "values": [500.0]}}
    values = {"name": "s", "recipe": "recipe.yaml", "output": str(folder / "run"), "samples": 1, "space": space}
    values |= {"metric": "final_loss", "mode": "min", "set": {"rope": {"type": "theta", "theta": 500.0}}}
    return ["sweep", file_of(folder, values)]


def prepare(material: Path, folder: Path, make: MakeRecipe) -> list[str]:
    sources = [{"type": "text", "name": "text", "paths": [str(material / "text")]}]
    values = {"output": str(folder / "run"), "tokenizer": {"train_vocab_size": 300}, "sources": sources}
    return ["prepare", file_of(folder, values)]


def impact(material: Path, folder: Path, make: MakeRecipe) -> list[str]:
    model = str(material / "model")
    settings = ["--window", "64", "--short-prefix", "16", "--stride", "16", "--dtype", "float32", "--documents", "1"]
    return ["impact", str(material / "data"), "--model", model, *settings, "--output", str(folder / "run")]


def merge(material: Path, folder: Path, make: MakeRecipe) -> list[str]:
    return ["merge", str(material / "model"), str(material / "model"), "--output", str(folder / "run")]


def evaluate(material: Path, folder: Path, make: MakeRecipe) -> list[str]:
    asked = ["--source", "held", "--lengths", "128", "--needles", "1", "--examples", "1", "--dtype", "float32"]
    manifest = ["--manifest", str(material / "data")]
    return ["evaluate", str(material / "model"), *manifest, *asked, "--output", str(folder / "run")]


def export(material: Path, folder: Path, make: MakeRecipe) -> list[str]:
    finished_run(base_of(folder), folder / "e2llm")
    return ["export", str(folder / "e2llm"), "--window", "512", "--output", str(folder / "run")]


def demo(material: Path, folder: Path, make: MakeRecipe) -> list[str]:
    return ["demo", "--output", str(folder / "run")]


COMMANDS: list[Arguments] = [train, run, compare, sweep, prepare, impact, merge, evaluate, export, demo]
QUICK: list[Arguments] = [prepare, impact, merge, evaluate, export]


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def invoke(arguments: list[str]) -> Result:
    return CliRunner().invoke(app, arguments)


@pytest.mark.parametrize("command", COMMANDS, ids=lambda command: command.__name__)
def test_a_held_output_is_refused(command: Arguments, folder: Path, tmp_path: Path, make: MakeRecipe) -> None:
    arguments = command(folder, tmp_path, make)
    output = tmp_path / "run"
    acquire(parse(str(output)), someone())
    before = contents(output)
    ended = invoke(arguments)
    assert ended.exit_code == 2, ended.output
    (line,) = (line for line in ended.stderr.splitlines() if line.startswith("longspan:"))
    assert f"{output} is in use by 'longspan train recipe.yaml' (" in line
    assert "gpu-7, pid 4711) since" in line
    assert "--take-over" in line
    assert contents(output) == before


@pytest.mark.parametrize("command", QUICK, ids=lambda command: command.__name__)
def test_a_dead_drivers_output_is_taken_and_let_go(
    command: Arguments, folder: Path, tmp_path: Path, make: MakeRecipe
) -> None:
    arguments = command(folder, tmp_path, make)
    acquire(parse(str(tmp_path / "run")), dead())
    ended = invoke(arguments)
    assert ended.exit_code == 0, ended.output
    assert len(contents(tmp_path / "run")) > 1
    assert not (tmp_path / "run" / ".longspan-lease").exists()


@pytest.mark.parametrize("command", QUICK, ids=lambda command: command.__name__)
def test_the_flag_takes_it(
    command: Arguments, folder: Path, tmp_path: Path, make: MakeRecipe, monkeypatch: pytest.MonkeyPatch
) -> None:
    """From one of whom nothing is known but that it lives; what it has begun is given a second."""
    arguments = command(folder, tmp_path, make)
    acquire(parse(str(tmp_path / "run")), someone(expiry_s=4))
    ended = invoke([*arguments, "--take-over"])
    assert ended.exit_code == 0, ended.output


def test_a_run_that_trains_can_be_planned(folder: Path, tmp_path: Path, make: MakeRecipe) -> None:
    arguments = ["plan", file_of(tmp_path, to_yaml(make()))]
    acquire(parse(str(tmp_path / "run")), someone())
    before = contents(tmp_path / "run")
    ended = invoke(arguments)
    assert ended.exit_code == 0
    assert "samples" in ended.stdout
    assert contents(tmp_path / "run") == before
