"""One object at a time: read, write, ask, list and delete, by URI, alike for local paths and S3.

This is what the other rooms call. Every function raises StorageError (NotFoundError if the URI does not exist) and
tries again after transient failures of the store, as `retry.RetryPolicy` says.
"""

import json
import os
from collections.abc import Sequence
from typing import Any

from longspan.errors import DataError, StorageError
from longspan.storage import guard, local, s3
from longspan.storage.digest import digest_bytes, digest_file
from longspan.uri import Location, Uri, parse

_NUM_FETCHES = 3


def read_bytes(uri: Uri, start: int | None = None, end: int | None = None, *, digest: str | None = None) -> bytes:
    """Bytes [start, end) of `uri`, by default all; fewer, possibly none, where the object ends earlier.

    With `digest` (as by `digest_bytes`, of these bytes) the content is proven: up to 3 fetches, then StorageError.
    Raises ValueError for a negative start or an end before it.
    """
    start = 0 if start is None else start
    if start < 0 or (end is not None and end < start):
        raise ValueError(f"read_bytes needs 0 <= start <= end, not [{start}, {end})")
    location = parse(uri)
    found = ""
    for _ in range(_NUM_FETCHES):
        data = s3.read(location, start, end) if location.is_remote else local.read(location.path, start, end)
        if digest is None or (found := digest_bytes(data)) == digest:
            return data
    raise _wrong_digest(location, found, digest)


def read_ranges(uri: Uri, ranges: Sequence[tuple[int, int]]) -> list[bytes]:
    """Bytes [start, end) of `uri` for each of `ranges`, in their order and all of one version of the object.

    A store gets one request for each range that is not empty, several at a time: join ranges that are neighbours first.
    Raises StorageError that names the range if the object ends before it does, ValueError for an impossible range.
    """
    for start, end in ranges:
        if not 0 <= start <= end:
            raise ValueError(f"read_ranges needs 0 <= start <= end, not [{start}, {end})")
    location = parse(uri)
    spans = [span for span in ranges if span[0] < span[1]]
    if not spans:
        return [b""] * len(ranges)
    found = iter(s3.read_ranges(location, spans) if location.is_remote else local.read_ranges(location.path, spans))
    return [next(found) if start < end else b"" for start, end in ranges]


def read_text(uri: Uri) -> str:
    """The UTF-8 text in `uri`. Raises DataError if it is something else."""
    try:
        return read_bytes(uri).decode()
    except UnicodeDecodeError as error:
        raise DataError(
            f"{parse(uri).uri}: not UTF-8 text (byte {error.start}); it is damaged or of another kind"
        ) from error


def read_json(uri: Uri) -> Any:
    """The JSON value in `uri`. Raises DataError if it is not JSON."""
    text = read_text(uri)
    try:
        return json.loads(text)
    except (json.JSONDecodeError, RecursionError) as error:
        raise DataError(f"{parse(uri).uri}: not valid JSON ({error}); it is damaged or of another kind") from error


def write_bytes(uri: Uri, data: bytes | bytearray | memoryview) -> None:
    """Make `data` the content of `uri` in one step: a reader sees the old content or the new, also after a crash."""
    location = parse(uri)
    if location.is_remote:
        view = memoryview(data).cast("B")
        s3.write(location, view.nbytes, lambda start, end: view[start:end])
    else:
        local.write(location.path, data)


def write_text(uri: Uri, text: str) -> None:
    """Write `text` as UTF-8, in one step."""
    write_bytes(uri, text.encode())


def write_json(uri: Uri, value: Any) -> None:
    """Write `value` as indented JSON with sorted keys, in one step.

    Raises DataError for what strict JSON cannot hold: NaN and infinities (write null), sets, arrays.
    """
    try:
        text = json.dumps(value, indent=2, sort_keys=True, allow_nan=False)
    except (TypeError, ValueError) as error:
        raise DataError(f"{parse(uri).uri}: cannot be written as JSON: {error}") from error
    write_text(uri, text + "\n")


def exists(uri: Uri) -> bool:
    """Whether `uri` is an object, or a folder with at least one file in it (a store knows no empty folders)."""
    location = parse(uri)
    if not location.is_remote:
        return os.path.isfile(location.path) or any(True for _ in local.walk(location.path))
    return (bool(location.path) and s3.head(location) is not None) or s3.is_folder(location)


