"""Which files a source is made of, with their sizes, found by listing alone; which are not taken, or taken twice.

`units` cuts them into tasks. Files come in the order of `paths` and then of their sorted names, so the order is the
same every time.
"""

import os
import re
from collections.abc import Callable, Iterable
from fnmatch import fnmatchcase
from typing import NamedTuple

from longspan import storage
from longspan.config.corpus import (
    ArrowSource,
    ChatSource,
    Corpus,
    FileSection,
    FileSource,
    JsonlSource,
    ParquetSource,
    TextSource,
)
from longspan.errors import ConfigError, DataError

_LINES = (
    *(f"*.{kind}{packed}" for kind in ("jsonl", "ndjson") for packed in ("", ".gz", ".zst")),
    *("*.json.gz", "*.json.zst"),  # a plain .json is as often one value over many lines
)
_NAMES = {
    JsonlSource: _LINES,
    ParquetSource: ("*.parquet",),
    ArrowSource: ("*.arrow", "*.feather"),
    ChatSource: (*_LINES, "*.parquet"),
}
_DATASET_DICT, _DATASET_STATE = "dataset_dict.json", "state.json"
_DATA_NAMES = re.compile(
    r"\.(jsonl?|ndjson|parquet|arrow|feather|csv|tsv|txt|md|text)(\.(gz|zst|zstd|bz2|xz|lz4|zip))?$"
    r"|\.(zip|tar|tgz|tar\.\w+)$",
    re.IGNORECASE,
)
"""What looks like data, whatever its type."""
_RECORDS = re.compile(
    r"^(README\.\w+|LICENSE.*|dataset_infos?\.json|(state|dataset_dict|config)\.json|cache-.*\.arrow)$"
)
"""What lies beside data and is none."""
_NAMED = 3


class SourceFile(NamedTuple):
    """A file of a source and its size in bytes."""

    uri: str
    size: int


def find_all(corpus: Corpus, say: Callable[[str], None]) -> dict[str, list[SourceFile]]:
    """The files of each source that is read from files, by its name.

    Data files in a folder that no source takes are named in one line for each path, `max_bytes` aside.

    Raises:
        ConfigError: as `find_files`; or a file is reached twice, by links too, where the same would be taken of it.
        DataError, StorageError: as `find_files`.
    """
    found: dict[str, list[SourceFile]] = {}
    left: dict[str, list[str]] = {}
    taken: dict[tuple[object, ...], str] = {}
    for number, source in enumerate(corpus.sources):
        if isinstance(source, FileSection):
            field = f"sources.{number}"
            found[source.name] = find_files(source, field, left)
            for file in found[source.name]:
                _refuse_twice(source, file.uri, field, taken)
    known = {file.uri for files in found.values() for file in files}
    for place, uris in left.items():
        if others := [uri for uri in uris if uri not in known]:
            names = ", ".join(uri.rpartition("/")[2] for uri in others[:_NAMED])
            more = ", ..." if len(others) > _NAMED else ""
            say(f"{place}: {len(others):,} data files are not taken ({names}{more}); set pattern to take them")
    return found


def _refuse_twice(source: FileSource, uri: str, field: str, taken: dict[tuple[object, ...], str]) -> None:
    """Raises ConfigError where the same was taken of the file before; two columns of one file are two things."""
    same = storage.signed(uri) if storage.is_remote(uri) else os.path.realpath(uri)
    what = source.messages_field if isinstance(source, ChatSource) else getattr(source, "text_field", None)
    key = (same, source.type, what)
    if key in taken:
        raise ConfigError(
            f"{field}.paths: {uri} is reached twice: it is also {taken[key]}; name it once, or narrow pattern (to train"
            " on it more often, raise its source's weight in the mix)"
        )
    taken[key] = f"{uri} of source {source.name}"


def find_files(source: FileSource, field: str, left: dict[str, list[str]] | None = None) -> list[SourceFile]:
    """The source's files: each of `paths` itself if it is a file, else what matches in the folder.

    In a folder, `pattern` (or the names of the source's kind) is compared with a file's name and with its path below
    the folder; hidden files and folders are passed over. A folder that Hugging Face datasets' `save_to_disk` wrote
    says itself which files it is made of.

    Args:
        field: dotted place of the source in the configuration, for messages.
        left: takes what looks like data in a folder and is not taken, by its place in the configuration and its URI.

    Raises:
        ConfigError: a path holds no matching file, or a split has to be named.
        DataError: a saved dataset is not complete.
        StorageError: a listing could not be had.
    """
    found: list[SourceFile] = []
    for number, path in enumerate(map(storage.anonymous, source.paths) if source.anonymous else source.paths):
        sizes = storage.list_sizes(path)
        if not sizes and storage.exists(path):
            found.append(SourceFile(storage.absolute(path), storage.size(path)))
        else:
            place = f"{field}.paths.{number}"
            names = _names(source, path, sizes, place)
            found.extend(SourceFile(storage.join(path, name), sizes[name]) for name in names)
            if left is not None and not _is_saved_dataset(source, sizes):
                others = sorted(sizes.keys() - set(names))
                left[f"{place}: {path}"] = [storage.join(path, name) for name in others if _looks_like_data(name)]
    if not found:
        raise ConfigError(f"{field}.paths: empty; name a file or folder")
    return found if not isinstance(source, TextSource) else _first_bytes(found, source.max_bytes, field)


