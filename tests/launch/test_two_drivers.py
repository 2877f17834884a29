"""Two `longspan train` on one output: one of them trains, the other is told so; who is taken over writes no more."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from longspan import storage
from longspan.config.load import to_yaml
from longspan.observe.metrics import read_metrics
from tests.launch.conftest import MakeRecipe

ROOT = Path(__file__).parents[2]
Process = subprocess.Popen[str]


@pytest.fixture
def recipe(make: MakeRecipe, tmp_path: Path) -> Path:
    """Six steps, a checkpoint after each."""
    file = tmp_path / "recipe.yaml"
    file.write_text(to_yaml(make(train={"save_every": 1})))
    return file


def start(*command: str, expiry_s: float = 1000) -> Process:
    paths = os.pathsep.join([str(ROOT), str(ROOT / "platform")])
    environment = {**os.environ, "PYTHONPATH": paths, "LONGSPAN_LEASE_EXPIRY_S": str(expiry_s)}
    return subprocess.Popen(
        [sys.executable, "-m", *command],
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def halted(recipe: Path, step: int, expiry_s: float = 1000) -> Process:
    """A driver that stands still in the middle of its run."""
    first = start("tests.launch.halting_run", str(step), "train", str(recipe), expiry_s=expiry_s)
    _, status = os.waitpid(first.pid, os.WUNTRACED)
    assert os.WIFSTOPPED(status)
    return first


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def lines(text: str) -> list[str]:
    """What longspan says, without the libraries' warnings."""
    return [line for line in text.splitlines() if line.startswith("longspan:")]


def test_the_second_is_refused_and_the_first_finishes_untouched(recipe: Path, tmp_path: Path) -> None:
    first = halted(recipe, 3)
    before = contents(tmp_path / "run")
    second = start("longspan.cli", "train", str(recipe))
    _, errors = second.communicate()
    assert second.returncode == 2
    (line,) = lines(errors)
    assert f"{tmp_path / 'run'} is in use by 'longspan train {recipe}'" in line
    assert f"pid {first.pid})" in line
    assert "--take-over" in line
    assert "Traceback" not in errors
    assert contents(tmp_path / "run") == before
    first.send_signal(signal.SIGCONT)
    output, errors = first.communicate()
    assert first.returncode == 0, errors
    assert "6 steps" in output
    assert [metrics["step"] for metrics in read_metrics(str(tmp_path / "run"))] == [1, 2, 3, 4, 5, 6]
    assert storage.read_json(tmp_path / "run" / "summary.json")["steps"] == 6
    assert not (tmp_path / "run" / ".longspan-lease").exists()


def test_who_is_taken_over_writes_nothing_more(recipe: Path, tmp_path: Path) -> None:
    first = halted(recipe, 3, expiry_s=4)  # a quarter of which is waited for
    second = start("longspan.cli", "train", str(recipe), "--take-over")
    output, errors = second.communicate()
    assert second.returncode == 0, errors
    assert "6 steps" in output
    before = contents(tmp_path / "run")
    first.send_signal(signal.SIGCONT)
    _, errors = first.communicate()
    assert first.returncode == 1
    (line,) = lines(errors)
    assert f"{tmp_path / 'run'} was taken over, by one that has ended since" in line
    assert "Traceback" not in errors
    assert contents(tmp_path / "run") == before
    assert [metrics["step"] for metrics in read_metrics(str(tmp_path / "run"))] == [1, 2, 3, 4, 5, 6]
