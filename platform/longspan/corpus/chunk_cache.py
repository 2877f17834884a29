"""The disk cache of a node: chunks of a corpus in object storage, kept so that its feed workers fetch each one once.

One file a chunk below $LONGSPAN_CACHE/chunks (or ~/.cache/longspan/chunks), by corpus and chunk number. Nothing in it
is believed: `reader` proves every chunk by its digest. A disk that is full or cannot be written costs speed, not the
run.
"""

import fcntl
import logging
import os
import secrets
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress

from longspan.storage.cache import cache_root

_logger = logging.getLogger(__name__)
_STRIPES = 4096
_FOLDER_FILES = 1000
_KEEP_SHARE = 0.9
_TEMPORARY = ".tmp"
_OLD_HALF_S = 3600


def chunk_root() -> str:
    """The folder of the chunks on this node."""
    return os.path.join(cache_root(), "chunks")


def chunk_bytes() -> int:
    """What the chunks of all corpora take on this node."""
    return sum(size for _, size, _ in _chunk_files(chunk_root()))


def clear_chunks() -> int:
    """Remove the chunks of all corpora; returns their bytes. Who reads one just now has it, and others fetch theirs
    again.
    """
    cache = ChunkCache("", 0)
    taken = chunk_bytes()
    if taken:
        cache.empty()
    return taken


def _chunk_files(root: str) -> list[tuple[int, int, str]]:
    """Time of the last use in nanoseconds, bytes and path of every file, half-written ones included."""
    files = []
    for folder, names, found in os.walk(root):
        if folder == root:
            names[:] = [name for name in names if name != "locks"]
        for name in found:
            with suppress(FileNotFoundError):
                status = os.stat(os.path.join(folder, name))
                files.append((status.st_mtime_ns, status.st_size, os.path.join(folder, name)))
    return files


class ChunkCache:
    """Chunks of one corpus on this node's disk. Safe in threads and between processes."""

    def __init__(self, fingerprint: str, disk_bytes: int) -> None:
        """
        Args:
            fingerprint: of the corpus' manifest.
            disk_bytes: what the cache may take on this node, all corpora together; chunks used longest ago go first.
        """
        self._root = chunk_root()
        self._folder = os.path.join(self._root, fingerprint)
        self._disk_bytes = disk_bytes
        self._is_broken = False

    def read(self, number: int) -> bytes | None:
        """Content of the chunk as it is on disk, None if it is not there."""
        path = self._path(number)
        try:
            with open(path, "rb") as file:
                data = file.read()
            os.utime(path)
        except FileNotFoundError:
            return None
        except OSError as error:
            self._give_up(error)
            return None
        return data

    def write(self, number: int, data: bytes) -> None:
        """Keep the chunk. Where the disk does not allow it, says so once and keeps none from then on."""
        if self._is_broken or len(data) > self._disk_bytes:
            return
        path = self._path(number)
        temporary = f"{path}.{secrets.token_hex(6)}{_TEMPORARY}"
        try:
            self._make_room(len(data))
            os.makedirs(os.path.dirname(path), mode=0o700, exist_ok=True)
            # Not flushed to the disk: after a crash the digest finds a file that is not whole.
            with open(temporary, "wb") as file:
                file.write(data)
            os.replace(temporary, path)
        except OSError as error:
            with suppress(OSError):
                os.unlink(temporary)
            if not isinstance(error, FileNotFoundError):  # another process made room just now
                self._give_up(error)

    def remove(self, number: int) -> None:
        """Forget the chunk: what is on disk is not what it should be."""
        with suppress(OSError):
            os.unlink(self._path(number))

    @contextmanager
    def claim(self, numbers: Iterable[int], wait: bool = False) -> Iterator[list[int]]:
        """Those of the chunks that nobody else on this node is fetching (with `wait`: all, once nobody is).

        They are the caller's to fetch until the block ends. Wait for one chunk at a time, and hold no others meanwhile.
        """
        held: dict[int, int] = {}
        claimed = []
        try:
            for number in numbers:
                stripe = number % _STRIPES
                if stripe not in held:
                    descriptor = self._lock(f"lock-{stripe:04d}", wait)
                    if descriptor is None:
                        continue
                    held[stripe] = descriptor
                claimed.append(number)
            yield claimed
        finally:
            for descriptor in held.values():
                if descriptor >= 0:
                    os.close(descriptor)  # which also unlocks

    def empty(self) -> None:
        """Remove the chunks of all corpora."""
        descriptor = self._lock("lock-usage", wait=True)
        if descriptor is not None and descriptor >= 0:
            try:
                os.pwrite(descriptor, f"{self._shrink(-1):<31d}\n".encode(), 0)
            finally:
                os.close(descriptor)

    def _path(self, number: int) -> str:
        return os.path.join(self._folder, str(number // _FOLDER_FILES), str(number))

    def _lock(self, name: str, wait: bool) -> int | None:
        """A descriptor that holds the lock until it is closed; None if another has it, -1 if locks cannot be had."""
        if self._is_broken:
            return -1
        descriptor = -1
        try:
            folder = os.path.join(self._root, "locks")
            for path in (self._root, folder):
                os.makedirs(path, mode=0o700, exist_ok=True)
            descriptor = os.open(os.path.join(folder, name), os.O_RDWR | os.O_CREAT, 0o600)
            fcntl.flock(descriptor, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
        except OSError as error:
            if descriptor >= 0:
                os.close(descriptor)
            if isinstance(error, BlockingIOError):
                return None
            self._give_up(error)
            return -1
        return descriptor

    def _make_room(self, num_bytes: int) -> None:
        """Count `num_bytes` as taken, after removing the chunks used longest ago if they would be too many.

        What is taken is counted before it is written and never less than it is, so the limit holds for all processes
        together without looking at every file each time.
        """
        descriptor = self._lock("lock-usage", wait=True)
        if descriptor is None or descriptor < 0:
            return
        try:
            text = os.pread(descriptor, 32, 0).decode("ascii", "replace").strip()
            taken = (int(text) if text.isdigit() else self._shrink(self._disk_bytes)) + num_bytes
            if taken > self._disk_bytes:
                taken = self._shrink(int(self._disk_bytes * _KEEP_SHARE) - num_bytes) + num_bytes
            os.pwrite(descriptor, f"{taken:<31d}\n".encode(), 0)
        finally:
            os.close(descriptor)

    def _shrink(self, limit: int) -> int:
        """Remove files, the ones used longest ago first, until at most `limit` bytes are left; returns what is left."""
        files = _chunk_files(self._root)
        # Left by processes that were killed: those alive write a chunk within seconds.
        old = time.time_ns() - _OLD_HALF_S * 10**9
        halves = [path for used, _, path in files if path.endswith(_TEMPORARY) and used < old]
        for path in halves:
            with suppress(FileNotFoundError):
                os.unlink(path)
        files = [file for file in files if file[2] not in halves]
        total = sum(size for _, size, _ in files)
        for _, size, path in sorted(files):
            if total <= limit:
                break
            with suppress(FileNotFoundError):
                os.unlink(path)
            total -= size
        return total

    def _give_up(self, error: OSError) -> None:
        if not self._is_broken:
            self._is_broken = True
            _logger.warning(
                "%s: the chunk cache cannot be used (%s); chunks are fetched from the store each time they are needed."
                " Free some space or set LONGSPAN_CACHE to another folder",
                self._root,
                error.strerror or error,
            )
