"""The node's cache of remote files and folders, for libraries that only open paths: bounded, and shared by processes.

Below $LONGSPAN_CACHE (or ~/.cache/longspan) each copy has a folder, named by a digest of what it is a copy of, and a
lock file beside it. Whoever uses a copy holds its lock, shared, until the process ends or lets it go; what nobody holds
may be removed, the copies used longest ago first, when another would go beyond $LONGSPAN_CACHE_BYTES. Halves that a
killed process has left go with the next download. (The chunks of corpora have a limit of their own:
`corpus.chunk_cache`.)
"""

import fcntl
import os
import re
import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from longspan.errors import ConfigError
from longspan.storage import local
from longspan.storage.digest import digest_bytes
from longspan.storage.objects import local_path
from longspan.uri import Uri

FOLDER_VARIABLE, LIMIT_VARIABLE = "LONGSPAN_CACHE", "LONGSPAN_CACHE_BYTES"
DEFAULT_BYTES = 256 * 2**30
_WAIT_S = 0.01
_HOME = re.compile(r"[0-9a-f]{32}")
_held: dict[tuple[int, str], int] = {}
"""By process and folder of a copy: the descriptor that holds its lock. A forked child holds what its parent did."""


@dataclass(frozen=True)
class Copy:
    """One copy in the cache: what it is of, its size, when it was used last (seconds since 1970), whether it is in
    use.
    """

    origin: str
    folder: str
    num_bytes: int
    last_used: float
    in_use: bool


def cache_root(cache_dir: Uri | None = None) -> str:
    """The folder of the cache on this node."""
    default = os.environ.get(FOLDER_VARIABLE) or os.path.join("~", ".cache", "longspan")
    return local_path(default if cache_dir is None else cache_dir)


def limit_bytes() -> int:
    """What copies may take together. Raises ConfigError for a value of $LONGSPAN_CACHE_BYTES that is no size."""
    text = os.environ.get(LIMIT_VARIABLE) or str(DEFAULT_BYTES)
    if not text.isdecimal():
        raise ConfigError(f"{LIMIT_VARIABLE}={text!r} is not a size; write whole bytes, 0 or more, or unset it")
    return int(text)


def cached(cache_dir: Uri | None, key: str, name: str, num_bytes: int, fetch: Callable[[str], None]) -> Path:
    """The copy of `key`, called `name`, made by `fetch(path)` unless it is there; this process uses it from now on.

    Args:
        key: all that decides the content; its first line says what it is a copy of.
        num_bytes: how much `fetch` will write.
    """
    root = cache_root(cache_dir)
    home = os.path.join(root, digest_bytes(key.encode()).rpartition(":")[2])
    target = Path(home, name)
    with local.local_errors("write", root):
        os.makedirs(root, mode=0o700, exist_ok=True)  # what is loaded from here is trusted: nobody else may write
        if (os.getpid(), home) in _held and target.exists():
            os.utime(f"{home}.lock")
            return target
        while True:
            # Waits for whoever makes the copy just now; others that use it hold the lock in the same way.
            descriptor = _lock(f"{home}.lock", fcntl.LOCK_SH)
            if target.exists():
                _hold(home, descriptor)
                return target
            os.close(descriptor)
            descriptor = _lock(f"{home}.lock", fcntl.LOCK_EX | fcntl.LOCK_NB)
            if descriptor < 0:  # another is before us, or looks whether the copy is there
                time.sleep(_WAIT_S)
                continue
            try:
                if not target.exists():
                    os.pwrite(descriptor, key.partition("\n")[0].encode(), 0)
                    _make_room(root, num_bytes)
                    _make(home, name, fetch)
            finally:
                os.close(descriptor)


def let_go(path: Path) -> None:
    """This process uses the copy no more; the last one to let go removes it. For what is read once, as a checkpoint."""
    home = str(path.parent)
    descriptor = _held.pop((os.getpid(), home), None)
    if descriptor is not None:
        os.close(descriptor)
        with suppress(OSError):
            _remove(home)


