"""A directory that appears whole or not at all: written beside its place and renamed, or uploaded in order.

What `merge` writes its model into. Nothing opens a model directory without config.json, which goes last, so an upload
that is cut short is no model.
"""

import fcntl
import glob
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from longspan import storage
from longspan.errors import ConfigError, StorageError

_PARTIAL = ".partial"
Put = Callable[[str, Callable[[Path], None]], None]
"""`put(name, write)`: `write` makes the file at the path it is given, which becomes `name` of the directory."""


def check_free(output: str) -> None:
    """Raises ConfigError unless `output` (a local path or s3:// URI) is absent or an empty directory."""
    taken = storage.exists(output)
    if not taken and not storage.is_remote(output):
        path = Path(storage.absolute(output))
        taken = path.is_dir() and any(path.iterdir())
    if taken:
        raise ConfigError(f"output: {output} exists and is not empty; give another one or remove it first")


@contextmanager
def new_directory(output: str) -> Iterator[Put]:
    """A `put` for the files of `output`, which is there, complete, when the block has ended without an error.

    Remote files go up one by one and leave the disk at once; put config.json last.

    Raises:
        StorageError: it cannot be written, or someone else has filled `output` meanwhile.
    """
    with _local_directory(output) if not storage.is_remote(output) else _remote_directory(output) as put:
        yield put


@contextmanager
def _local_directory(output: str) -> Iterator[Put]:
    target = Path(storage.absolute(output))
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        _remove_abandoned(target)
        temporary = Path(tempfile.mkdtemp(prefix=f".{target.name}.", suffix=_PARTIAL, dir=target.parent))
    except OSError as error:
        raise StorageError(f"cannot write {target} ({error.strerror or error})") from None
    held = _lock(temporary)
    try:
        yield lambda name, write: _write(write, temporary / name, f"{target}/{name}")
        # mkdtemp makes it private; the result is as open as any other directory of this user.
        mask = os.umask(0)
        os.umask(mask)
        temporary.chmod(0o777 & ~mask)
        try:
            os.rename(temporary, target)
        except OSError as error:
            raise StorageError(f"cannot put the result at {target} ({error.strerror or error})") from None
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
        if held is not None:
            os.close(held)


def _remove_abandoned(target: Path) -> None:
    """Remove what merges into `target` that were killed have left beside it, as large as a model each."""
    for path in target.parent.glob(f".{glob.escape(target.name)}.*{_PARTIAL}"):
        held = _lock(path)
        if held is not None:
            shutil.rmtree(path, ignore_errors=True)
            os.close(held)


def _lock(directory: Path) -> int | None:
    """A descriptor that locks the directory until it is closed or its process ends; None where another has it, or where
    the file system has no locks.
    """
    descriptor = os.open(directory, os.O_RDONLY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        os.close(descriptor)
        return None
    return descriptor


@contextmanager
def _remote_directory(output: str) -> Iterator[Put]:
    with tempfile.TemporaryDirectory(prefix="longspan-merge-") as folder:

        def put(name: str, write: Callable[[Path], None]) -> None:
            file = Path(folder) / name
            _write(write, file, storage.join(output, name))
            storage.upload_file(str(file), storage.join(output, name))
            file.unlink()

        yield put


def _write(write: Callable[[Path], None], file: Path, shown: str) -> None:
    from safetensors import SafetensorError

    try:
        write(file)
    except (OSError, SafetensorError) as error:
        raise StorageError(f"cannot write {shown} ({getattr(error, 'strerror', None) or error})") from None
