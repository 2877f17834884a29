"""Objects in S3: read, write, measure, list, delete. Large ones move in parts, several at a time, each retried alone.

Called by `objects.py` and `trees.py` with parsed locations; `client.request` does the talking.
"""

import base64
import hashlib
import math
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import Any, NoReturn, TypeVar

from longspan.errors import StorageError
from longspan.storage import guard
from longspan.storage.client import request
from longspan.storage.failures import NotFoundError, short_range
from longspan.storage.local import local_errors
from longspan.storage.ranges import ChangedError, Part, fetch
from longspan.storage.retry import get_policy
from longspan.uri import LEASE_FOLDER, Location, is_lease

_ITEM = TypeVar("_ITEM")
_RESULT = TypeVar("_RESULT")

PART_BYTES = 8 << 20
"""An object larger than this moves in parts. S3 allows parts of 5 MiB and more, and 10,000 of them."""
_MAX_PARTS = 10_000
_NUM_THREADS = 8
_NUM_RESTARTS = 3
_SEEN_LATELY_S = 5.0


@dataclass(frozen=True, slots=True)
class Entry:
    """One object: name relative to the place that was listed, size in bytes, ETag (another when the content is)."""

    name: str
    size: int
    etag: str

    @property
    def is_placeholder(self) -> bool:
        """Whether it only stands for a folder; some tools write such empty objects."""
        return not self.name or self.name.endswith("/")


class _LostUploadError(Exception):
    """The store does not know the multipart upload (any more)."""


def in_parallel(function: Callable[[_ITEM], _RESULT], items: Iterable[_ITEM], num_threads: int) -> list[_RESULT]:
    """`function` of every item, in order. At the first exception no further item is begun, and it is raised."""
    items = list(items)
    if len(items) < 2:
        return [function(item) for item in items]
    with ThreadPoolExecutor(min(num_threads, len(items))) as pool:
        futures = [pool.submit(function, item) for item in items]
        try:
            return [future.result() for future in futures]
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise


def head(location: Location) -> Entry | None:
    """Size and ETag of the object, None if there is none. Its name is empty."""
    reply = request("read", location, "head_object", accept=(404,), Key=_key("read", location))
    if reply.status == 404:
        return None
    return Entry("", int(reply.fields["ContentLength"]), str(reply.fields.get("ETag", "")))


def raise_not_found(location: Location) -> NoReturn:
    """Raise the NotFoundError of a missing object, or of its missing bucket (which an answer to HEAD does not tell)."""
    try:
        request("read", location, "list_objects_v2", Prefix=location.path, MaxKeys=1)
    except NotFoundError:
        raise
    except StorageError:
        pass  # not allowed to list: the object is what the caller asked about
    raise NotFoundError(f"cannot read {location.uri}: it does not exist")


def read(location: Location, start: int, end: int | None, etag: str | None = None) -> bytes:
    """Bytes [start, end) of the object; fewer where it ends earlier. With `etag`, of that version of it only."""
    for _ in range(_NUM_RESTARTS):
        parts: dict[int, bytes] = {}
        with suppress(ChangedError):
            _fetch(location, start, end, etag, parts.__setitem__)
            return b"".join(parts[offset] for offset in sorted(parts))
    raise _changed(location)


def download(location: Location, path: str, etag: str | None = None) -> None:
    """Write the object to the local file `path`, which may be left incomplete by an error."""
    for _ in range(_NUM_RESTARTS):
        with suppress(ChangedError), _Writer(path) as writer:
            _fetch(location, 0, None, etag, writer.write)
            return
    raise _changed(location)


class _Writer:
    """A file that several threads write at their offsets."""

    def __init__(self, path: str) -> None:
        self.path = path

    def __enter__(self) -> "_Writer":
        with local_errors("write", self.path):
            self.descriptor = os.open(self.path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o666)
        return self

    def __exit__(self, *exc_info: object) -> None:
        os.close(self.descriptor)

    def write(self, offset: int, data: bytes) -> None:
        view = memoryview(data)
        with local_errors("write", self.path):
            while view:
                num_written = os.pwrite(self.descriptor, view, offset)
                view, offset = view[num_written:], offset + num_written


def _fetch(
    location: Location, start: int, end: int | None, etag: str | None, write: Callable[[int, bytes], object]
) -> None:
    """Hand bytes [start, end) to `write(offset from start, data)`, the parts after the first from several threads.

    The first part tells size and ETag, and the others are asked for under that ETag: no mixture of two versions.
    """
    _key("read", location)
    if end is not None and end <= start:
        if head(location) is None:
            raise_not_found(location)
        return
    first = fetch(location, start, start + PART_BYTES if end is None else min(end, start + PART_BYTES), etag)
    if first is None:
        return
    write(0, first.data)
    stop = first.total if end is None else min(end, first.total)

    def copy(offset: int) -> None:
        following = fetch(location, offset, min(offset + PART_BYTES, stop), first.etag)
        if following is None:
            raise ChangedError
        write(offset - start, following.data)

    in_parallel(copy, range(start + PART_BYTES, stop, PART_BYTES), _NUM_THREADS)


def read_ranges(location: Location, spans: Sequence[tuple[int, int]]) -> list[bytes]:
    """Bytes [start, end) of the object for every span, one request each, all of the same version of it."""
    _key("read", location)

    def whole(span: tuple[int, int]) -> Part:
        part = fetch(location, *span)
        num_found = 0 if part is None else len(part.data)
        if part is None or num_found != span[1] - span[0]:
            raise short_range(location, *span, num_found)
        return part

    for _ in range(_NUM_RESTARTS):
        with suppress(ChangedError):  # after a try that broke off
            parts = in_parallel(whole, spans, 2 * _NUM_THREADS)
            if len({part.etag for part in parts}) < 2:
                return [part.data for part in parts]
    raise _changed(location)


