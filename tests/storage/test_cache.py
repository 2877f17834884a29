"""The node's cache: within its limit, never at the cost of a copy in use, and nothing of dead processes stays."""

import json
import multiprocessing
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from longspan.errors import ConfigError
from longspan.storage import cache
from longspan.storage.cache import cached, clear, copies, let_go

SIZE = 1000


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    monkeypatch.setenv("LONGSPAN_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("LONGSPAN_CACHE_BYTES", str(3 * SIZE))
    yield tmp_path / "cache"
    forget()


def forget() -> None:
    """As if this process had ended."""
    for descriptor in cache._held.values():
        os.close(descriptor)
    cache._held.clear()


def get(number: int, fetched: list[int] | None = None) -> Path:
    def fetch(path: str) -> None:
        if fetched is not None:
            fetched.append(number)
        Path(path).write_bytes(bytes([number]) * SIZE)

    return cached(None, f"s3://bucket/{number}\netag", "file", SIZE, fetch)


def origins() -> list[str]:
    return sorted(copy.origin.rpartition("/")[2] for copy in copies())


def test_what_was_used_longest_ago_goes_first() -> None:
    for number in range(3):
        path = get(number)
        os.utime(f"{path.parent}.lock", (number, number))
    get(0)  # again, so 1 is the oldest now
    forget()
    get(3)
    assert origins() == ["0", "2", "3"]
    fetched: list[int] = []
    get(1, fetched)
    assert (fetched, origins()) == ([1], ["0", "1", "3"])


def test_what_is_in_use_stays_also_beyond_the_limit() -> None:
    paths = [get(number) for number in range(5)]
    assert [path.read_bytes()[0] for path in paths] == [0, 1, 2, 3, 4]
    assert all(copy.in_use for copy in copies())
    assert clear() == ([], copies())
    forget()
    get(5)
    assert len(origins()) <= 3


HOLDER = """
import sys, time
from pathlib import Path
from longspan.storage.cache import cached
path = cached(None, "s3://bucket/held\\netag", "file", 1000, lambda path: Path(path).write_bytes(b"h" * 1000))
print(path, flush=True)
sys.stdin.read()
"""


def test_what_another_process_uses_stays_until_it_ends_or_is_killed() -> None:
    holder = subprocess.Popen([sys.executable, "-c", HOLDER], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    try:
        assert holder.stdout is not None
        path = Path(holder.stdout.readline().strip())
        for number in range(6):
            get(number)
            forget()
        assert path.exists()
        assert "held" in origins()
        assert path.read_bytes() == b"h" * 1000
    finally:
        holder.kill()
        holder.communicate()
    clear()
    assert origins() == []


def test_halves_of_dead_processes_go_with_the_next_download(folder: Path) -> None:
    def killed(path: str) -> None:
        Path(path).write_bytes(b"half")
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        cached(None, "s3://bucket/half\n", "file", SIZE, killed)
    assert [path.read_bytes() for path in folder.glob("*.part/file")] == [b"half"]
    get(1)
    assert list(folder.glob("*.part")) == []
    assert sorted(path.name for path in folder.iterdir() if path.name != "room.lock") == sorted(
        [get(1).parent.name, f"{get(1).parent.name}.lock"]
    )


def test_a_copy_that_is_read_once_goes_with_its_last_reader() -> None:
    path = get(1)
    other = cache._lock(f"{path.parent}.lock", 1)  # LOCK_SH, as another process' would be
    let_go(path)
    assert path.exists()
    os.close(other)
    get(1)
    let_go(path)
    assert not path.exists()
    assert origins() == []


def test_clearing_leaves_an_empty_folder_and_a_cache_that_works(folder: Path) -> None:
    for number in range(3):
        get(number)
    forget()
    removed, left = clear()
    assert (len(removed), left) == (3, [])
    assert [path.name for path in folder.iterdir()] == ["room.lock"]
    assert get(0).read_bytes() == bytes(SIZE)


def hammer(seed: int) -> int:
    """Copies in random order, each whole whenever it was handed out."""
    import random

    draw = random.Random(seed)
    for _ in range(60):
        number = draw.randrange(8)
        path = get(number)
        assert path.read_bytes() == bytes([number]) * SIZE
        if draw.random() < 0.5:
            let_go(path)
        if draw.random() < 0.2:
            forget()
        if draw.random() < 0.1:
            clear()
    return len(copies())


def test_many_processes_at_once_never_meet_half_a_copy() -> None:
    with multiprocessing.get_context("spawn").Pool(4) as pool:
        assert len(pool.map(hammer, range(8))) == 8
    clear()
    assert origins() == []


@pytest.mark.parametrize("text", ["-1", "10GB", "1.5", "many"])
def test_a_limit_that_is_no_size_is_said(monkeypatch: pytest.MonkeyPatch, text: str) -> None:
    monkeypatch.setenv("LONGSPAN_CACHE_BYTES", text)
    with pytest.raises(
        ConfigError, match=r"^LONGSPAN_CACHE_BYTES='.*' is not a size; write whole bytes, 0 or more, or un"
    ):
        get(1)


def test_the_command_shows_and_clears(monkeypatch: pytest.MonkeyPatch) -> None:
    from typer.testing import CliRunner

    from longspan.cli import app
    from longspan.corpus.chunk_cache import ChunkCache

    monkeypatch.setenv("COLUMNS", "200")
    run: Callable[..., Any] = lambda *given: CliRunner().invoke(app, ["cache", *given])  # noqa: E731
    assert "empty" in run().stdout
    get(1)
    get(2)
    let_go(get(2))
    get(3)
    forget()
    held = get(3)
    chunks = ChunkCache("corpus", 10_000)
    chunks.write(7, bytes(500))
    shown = run().stdout
    assert "s3://bucket/1" in shown
    assert "s3://bucket/2" not in shown
    assert "in use" in shown
    assert "chunks of corpora" in shown
    cleared = run("--clear")
    assert cleared.exit_code == 0
    assert "1 copy and 500 bytes of chunks removed" in cleared.stdout
    assert "1 in use, left" in cleared.stdout
    assert held.exists()
    assert chunks.read(7) is None
    chunks.write(8, bytes(500))
    assert chunks.read(8) == bytes(500)
    listed = json.loads(run("--json").stdout)
    assert [copy["origin"] for copy in listed["copies"]] == ["s3://bucket/3"]
    assert (listed["limit_bytes"], listed["chunk_bytes"]) == (3 * SIZE, 500)
