"""Every mistake at the command line: exit code 2, one line on stderr that names the place and the mend, nothing made.

The tables are in the modules beside this one. Commands run in this process, through the program's own entry.
"""

import os
import sys
from pathlib import Path

import pytest

from longspan.cli import main
from tests.doors.commands import COMMANDS
from tests.doors.corpora import CORPORA
from tests.doors.files import FILES, OVERRIDES
from tests.doors.recipes import RECIPES
from tests.doors.runs import RUNS

CASES = [
    *((["recipe", "show", "plain.yaml", "--set", change], f"plain.yaml: {text}") for change, text in RECIPES),
    *((["recipe", "show", "plain.yaml", "--set", change], f"longspan: --set {change}: ") for change, _ in OVERRIDES),
    *((["recipe", "show", "plain.yaml", "--set", change], text) for change, text in OVERRIDES),
    *((["prepare", "plain-corpus.yaml", "--set", change], f"plain-corpus.yaml: {text}") for change, text in CORPORA),
    *((words.split(" "), text) for words, text in COMMANDS),
    *(([command, f"{file}.yaml", *sets], text) for command, file, sets, text in RUNS),
]


def refused(words: list[str], monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> str:
    """What `longspan WORDS` says on stderr: one line; it ends with code 2 and has printed nothing."""
    monkeypatch.setattr(sys, "argv", ["longspan", *words])
    with pytest.raises(SystemExit) as ended:
        main()
    printed, said = capfd.readouterr()
    assert (ended.value.code, printed) == (2, ""), said
    assert said.startswith("longspan: "), said
    assert said.count("\n") == 1, said
    assert "Traceback" not in said
    return said


def tree(folder: Path) -> set[str]:
    return {str(path.relative_to(folder)) for path in folder.rglob("*")}


@pytest.fixture(autouse=True)
def offline(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)  # a name may be one of the hub


def test_there_are_many() -> None:
    assert len(CASES) > 300


@pytest.mark.parametrize(("words", "text"), CASES, ids=[" ".join(words)[:120] for words, _ in CASES])
def test_a_mistake_is_one_line(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str], words: list[str], text: str
) -> None:
    monkeypatch.chdir(folder)
    before = tree(folder)
    said = refused(words, monkeypatch, capfd)
    assert text in said
    assert tree(folder) == before, "it left something"


@pytest.mark.parametrize(("content", "text"), FILES, ids=range(len(FILES)))
@pytest.mark.parametrize("command", ["recipe show", "train"])
def test_a_wrong_file_is_one_line(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
    command: str,
    content: str | bytes,
    text: str,
) -> None:
    path = tmp_path / "recipe.yaml"
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    said = refused([*command.split(), str(path)], monkeypatch, capfd)
    assert said.startswith(f"longspan: {path}: ")
    assert text in said
    assert os.listdir(tmp_path) == ["recipe.yaml"]
