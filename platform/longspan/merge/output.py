"""A model directory that appears at the end: written beside its place and moved in, or uploaded in order.

What `merge` writes its model into, which it holds (`storage.hold`). Nothing opens a model directory without
config.json, which goes last, so one that is cut short is no model.
"""

import errno
import glob
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from longspan import storage
from longspan.errors import ConfigError, StorageError
from longspan.uri import LEASE_FOLDER

_PARTIAL = ".partial"
Put = Callable[[str, Callable[[Path], None]], None]
"""`put(name, write)`: `write` makes the file at the path it is given, which becomes `name` of the directory."""


def check_free(output: str) -> None:
    """Raises ConfigError unless `output` (a local path or s3:// URI) is absent or an empty directory."""
    taken = storage.exists(output)
    if not taken and not storage.is_remote(output):
        path = Path(storage.absolute(output))
        taken = path.is_dir() and any(entry.name != LEASE_FOLDER for entry in path.iterdir())
    if taken:
        raise ConfigError(f"output: {output} exists and is not empty; give another one or remove it first")


@contextmanager
def new_directory(output: str) -> Iterator[Put]:
    """A `put` for the files of `output`, which is there, complete, when the block has ended without an error.

    Remote files go up one by one and leave the disk at once; put config.json last.

    Raises:
        ConfigError: as `check_free`.
        StorageError: it cannot be written, or someone else has filled `output` meanwhile.
    """
    check_free(output)
    with _local_directory(output) if not storage.is_remote(output) else _remote_directory(output) as put:
        yield put


@contextmanager
def _local_directory(output: str) -> Iterator[Put]:
    target = Path(storage.absolute(output))
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        # What merges that were killed have left, as large as a model each: no other merge has the lease.
        for path in target.parent.glob(f".{glob.escape(target.name)}.*{_PARTIAL}"):
            shutil.rmtree(path, ignore_errors=True)
        temporary = Path(tempfile.mkdtemp(prefix=f".{target.name}.", suffix=_PARTIAL, dir=target.parent))
    except OSError as error:
        raise StorageError(f"cannot write {target} ({error.strerror or error})") from None
    try:
        yield lambda name, write: _write(write, temporary / name, f"{target}/{name}")
        storage.check_lease(output)
        try:
            _move_in(temporary, target)
        except OSError as error:
            raise StorageError(f"cannot put the result at {target} ({error.strerror or error})") from None
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def _move_in(source: Path, target: Path) -> None:
    target.mkdir(exist_ok=True)
    if any(entry.name != LEASE_FOLDER for entry in target.iterdir()):
        raise OSError(errno.ENOTEMPTY, os.strerror(errno.ENOTEMPTY))
    names = sorted(os.listdir(source), key=lambda name: (name == "config.json", name))
    for name in names:
        os.rename(source / name, target / name)


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