def _names(source: FileSource, path: str, sizes: dict[str, int], field: str) -> list[str]:
    patterns = (source.pattern,) if source.pattern is not None else _NAMES[type(source)]
    saved = _saved_dataset(source, path, sizes, field) if isinstance(source, ArrowSource) else None
    if saved is not None and source.pattern is not None:
        raise ConfigError(f"{field}: {path} is a saved dataset, which names its files itself; leave pattern out")
    if saved is not None:
        return saved
    names = [name for name in sizes if _is_wanted(name, patterns)]
    if isinstance(source, ArrowSource) and source.pattern is None:  # what datasets' map and filter leave behind
        names = [name for name in names if not fnmatchcase(name.split("/")[-1], "cache-*.arrow")]
    if not names:
        others = [name for name in sizes if _looks_like_data(name)]
        there = f"; it has {', '.join(others[:_NAMED])} (set pattern, or another type)" if others else ""
        raise ConfigError(f"{field}: {path}: no file matches {' or '.join(patterns)}{there}")
    return names


def _looks_like_data(name: str) -> bool:
    parts = name.split("/")
    is_hidden = any(part.startswith(".") for part in parts)
    return not is_hidden and bool(_DATA_NAMES.search(parts[-1])) and not _RECORDS.match(parts[-1])


def _is_saved_dataset(source: FileSource, sizes: dict[str, int]) -> bool:
    return isinstance(source, ArrowSource) and (_DATASET_DICT in sizes or _DATASET_STATE in sizes)


def _is_wanted(name: str, patterns: Iterable[str]) -> bool:
    parts = name.split("/")
    if any(part.startswith(".") for part in parts):
        return False
    return any(fnmatchcase(name, pattern) or fnmatchcase(parts[-1], pattern) for pattern in patterns)


def _first_bytes(files: list[SourceFile], max_bytes: int | None, field: str) -> list[SourceFile]:
    """The first files of at most `max_bytes` together."""
    total = 0
    for number, file in enumerate(files):
        total += file.size
        if max_bytes is not None and total > max_bytes:
            if number == 0:
                raise ConfigError(f"{field}.max_bytes: {max_bytes} is less than its first file, {file.uri} ({total})")
            return files[:number]
    return files


def _saved_dataset(source: ArrowSource, path: str, sizes: dict[str, int], field: str) -> list[str] | None:
    """The data files of a saved Dataset, or of one split of a saved DatasetDict, in order; None for other folders."""
    folder = ""
    if _DATASET_DICT in sizes:
        splits = _record(storage.join(path, _DATASET_DICT)).get("splits")
        if not isinstance(splits, list) or not all(isinstance(split, str) for split in splits):
            raise DataError(f"{storage.join(path, _DATASET_DICT)}: no list of splits; save the dataset again")
        if source.split is None and len(splits) != 1:
            raise ConfigError(f"{field}: {path} holds the splits {splits}; set split to one of them")
        if source.split is not None and source.split not in splits:
            raise ConfigError(f"{field}: {path} has no split '{source.split}', it holds {splits}")
        folder = f"{source.split or splits[0]}/"
    elif source.split is not None:
        raise ConfigError(f"{field}: split '{source.split}' is asked for, but {path} is no saved DatasetDict")
    if f"{folder}{_DATASET_STATE}" not in sizes:
        if folder:
            raise DataError(f"{storage.join(path, folder)}: no {_DATASET_STATE}; save or copy the dataset again")
        return None
    where = storage.join(path, folder + _DATASET_STATE)
    state = _record(where)
    if state.get("_indices_data_files") or state.get("_indices_files"):
        raise DataError(f"{where}: rows are chosen by an index file; call flatten_indices() before save_to_disk")
    entries = state.get("_data_files")
    if not isinstance(entries, list) or not all(
        isinstance(e, dict) and isinstance(e.get("filename"), str) for e in entries
    ):
        raise DataError(f"{where}: no list of data files; save the dataset again")
    names = [folder + entry["filename"] for entry in entries]
    missing = [name for name in names if name not in sizes]
    if missing or not names:
        what = f"names {missing[0]}, which is missing" if missing else "names no data file"
        raise DataError(f"{where}: {what}; copy or save the dataset again")
    return names


def _record(where: str) -> dict[str, object]:
    value = storage.read_json(where)
    if not isinstance(value, dict):
        raise DataError(f"{where}: not a JSON object; save the dataset again")
    return value