def _changed(location: Location) -> StorageError:
    return StorageError(f"cannot read {location.uri}: it was replaced while being read; is another run writing there?")


def write(location: Location, size: int, take: Callable[[int, int], bytes | memoryview]) -> None:
    """Store the `size` bytes that `take(start, end)` gives, all or nothing: readers never see a part of them."""
    key = _key("write", location)
    guard.check(location)
    if size <= PART_BYTES:
        request("write", location, "put_object", num_bytes=size, Key=key, **checked_body(take(0, size)))
        return
    for _ in range(_NUM_RESTARTS):
        with suppress(_LostUploadError):
            _write_parts(location, key, size, take)
            return
    raise StorageError(f"cannot write {location.uri}: the store forgot the upload {_NUM_RESTARTS} times")


def _write_parts(location: Location, key: str, size: int, take: Callable[[int, int], bytes | memoryview]) -> None:
    upload_id = request("write", location, "create_multipart_upload", Key=key).fields["UploadId"]
    upload = {"Key": key, "UploadId": upload_id}
    part_bytes = max(PART_BYTES, math.ceil(size / _MAX_PARTS))

    def send(number: int, method: str, num_bytes: int, **fields: Any) -> dict[str, Any]:
        # 404 also if the answer to a completion was lost and this is its second try; sending all again does no harm.
        reply = request("write", location, method, num_bytes=num_bytes, accept=(404,), **upload, **fields)
        if reply.status == 404:
            raise _LostUploadError
        return {"PartNumber": number, "ETag": reply.fields.get("ETag", "")}

    def send_part(index: int) -> dict[str, Any]:
        start, end = index * part_bytes, min((index + 1) * part_bytes, size)
        body = checked_body(take(start, end))
        return send(index + 1, "upload_part", end - start, PartNumber=index + 1, **body)

    try:
        parts = in_parallel(send_part, range(math.ceil(size / part_bytes)), _NUM_THREADS)
        guard.check(location)  # the parts may have taken hours; only now would they be seen
        send(0, "complete_multipart_upload", part_bytes, MultipartUpload={"Parts": parts})
    except BaseException:
        with suppress(StorageError):  # parts of an upload that nobody ends are kept, and billed, for ever
            request("write", location, "abort_multipart_upload", policy=replace(get_policy(), budget_s=0.0), **upload)
        raise


def checked_body(data: bytes | memoryview) -> dict[str, Any]:
    """The fields of a PUT of `data`: itself, and the digest that every store proves it by."""
    digest = hashlib.md5(data, usedforsecurity=False).digest()
    return {"Body": bytes(data), "ContentMD5": base64.b64encode(digest).decode()}


def list_entries(location: Location, *, recursive: bool = True) -> Iterator[Entry]:
    """Every object below `location`, or directly in it, in the order of the store, but for leases.

    With placeholders of folders (names ending in "/").
    """
    entries = _all_entries(location, **({} if recursive else {"Delimiter": "/"}))
    return (entry for entry in entries if not is_lease(entry.name))


def _all_entries(location: Location, **fields: Any) -> Iterator[Entry]:
    for page, prefix in _pages(location, **fields):
        for item in page.get("Contents", []):
            yield Entry(item["Key"][len(prefix) :], int(item["Size"]), str(item.get("ETag", "")))


def list_folders(location: Location) -> list[str]:
    """Sorted names of the folders directly in `location`."""
    names: set[str] = set()
    for page, prefix in _pages(location, Delimiter="/"):
        names.update(item["Prefix"][len(prefix) : -1] for item in page.get("CommonPrefixes", []))
    return sorted(names - {"", LEASE_FOLDER})


def is_folder(location: Location) -> bool:
    """Whether anything lies below `location`."""
    # A placeholder of the folder, and a lease, may come first.
    return any(entry.name and not is_lease(entry.name) for entry in _all_entries(location, MaxKeys=4))


def _pages(location: Location, **fields: Any) -> Iterator[tuple[dict[str, Any], str]]:
    prefix = f"{location.path}/" if location.path else ""
    fields |= {"Prefix": prefix}
    while True:
        page = request("list", location, "list_objects_v2", **fields).fields
        yield page, prefix
        if not page.get("IsTruncated"):
            return
        fields["ContinuationToken"] = page["NextContinuationToken"]


def delete(location: Location) -> None:
    """Remove the object; not there is fine."""
    guard.check(location)
    request("delete", location, "delete_object", Key=_key("delete", location))


def delete_tree(location: Location) -> None:
    """Remove every object below `location`; nothing there is fine. Raises StorageError for a whole bucket."""
    if not location.path:
        raise StorageError(f"cannot delete {location.uri}: refusing to delete a whole bucket")

    guard.check(location)

    def delete_entry(entry: Entry) -> None:
        guard.check(location, _SEEN_LATELY_S)
        # One request each: the bulk call reports failures of single objects in its body only, and some stores lack it.
        request("delete", location, "delete_object", Key=f"{location.path}/{entry.name}")

    in_parallel(delete_entry, _all_entries(location), 2 * _NUM_THREADS)


def _key(verb: str, location: Location) -> str:
    if not location.path:
        raise StorageError(f"cannot {verb} {location.uri}: it names a bucket; write s3://bucket/key")
    return location.path
