"""Files on this machine (or a shared mount): atomic writes, listings and deletions, with errors that name the path.

The local half of `objects.py` and `trees.py`; `s3.py` is the other half and means the same by every operation.
"""

import errno
import os
import secrets
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import BinaryIO

from longspan.errors import StorageError
from longspan.storage import guard
from longspan.storage.failures import NotFoundError, short_range
from longspan.uri import LEASE_FOLDER, Location, Uri

_UNFINISHED = (
    ".longspan-tmp"  # files being written; listings hide them, as a store hides an upload that is not complete
)


@contextmanager
def local_errors(verb: str, path: Uri) -> Iterator[None]:
    """Turn an OSError of the body into StorageError "cannot VERB PATH: ...", NotFoundError if the path is not there."""
    start = f"cannot {verb} {os.fspath(path)}"
    try:
        yield
    except FileNotFoundError as error:
        raise NotFoundError(f"{start}: it does not exist") from error
    except IsADirectoryError as error:
        raise StorageError(f"{start}: it is a folder, not a file") from error
    except (NotADirectoryError, FileExistsError) as error:
        kind = StorageError if verb == "write" else NotFoundError
        raise kind(f"{start}: a part of the path is a file, not a folder") from error
    except PermissionError as error:
        raise StorageError(f"{start}: permission denied for user id {os.geteuid()}") from error
    except OSError as error:
        full = error.errno in (errno.ENOSPC, errno.EDQUOT)
        mend = "; free some space or choose another folder" if full else ""
        raise StorageError(f"{start}: {error.strerror or error}{mend}") from error


def open_file(path: str) -> BinaryIO:
    """The file, opened for reading. Only the opening is guarded by `local_errors`."""
    with local_errors("read", path):
        return open(path, "rb")


def read(path: str, start: int, end: int | None) -> bytes:
    """Bytes [start, end) of the file; fewer where it ends earlier."""
    with open_file(path) as file, local_errors("read", path):
        file.seek(start)
        return file.read() if end is None else file.read(end - start)


def read_ranges(path: str, spans: Sequence[tuple[int, int]]) -> list[bytes]:
    """Bytes [start, end) of the file for every span, all of the file that was opened. StorageError if one is short."""
    with open_file(path) as file, local_errors("read", path):
        return [_pread(file.fileno(), path, *span) for span in spans]


def _pread(descriptor: int, path: str, start: int, end: int) -> bytes:
    pieces, offset = [], start
    while piece := os.pread(descriptor, end - offset, offset):  # one call gives 2 GiB at most
        pieces.append(piece)
        offset += len(piece)
    if offset != end:
        raise short_range(Location(None, path), start, end, offset - start)
    return b"".join(pieces)


@contextmanager
def replacing(path: Uri) -> Iterator[str]:
    """A temporary name beside `path` for the body to write; on success it is flushed and becomes `path` in one step.

    A reader sees the old content or the new, never a part of it, also after a crash. Missing folders are made.
    """
    folder = os.path.dirname(os.path.abspath(path))
    guard.check(Location(None, os.path.abspath(path)))
    temporary = os.path.join(folder, f".{secrets.token_hex(8)}{_UNFINISHED}")
    with local_errors("write", path):
        os.makedirs(folder, exist_ok=True)
        try:
            yield temporary
            _flush(temporary)
            guard.check(Location(None, os.path.abspath(path)))  # the body may have taken hours
            os.replace(temporary, path)
            _flush(folder)
        except BaseException:
            with suppress(OSError):
                os.unlink(temporary)
            raise


def write(path: str, data: bytes | bytearray | memoryview) -> None:
    """Make `data` the content of `path`, atomically."""
    with replacing(path) as temporary, open(temporary, "wb") as file:
        file.write(data)


def try_to_write(folder: str) -> None:
    """Make and remove a file in the folder. Raises OSError: permissions alone do not tell (mounts, quotas, root)."""
    path = os.path.join(folder, f".{secrets.token_hex(8)}{_UNFINISHED}")
    os.close(os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600))
    with suppress(FileNotFoundError):  # another process clears up here
        os.unlink(path)


def copy(source: str, target: str) -> None:
    """Write the content of `source` to `target`, not atomically: for the body of `replacing`."""
    with open_file(source) as reader, local_errors("write", target), open(target, "wb") as writer:
        shutil.copyfileobj(reader, writer, 1 << 20)


def _flush(path: str) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.ENOTSUP):  # some network file systems cannot flush a folder
            raise
    finally:
        os.close(descriptor)


def walk(path: str) -> Iterator[str]:
    """Relative names ("/" between folders) of all files below `path`; nothing if it is not a folder.

    Links are followed, but no folder is entered twice. Raises StorageError for a link to nothing.
    """
    yield from _walk(path, "", set())


def _walk(path: str, prefix: str, seen: set[str]) -> Iterator[str]:
    real = os.path.realpath(path)
    if real in seen:
        return
    seen.add(real)
    for entry in _scan(path):
        if entry.is_dir():
            yield from _walk(entry.path, f"{prefix}{entry.name}/", seen)
        elif _is_finished_file(entry):
            yield prefix + entry.name
        elif entry.is_symlink() and not os.path.exists(entry.path):
            raise StorageError(f"cannot list {path}: {entry.name} is a link to nothing; mend or remove it")


def _scan(path: str) -> list[os.DirEntry[str]]:
    try:
        with local_errors("list", path), os.scandir(path) as entries:
            return [entry for entry in entries if entry.name != LEASE_FOLDER]
    except NotFoundError:  # not there, a file, or removed since its name was read
        return []


def list_folders(path: str) -> list[str]:
    """Sorted names of the folders directly in `path`."""
    return sorted(entry.name for entry in _scan(path) if entry.is_dir())


def list_sizes(path: str, *, recursive: bool) -> dict[str, int]:
    """Bytes in each file below `path`, or directly in it, by name; without those removed since they were listed."""
    names = walk(path) if recursive else (entry.name for entry in _scan(path) if _is_finished_file(entry))
    sizes = {}
    for name in names:
        with suppress(NotFoundError), local_errors("list", path):
            sizes[name] = os.stat(os.path.join(path, name)).st_size
    return sizes


def _is_finished_file(entry: os.DirEntry[str]) -> bool:
    return entry.is_file() and not entry.name.endswith(_UNFINISHED)


def delete(path: str) -> None:
    """Remove the file; not there is fine."""
    guard.check(Location(None, os.path.abspath(path)))
    with suppress(NotFoundError), local_errors("delete", path):
        os.unlink(path)


def clear_unfinished(path: str) -> None:
    """Remove what writers that were killed have left in the folder and below."""
    for folder, _, names in os.walk(path):
        for name in names:
            if name.endswith(_UNFINISHED):
                delete(os.path.join(folder, name))


def delete_tree(path: str) -> None:
    """Remove the folder and all in it; not there is fine. Raises StorageError for the root and the home folder."""
    if os.path.realpath(path) in ("/", os.path.realpath(os.path.expanduser("~"))):
        raise StorageError(f"cannot delete {path}: refusing to delete the root or the home folder")
    guard.check(Location(None, os.path.abspath(path)))
    with suppress(NotFoundError), local_errors("delete", path):
        shutil.rmtree(path)
