"""The driver's view of a run on Ray: it follows the lines that rank 0 writes."""

import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from longspan.launch import follow
from longspan.launch.follow import follow_metrics
from tests.launch.conftest import MakeRecipe


class Shown:
    """Stands for the progress bar; `seen` holds the steps it was told of."""

    def __init__(self) -> None:
        self.started: list[tuple[int, int, str]] = []
        self.seen: list[int] = []
        self.updated = threading.Event()

    @contextmanager
    def __call__(self, steps: int, first: int, name: str) -> Iterator[Any]:
        self.started.append((steps, first, name))
        yield self._update

    def _update(self, step: int, metrics: dict[str, float]) -> None:
        self.seen.append(step)
        self.updated.set()


@pytest.fixture
def shown(monkeypatch: pytest.MonkeyPatch) -> Shown:
    bar = Shown()
    monkeypatch.setattr(follow, "training_progress", bar)
    monkeypatch.setattr(follow, "_INTERVAL_S", 0.01)
    return bar


def line(step: int) -> str:
    return json.dumps({"step": step, "loss": 1.0}) + "\n"


def test_new_lines_are_shown_and_the_last_one_always(make: MakeRecipe, shown: Shown) -> None:
    recipe = make()
    path = Path(recipe.run_uri, "metrics.jsonl")
    path.parent.mkdir(parents=True)
    path.write_text(line(1) + line(2))
    with follow_metrics(recipe, enabled=True):
        for _ in range(500):
            if shown.started:
                break
            threading.Event().wait(0.01)
        with path.open("a") as handle:
            handle.write(line(3))
            handle.flush()
            assert shown.updated.wait(10)
            handle.write(line(4) + line(5) + '{"step": 6, "lo')
    assert shown.started == [(6, 2, "tiny")]
    assert shown.seen[0] == 3
    assert shown.seen[-1] == 5, "neither the torn line nor an old one"
    assert shown.seen == sorted(set(shown.seen))


def test_a_run_without_lines_yet(make: MakeRecipe, shown: Shown) -> None:
    with follow_metrics(make(), enabled=True):
        pass
    assert shown.started == [(6, 0, "tiny")]
    assert shown.seen == []


def test_lines_that_do_not_parse_are_passed_over(make: MakeRecipe, shown: Shown) -> None:
    recipe = make()
    path = Path(recipe.run_uri, "metrics.jsonl")
    path.parent.mkdir(parents=True)
    path.write_bytes(b"x" * 9000 + b"\n" + line(4).encode() + b"\x00\xff\n")
    with follow_metrics(recipe, enabled=True):
        pass
    assert shown.started == [(6, 4, "tiny")]


@pytest.mark.parametrize(("enabled", "output"), [(False, None), (True, "s3://bucket/run")])
def test_nothing_is_shown_where_there_is_nothing_to_follow(
    make: MakeRecipe, shown: Shown, enabled: bool, output: str | None
) -> None:
    recipe = make(output=output) if output else make()
    with follow_metrics(recipe, enabled):
        pass
    assert shown.started == []


def test_an_error_of_the_block_is_its_own_and_ends_the_thread(make: MakeRecipe, shown: Shown) -> None:
    with pytest.raises(KeyError, match="mine"):
        with follow_metrics(make(), enabled=True):
            raise KeyError("mine")
    assert "longspan-progress" not in [thread.name for thread in threading.enumerate()]
