"""One byte range of one object in a store, and which version of the object it came from.

Called by `s3.py`, which puts whole objects and lists of ranges together from these.
"""

from dataclasses import dataclass
from typing import Any

from longspan.errors import StorageError
from longspan.storage.client import Download, request
from longspan.storage.failures import short_range
from longspan.uri import Location


@dataclass(frozen=True, slots=True)
class Part:
    """Bytes of an object, the ETag of the version that they are of, and the bytes in the whole of it."""

    data: bytes
    etag: str
    total: int


class ChangedError(Exception):
    """The object is not the version (any more) that was asked for."""


def fetch(location: Location, start: int, stop: int, etag: str | None = None) -> Part | None:
    """Bytes [start, stop), in one request unless it breaks off; fewer where the object ends earlier.

    None if it ends before `start`. Raises ChangedError if `etag` is not the object's, StorageError, NotFoundError.
    """
    download = Download(start, stop, etag or "")
    reply = request(
        "read",
        location,
        "get_object",
        num_bytes=stop - start,
        accept=(412, 416),
        download=download,
        Key=location.path,
    )
    if reply.status == 412:
        raise ChangedError
    if reply.status == 416:  # begins behind the end, as every range of an empty object does
        if not download.pieces:
            return None
        return Part(b"".join(download.pieces), download.etag, start + download.num_received)
    found = str(reply.fields.get("ETag", ""))
    if download.etag and found != download.etag:  # a store that does not know If-Match
        raise ChangedError
    total = _total_bytes(location, reply.fields)
    if len(reply.body) != min(stop, total) - start:
        raise short_range(location, start, min(stop, total), len(reply.body))
    return Part(reply.body, found, total)


def _total_bytes(location: Location, fields: dict[str, Any]) -> int:
    _, slash, total = str(fields.get("ContentRange", "")).rpartition("/")
    if not slash or not total.isdigit():
        raise StorageError(f"cannot read {location.uri}: the store does not serve byte ranges, which longspan needs")
    return int(total)
