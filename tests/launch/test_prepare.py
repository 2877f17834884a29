"""Preparation on this machine: what runs where, what is shown, and what is said when it is stopped."""

import io
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml
from typer.testing import CliRunner

from longspan.cli import app
from longspan.config.corpus import Corpus
from longspan.corpus.prepare import Status
from longspan.corpus.units import Unit
from longspan.corpus.work import UnitResult
from longspan.launch import prepare as module
from longspan.launch.prepare import choose_runner, prepare_corpus, unit_progress


@pytest.fixture
def corpus(tmp_path: Path) -> Corpus:
    (tmp_path / "texts").mkdir()
    for number in range(6):
        text = "".join(f"line {line}: the {line * 7 % 13} grey geese of {number}.\n" for line in range(60))
        (tmp_path / "texts" / f"{number}.txt").write_text(text)
    values = {
        "output": str(tmp_path / "out"),
        "tokenizer": {"train_vocab_size": 300},
        "sources": [{"type": "text", "name": "texts", "paths": [str(tmp_path / "texts")]}],
        "unit_bytes": 2500,
    }
    (tmp_path / "corpus.yaml").write_text(yaml.safe_dump(values))
    return Corpus.model_validate(values)


def units(*sizes: int) -> list[Unit]:
    return [Unit("a", f"a-{number:05d}", (), (0, 0), size) for number, size in enumerate(sizes)]


@pytest.mark.parametrize(
    ("workers", "address", "environment", "sizes", "on_ray"),
    [
        (0, None, None, [1 << 20, 63 << 20], False),
        (0, None, None, [1 << 20, (63 << 20) + 1], True),
        (1, None, None, [1 << 30], False),
        (2, None, None, [1], True),
        (0, "there:6379", None, [1], True),
        (0, None, "there:6379", [1], True),
        (2, "there:6379", None, [], False),
    ],
)
def test_ray_is_for_much_input_or_for_who_asks(
    monkeypatch: pytest.MonkeyPatch,
    workers: int,
    address: str | None,
    environment: str | None,
    sizes: list[int],
    on_ray: bool,
) -> None:
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    if environment is not None:
        monkeypatch.setenv("RAY_ADDRESS", environment)
    ran: list[tuple[str, int]] = []

    def count(do_unit: Callable[[Unit], UnitResult], given: list[Unit], workers: int) -> list[UnitResult]:
        ran.append(("ray", workers))
        return [do_unit(unit) for unit in given]

    monkeypatch.setattr(module, "_join", lambda workers, address, say: ran.append(("join", workers)))
    monkeypatch.setattr(module, "run_on_ray", count)
    results = choose_runner(workers, address, print)(lambda unit: UnitResult(1, 2, unit.num_bytes), units(*sizes))
    assert [result.num_bytes for result in results] == sizes
    assert ran == ([("join", workers), ("ray", workers)] if on_ray else [])


def test_little_text_is_prepared_here_with_plain_lines(corpus: Corpus, capsys: pytest.CaptureFixture[str]) -> None:
    manifest = prepare_corpus(corpus)
    assert len(manifest.shards) == 6
    tokens = f"{manifest.sources['texts'].tokens:,}"
    shown = capsys.readouterr()
    assert shown.out == ""
    assert shown.err.splitlines()[0] == "tokenizer: training 300 byte-level BPE tokens"
    assert shown.err.splitlines()[-1] == f"texts: 6 documents, {tokens} tokens, 6 shards"


def test_plain_lines_come_now_and_then(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = [100.0]
    monkeypatch.setattr(module.time, "monotonic", lambda: clock[0])
    out = io.StringIO()
    with unit_progress(out) as (say, watch):
        say("first")
        watch(Status(2, 9, 4_000_000, 9_000_000))
        for units, seconds in ((3, 8), (4, 8), (5, 1), (6, 15)):
            clock[0] += seconds
            watch(Status(units, 9, units * 2_000_000, 9_000_000, units * 100, units * 400_000))
    assert out.getvalue().splitlines() == [
        "first",
        "4/9 units | 400 documents, 1.6M tokens, 100k tokens/s, 0.2 MB/s",
        "6/9 units | 600 documents, 2.4M tokens, 75k tokens/s, 0.2 MB/s",
    ]


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_a_terminal_gets_a_bar(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", "140")
    out = Terminal()
    with unit_progress(out) as (say, watch):
        say("a line [with] brackets")
        watch(Status(0, 4, 0, 1000))
        watch(Status(4, 4, 1000, 1000, 1234, 56_789))
    assert "a line [with] brackets" in out.getvalue()
    assert "4/4 units  1.23k documents, 56.8k tokens" in out.getvalue()


def test_an_interrupted_command_says_how_to_go_on(
    corpus: Corpus, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    done: list[str] = []

    def stop_at_the_third(do_unit: Callable[[Unit], UnitResult], given: list[Unit]) -> list[UnitResult]:
        for unit in given:
            if len(done) == 2:
                raise KeyboardInterrupt
            done.append(unit.name)
            do_unit(unit)
        return []

    with monkeypatch.context() as patch:
        patch.setattr(module, "in_order", stop_at_the_third)
        ended = CliRunner().invoke(app, ["prepare", str(tmp_path / "corpus.yaml")])
    assert ended.exit_code == 130
    assert ended.stderr.splitlines()[-1] == (
        "longspan: interrupted; the same command resumes from the units that are done"
    )
    ended = CliRunner().invoke(app, ["prepare", str(tmp_path / "corpus.yaml")])
    assert ended.exit_code == 0
    assert f"{corpus.output}: 2 of 6 units are done already, going on with the rest" in ended.stderr
    assert "6 documents" in ended.stdout
