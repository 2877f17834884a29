"""Whole folders: copied to and from a store, and local copies of remote files for libraries that only open paths.

Built from the single-file functions of `objects.py`; a model on S3 reaches transformers through `local_directory`.
"""

import os
from collections.abc import Callable
from pathlib import Path

from longspan.errors import StorageError
from longspan.storage import local, s3
from longspan.storage.cache import cached
from longspan.storage.failures import NotFoundError
from longspan.storage.objects import download_file, local_path, upload_file
from longspan.uri import Location, Uri, parse

_NUM_FILES_AT_ONCE = 4  # each may move several parts at once as well


def upload_tree(local_dir: Uri, uri: Uri) -> list[str]:
    """Copy every file below `local_dir` to the same name below `uri`; returns the sorted names.

    Each file arrives in one step, the tree does not: write a record of it last. Raises NotFoundError if it is empty.
    """
    source, target = Location(None, local_path(local_dir)), parse(uri)
    names = sorted(local.walk(source.path))
    if not names:
        raise NotFoundError(f"cannot read {source.uri}: there is no file in it")
    _copy_all(names, lambda name: upload_file(source.child(name).path, target.child(name).uri))
    return names


def download_tree(uri: Uri, local_dir: Uri) -> list[str]:
    """Copy every file below `uri` to the same name below `local_dir`; returns the sorted names.

    Raises NotFoundError if there is none, StorageError for names that would leave `local_dir`.
    """
    source, target = parse(uri), Location(None, local_path(local_dir))
    entries = {entry.name: entry for entry in _entries(source)}
    targets = {name: target.child(name).path for name in entries}  # proves all names before the first is written
    _copy_all(
        list(entries),
        lambda name: download_file(source.child(name).uri, targets[name], etag=entries[name].etag or None),
    )
    return list(entries)


def _entries(source: Location) -> list[s3.Entry]:
    """Every file below `source`, sorted by name. Raises NotFoundError if there is none."""
    if source.is_remote:
        entries = [entry for entry in s3.list_entries(source) if not entry.is_placeholder]
    else:
        entries = [s3.Entry(name, 0, "") for name in local.walk(source.path)]
    if not entries:
        raise NotFoundError(f"cannot read {source.uri}: there is no file in it")
    return sorted(entries, key=lambda entry: entry.name)


def _copy_all(names: list[str], copy: Callable[[str], None]) -> None:
    s3.in_parallel(copy, names, _NUM_FILES_AT_ONCE)


def local_copy(uri: Uri, cache_dir: Uri | None = None, *, digest: str | None = None) -> Path:
    """A local path with the content of the file `uri`: itself if it is local, else a copy in the node's cache.

    A copy is keyed by URI, ETag and size, so a rewritten object is fetched anew; with `digest` (as by `digest_file`) by
    that, and proven before it appears. Of several processes that want the same file, one fetches it. Read only, and
    this process' to use until it ends, or lets it go (`cache.let_go`).
    """
    location = parse(uri)
    if not location.is_remote:
        with local.local_errors("read", location.path):
            os.stat(location.path)
        return Path(location.path)
    entry = s3.head(location)
    if entry is None:
        s3.raise_not_found(location)
    name, etag = location.path.rpartition("/")[2], entry.etag or None
    key = f"{location.uri}\n{digest or entry.etag}\n{entry.size}"
    return cached(
        cache_dir, key, name, entry.size, lambda path: download_file(location.uri, path, digest=digest, etag=etag)
    )


def local_directory(uri: Uri, cache_dir: Uri | None = None) -> Path:
    """A local folder with the files below `uri`: itself if it is local, else a cached download as by `local_copy`.

    For libraries that open folders only (a Hugging Face model). Raises NotFoundError if there is no such folder.
    """
    location = parse(uri)
    if not location.is_remote:
        if not os.path.isdir(location.path):
            raise NotFoundError(f"cannot read {location.uri}: there is no such folder")
        return Path(location.path)
    entries = _entries(location)
    key = "\n".join([location.uri, *(f"{entry.name}\n{entry.etag}\n{entry.size}" for entry in entries)])
    name = location.path.rpartition("/")[2] or str(location.bucket)
    size = sum(entry.size for entry in entries)
    return cached(cache_dir, key, name, size, lambda path: _fill(location, path, entries))


def _fill(source: Location, path: str, entries: list[s3.Entry]) -> None:
    if download_tree(source.uri, path) != [entry.name for entry in entries]:
        raise StorageError(f"cannot read {source.uri}: files were added or removed while it was copied; try again")
