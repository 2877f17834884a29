"""The node's disk cache: bounded, shared between processes, and never in the way."""

import logging
import os
import resource
import threading
from pathlib import Path

import pytest

from longspan.corpus.chunk_cache import ChunkCache


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("LONGSPAN_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def bytes_kept(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file() and "lock" not in path.name)


def test_gives_back_what_was_written_by_corpus_and_number() -> None:
    cache = ChunkCache("a", 10_000)
    assert cache.read(7) is None
    cache.write(7, b"seven")
    cache.write(7 + 4096, b"another")
    ChunkCache("b", 10_000).write(7, b"of b")
    assert ChunkCache("a", 10_000).read(7) == b"seven"
    assert cache.read(7 + 4096) == b"another"
    assert ChunkCache("b", 10_000).read(7) == b"of b"
    cache.remove(7)
    cache.remove(7)
    assert cache.read(7) is None


def test_only_the_user_may_write_there(folder: Path) -> None:
    ChunkCache("a", 10_000).write(7, b"seven")
    assert (folder / "chunks").stat().st_mode & 0o077 == 0


def test_takes_no_more_than_its_share_and_lets_go_of_what_was_used_longest_ago(folder: Path) -> None:
    caches = [ChunkCache(name, 10_000) for name in ("a", "b")]
    caches[0].write(0, bytes(1000))
    for number in range(1, 60):
        caches[number % 2].write(number, bytes(1000))
        assert bytes_kept(folder) <= 10_000
        # Used all the time; the others in order, in steps that every file system's clock resolves.
        assert caches[0].read(0) is not None
        for cache in caches:
            path = Path(cache._path(number))
            if path.exists():
                os.utime(path, (number, number))
    kept = [n for n in range(1, 60) if caches[n % 2].read(n) is not None]
    assert kept == list(range(kept[0], 60))
    assert len(kept) >= 7


def test_a_chunk_that_does_not_fit_is_not_kept(folder: Path) -> None:
    cache = ChunkCache("a", 1000)
    cache.write(1, bytes(600))
    cache.write(2, bytes(1001))
    assert (cache.read(1), cache.read(2)) == (bytes(600), None)


def test_a_lost_or_damaged_count_is_taken_anew(folder: Path) -> None:
    cache = ChunkCache("a", 5000)
    for number in range(4):
        cache.write(number, bytes(1000))
    for damage in (b"", b"nonsense", b"99999999"):
        (folder / "chunks/locks/lock-usage").write_bytes(damage)
        for number in range(10, 20):
            cache.write(number, bytes(1000))
            assert 1000 <= bytes_kept(folder) <= 5000


def test_a_chunk_is_claimed_by_one_at_a_time() -> None:
    one, two = ChunkCache("a", 1000), ChunkCache("a", 1000)
    with one.claim([1, 2, 1 + 4096]) as first:
        assert first == [1, 2, 1 + 4096]
        with two.claim([2, 3]) as second:
            assert second == [3]
        got: list[list[int]] = []

        def wait() -> None:
            with two.claim([2], wait=True) as claimed:
                got.append(claimed)

        waiting = threading.Thread(target=wait)
        waiting.start()
        waiting.join(0.05)
        assert waiting.is_alive()
    waiting.join()
    assert got == [[2]]


def test_a_folder_that_cannot_be_used_costs_one_warning(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "file").write_text("not a folder")
    monkeypatch.setenv("LONGSPAN_CACHE", str(tmp_path / "file"))
    cache = ChunkCache("a", 1000)
    with caplog.at_level(logging.WARNING):
        for number in range(3):
            assert cache.read(number) is None
            with cache.claim([number, 9]) as claimed:
                assert claimed == [number, 9]
            cache.write(number, b"x")
    assert len(caplog.records) == 1
    assert "the chunk cache cannot be used" in caplog.text


def test_a_disk_that_takes_no_more_costs_one_warning(folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    cache = ChunkCache("a", 10_000)
    cache.write(1, b"small")
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100, hard))  # longer files fail as they do on a full disk
    try:
        with caplog.at_level(logging.WARNING):
            cache.write(2, bytes(2000))
            cache.write(3, bytes(2000))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert len(caplog.records) == 1
    assert cache.read(1) == b"small"
    assert cache.read(2) is None
    assert bytes_kept(folder) == 5