def check_lease(uri: Uri, max_age_s: float = 0.0) -> None:
    """Raise LeaseLostError if `uri` lies in an output that this process held (`hold`) and does not hold any more.

    Every write of this room asks so itself; this is for those that go another way. `max_age_s` as in `guard.check`.
    """
    guard.check(parse(uri), max_age_s)


def size(uri: Uri) -> int:
    """Bytes in the object `uri`."""
    location = parse(uri)
    if location.is_remote:
        entry = s3.head(location)
        return entry.size if entry is not None else s3.raise_not_found(location)
    with local.local_errors("read", location.path):
        if os.path.isdir(location.path):
            raise IsADirectoryError
        return os.path.getsize(location.path)


def list_files(uri: Uri, recursive: bool = True) -> list[str]:
    """Sorted names, relative to the folder `uri`, of the files below it, or directly in it; [] if nothing is there.

    Files that are being written are not listed. Raises NotFoundError if the bucket does not exist.
    """
    location = parse(uri)
    if not location.is_remote and recursive:
        return sorted(local.walk(location.path))
    return list(list_sizes(uri, recursive))


def list_sizes(uri: Uri, recursive: bool = True) -> dict[str, int]:
    """Size in bytes of every file that `list_files` names, in its order; of a store by the listing alone."""
    location = parse(uri)
    if location.is_remote:
        entries = s3.list_entries(location, recursive=recursive)
        sizes = {entry.name: entry.size for entry in entries if not entry.is_placeholder}
    else:
        sizes = local.list_sizes(location.path, recursive=recursive)
    return dict(sorted(sizes.items()))


def list_folders(uri: Uri) -> list[str]:
    """Sorted names of the folders directly in the folder `uri`; [] if nothing is there."""
    location = parse(uri)
    return s3.list_folders(location) if location.is_remote else local.list_folders(location.path)


def delete(uri: Uri) -> None:
    """Remove the object `uri`; not there is fine."""
    location = parse(uri)
    if location.is_remote:
        s3.delete(location)
    else:
        local.delete(location.path)


def clear_unfinished(uri: Uri) -> None:
    """Remove the hidden halves of files that killed writers have left in the folder `uri` and below; a store has none.

    For the one who owns the folder, before others write there.
    """
    location = parse(uri)
    if not location.is_remote:
        local.clear_unfinished(location.path)


def delete_tree(uri: Uri) -> None:
    """Remove the folder `uri` and all in it; not there is fine. Refuses a whole bucket, "/" and the home folder."""
    location = parse(uri)
    if location.is_remote:
        s3.delete_tree(location)
    else:
        local.delete_tree(location.path)


def upload_file(path: Uri, uri: Uri) -> None:
    """Make the content of the local file `path` that of `uri`, in one step."""
    source, target = local_path(path), parse(uri)
    if target.is_remote:
        _send_file(source, target)
        return
    with local.replacing(target.path) as temporary:
        local.copy(source, temporary)


def _send_file(path: str, target: Location) -> None:
    file = local.open_file(path)

    def take(start: int, end: int) -> bytes:  # from several threads, so without the position of the file
        with local.local_errors("read", path):
            data = os.pread(file.fileno(), end - start, start)
        if len(data) != end - start:
            raise StorageError(f"cannot write {target.uri}: {path} became shorter while being read")
        return data

    with file:
        s3.write(target, os.fstat(file.fileno()).st_size, take)


def download_file(uri: Uri, path: Uri, *, digest: str | None = None, etag: str | None = None) -> None:
    """Make the content of `uri` that of the local file `path`, in one step.

    With `digest` (as by `digest_file`) the content is proven before it appears: up to 3 fetches, then StorageError.
    With `etag`, only that version of a remote object is taken.
    """
    source, target = parse(uri), local_path(path)
    found = ""
    with local.replacing(target) as temporary:
        for _ in range(_NUM_FETCHES):
            if source.is_remote:
                s3.download(source, temporary, etag)
            else:
                local.copy(source.path, temporary)
            if digest is None or (found := digest_file(temporary)) == digest:
                return
        raise _wrong_digest(source, found, digest)


def local_path(path: Uri) -> str:
    """The absolute form of a path that has to be on this machine. Raises StorageError for a remote URI."""
    location = parse(path)
    if location.is_remote:
        raise StorageError(f"{location.uri} is remote; this end of a copy has to be a local path")
    return location.path


def _wrong_digest(location: Location, found: str, digest: str | None) -> StorageError:
    return StorageError(
        f"cannot read {location.uri}: its digest is {found}, not {digest}, after {_NUM_FETCHES} fetches; "
        "it is damaged or was replaced: restore it, or make it again"
    )
