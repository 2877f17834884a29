"""What a lease asks of a place, local or S3: list its files with their ages, make one that is not there, touch, remove.

The files are FOLDER/000001 and on, one a generation, in `uri.LEASE_FOLDER` of the output. Ages are told by the clock of
the store or of the file system alone (Last-Modified against the answer's Date, modification time against that of a file
made now), so no two machines' clocks are compared. Creation is `link` (atomic on NFS too) or PUT If-None-Match: Ceph's
If-Match is broken, so nothing here needs it.
"""

import os
import secrets
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from contextvars import ContextVar
from dataclasses import replace
from email.utils import parsedate_to_datetime
from typing import Any

from longspan.storage import s3
from longspan.storage.client import Download, Reply, request
from longspan.storage.failures import NotFoundError
from longspan.storage.local import local_errors
from longspan.storage.retry import get_policy
from longspan.uri import LEASE_FOLDER, Location

_DIGITS = 6
_MAX_TRIES = 100
_MAX_BYTES = 1 << 16
_quick_s: ContextVar[float | None] = ContextVar("quick_s", default=None)


@contextmanager
def quick_requests(seconds: float) -> Iterator[None]:
    """In this thread: requests that take longer fail, as the sign of life that they are to give would come too late."""
    before = _quick_s.set(seconds)
    try:
        yield
    finally:
        _quick_s.reset(before)


def name_of(generation: int) -> str:
    return f"{generation:0{_DIGITS}d}"


def folder_of(output: Location) -> Location:
    return output.child(LEASE_FOLDER)


def ages(output: Location) -> dict[int, float]:
    """Seconds since each generation's file was made or touched, by generation; a store's may be a second too many."""
    return _s3_ages(folder_of(output)) if output.is_remote else _local_ages(folder_of(output).path)


def read(output: Location, generation: int) -> bytes | None:
    """What is in the generation's file; None if it is not there."""
    place = folder_of(output).child(name_of(generation))
    try:
        if place.is_remote:
            reply = _request(
                "read", place, "get_object", accept=(404, 416), Key=place.path, download=Download(0, _MAX_BYTES)
            )
            return None if reply.status == 404 else reply.body
        with local_errors("read", place.path), open(place.path, "rb") as file:
            return file.read()
    except NotFoundError:
        return None


def generations(output: Location) -> list[int]:
    """Those that have a file, in order."""
    folder = folder_of(output)
    if folder.is_remote:
        return sorted(_s3_ages(folder))
    return sorted(generation for generation, _ in _scan(folder.path))


def create(output: Location, generation: int, data: bytes) -> bool:
    """Make the generation's file with `data` in it; False if there is one already. One of many callers succeeds."""
    place = folder_of(output).child(name_of(generation))
    if not place.is_remote:
        return _local_create(folder_of(output).path, place.path, data)
    _request("write", place, "put_object", accept=(412,), Key=place.path, IfNoneMatch="*", **s3.checked_body(data))
    # Asked of the store whatever it said: a second try of a request whose answer was lost meets its own first, and a
    # store that knows no If-None-Match lets two in, of whom the last is the one.
    return read(output, generation) == data


def touch(output: Location, generation: int, data: bytes) -> bool:
    """Make the file new again; `data` is what is in it. False if it is not there (a store is not asked)."""
    place = folder_of(output).child(name_of(generation))
    if place.is_remote:
        _request("write", place, "put_object", Key=place.path, **s3.checked_body(data))
        return True
    try:
        with local_errors("write", place.path):
            os.utime(place.path)
    except NotFoundError:
        return False
    return True


def remove(output: Location, generation: int) -> None:
    """Remove the generation's file; not there is fine."""
    place = folder_of(output).child(name_of(generation))
    if place.is_remote:
        _request("delete", place, "delete_object", Key=place.path)
        return
    with suppress(NotFoundError), local_errors("delete", place.path):
        os.unlink(place.path)


def clear(output: Location) -> None:
    """Remove the folder of the files, and halves of them, once none is left; a store has no folders."""
    folder = folder_of(output)
    if folder.is_remote or generations(output):
        return
    with suppress(OSError):  # someone else may be making one just now
        for name in os.listdir(folder.path):
            if name.startswith("."):
                os.unlink(os.path.join(folder.path, name))
        os.rmdir(folder.path)


def _request(verb: str, place: Location, method: str, **fields: Any) -> Reply:
    policy, seconds = get_policy(), _quick_s.get()
    if seconds is not None:
        short = {"budget_s": seconds, "connect_timeout_s": seconds / 2, "read_timeout_s": seconds / 2}
        policy = replace(policy, **{name: min(value, getattr(policy, name)) for name, value in short.items()})
    return request(verb, place, method, policy=policy, **fields)


def _s3_ages(folder: Location) -> dict[int, float]:
    found: dict[int, float] = {}
    page = _request("list", folder, "list_objects_v2", Prefix=f"{folder.path}/").fields
    now = parsedate_to_datetime(page["ResponseMetadata"]["HTTPHeaders"]["date"])
    for item in page.get("Contents", []):
        name = item["Key"].rpartition("/")[2]
        if name.isdigit():
            found[int(name)] = (now - item["LastModified"]).total_seconds()
    return found


def _local_ages(folder: str) -> dict[int, float]:
    found = dict(_scan(folder))
    if not found:
        return {}
    clock = time.time()
    with suppress(OSError), _temporary(folder, b"") as now:  # one who may only read has no other clock than his own
        clock = os.stat(now).st_mtime
    return {generation: clock - modified for generation, modified in found.items()}


def _scan(folder: str) -> Iterator[tuple[int, float]]:
    """Generations and when their files were touched last."""
    with suppress(NotFoundError), local_errors("list", folder), os.scandir(folder) as entries:
        for entry in entries:
            if entry.name.isdigit():
                with suppress(FileNotFoundError):
                    yield int(entry.name), entry.stat().st_mtime


@contextmanager
def _temporary(folder: str, data: bytes) -> Iterator[str]:
    """A file of its own in the folder, made and flushed, and gone afterwards."""
    path = os.path.join(folder, f".{secrets.token_hex(8)}")
    try:
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o644)
        try:
            os.write(descriptor, data)
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
        yield path
    finally:
        with suppress(OSError):
            os.unlink(path)


def _local_create(folder: str, path: str, data: bytes) -> bool:
    with local_errors("write", path):
        for _ in range(_MAX_TRIES):
            os.makedirs(folder, exist_ok=True)
            with suppress(FileNotFoundError), _temporary(folder, data) as new:
                return _link(new, path)
        raise FileNotFoundError  # folder or new file: each time cleared by one who lets go


def _link(new: str, path: str) -> bool:
    try:
        os.link(new, path)
    except FileExistsError:
        # The answer to a link that was made can be lost on NFS: the second name tells.
        return os.path.samefile(new, path)
    except FileNotFoundError:
        raise
    except OSError:  # a file system without links; its exclusive creation is as good, but not whole at once
        return _create_exclusively(new, path)
    return True


def _create_exclusively(new: str, path: str) -> bool:
    try:
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o644)
    except FileExistsError:
        return False
    with open(new, "rb") as source, open(descriptor, "wb") as target:
        target.write(source.read())
    return True