def copies(cache_dir: Uri | None = None) -> list[Copy]:
    """What the cache holds, halves of downloads included, the one used longest ago first."""
    root = cache_root(cache_dir)
    homes = {match.group() for entry in _names(root) if (match := _HOME.match(entry))}
    found = [_describe(os.path.join(root, home)) for home in homes]
    return sorted((copy for copy in found if copy is not None), key=lambda copy: (copy.last_used, copy.folder))


def clear(cache_dir: Uri | None = None) -> tuple[list[Copy], list[Copy]]:
    """Remove every copy that nobody uses; returns those removed and those left."""
    removed: list[Copy] = []
    left: list[Copy] = []
    for copy in copies(cache_dir):
        (removed if _remove(copy.folder) else left).append(copy)
    return removed, left


def _hold(home: str, descriptor: int) -> None:
    os.utime(f"{home}.lock")
    before = _held.pop((os.getpid(), home), None)
    _held[os.getpid(), home] = descriptor
    if before is not None:
        os.close(before)


def _make(home: str, name: str, fetch: Callable[[str], None]) -> None:
    part = f"{home}.part"
    shutil.rmtree(part, ignore_errors=True)  # left by a process that was killed; nobody else holds the lock
    os.makedirs(part)
    fetch(os.path.join(part, name))
    os.replace(part, home)


def _make_room(root: str, num_bytes: int) -> None:
    """Remove halves of dead processes, and the copies used longest ago until `num_bytes` fit. What is in use stays,
    also where they do not fit then.
    """
    limit = limit_bytes()
    with _locked(os.path.join(root, "room.lock")):
        there = copies(root)
        total = sum(copy.num_bytes for copy in there)
        for copy in there:
            is_half = not os.path.isdir(copy.folder)
            if (is_half or total + num_bytes > limit) and _remove(copy.folder):
                total -= copy.num_bytes


def _remove(home: str) -> bool:
    """Remove a copy with its lock file, unless somebody uses it or makes it just now."""
    descriptor = _lock(f"{home}.lock", fcntl.LOCK_EX | fcntl.LOCK_NB)
    if descriptor < 0:
        return False
    try:
        # Renamed first: half of a folder is no copy.
        if os.path.isdir(home):
            shutil.rmtree(f"{home}.part", ignore_errors=True)
            os.replace(home, f"{home}.part")
        shutil.rmtree(f"{home}.part", ignore_errors=True)
        os.unlink(f"{home}.lock")
    finally:
        os.close(descriptor)
    return True


def _describe(home: str) -> Copy | None:
    parts = [path for path in (home, f"{home}.part") if os.path.isdir(path)]
    if not parts:
        return None
    num_bytes = sum(sum(local.list_sizes(path, recursive=True).values()) for path in parts)
    origin, used = "", 0.0
    with suppress(FileNotFoundError):
        origin = Path(f"{home}.lock").read_text(encoding="utf-8", errors="replace")
        used = os.stat(f"{home}.lock").st_mtime
    descriptor = _lock(f"{home}.lock", fcntl.LOCK_EX | fcntl.LOCK_NB)
    if descriptor >= 0:
        os.close(descriptor)
    return Copy(origin, home, num_bytes, used, descriptor < 0)


def _names(root: str) -> list[str]:
    try:
        return os.listdir(root)
    except FileNotFoundError:
        return []


def _lock(path: str, how: int) -> int:
    """A descriptor that holds the lock of the file that is at `path`; -1 where it is another's and not waited for."""
    while True:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
        try:
            fcntl.flock(descriptor, how)
            # Whoever held it may have removed the file: then this is the lock of nothing.
            if os.path.samestat(os.fstat(descriptor), os.stat(path)):
                return descriptor
        except BlockingIOError:
            os.close(descriptor)
            return -1
        except FileNotFoundError:
            pass
        except BaseException:
            os.close(descriptor)
            raise
        os.close(descriptor)


@contextmanager
def _locked(path: str) -> Iterator[None]:
    descriptor = _lock(path, fcntl.LOCK_EX)
    try:
        yield
    finally:
        os.close(descriptor)
