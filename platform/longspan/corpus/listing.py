"""Which files a source is made of, with their sizes, found by listing alone.

`units` cuts them into tasks. Files come in the order of `paths` and then of their sorted names, so the order is the
same every time.
"""

from collections.abc import Iterable
from fnmatch import fnmatchcase
from typing import NamedTuple

from longspan import storage
from longspan.config.corpus import ArrowSource, ChatSource, FileSource, JsonlSource, ParquetSource, TextSource
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


class SourceFile(NamedTuple):
    """A file of a source and its size in bytes."""

    uri: str
    size: int


def find_files(source: FileSource, field: str) -> list[SourceFile]:
    """The source's files: each of `paths` itself if it is a file, else what matches in the folder.

    In a folder, `pattern` (or the names of the source's kind) is compared with a file's name and with its path below
    the folder; hidden files and folders are passed over. A folder that Hugging Face datasets' `save_to_disk` wrote
    says itself which files it is made of.

    Args:
        field: dotted place of the source in the configuration, for messages.

    Raises:
        ConfigError: a path holds no matching file, or a split has to be named.
        DataError: a saved dataset is not complete.
        StorageError: a listing could not be had.
    """
    found: list[SourceFile] = []
    for number, path in enumerate(source.paths):
        sizes = storage.list_sizes(path)
        if not sizes and storage.exists(path):
            found.append(SourceFile(storage.absolute(path), storage.size(path)))
        else:
            names = _names(source, path, sizes, f"{field}.paths.{number}")
            found.extend(SourceFile(storage.join(path, name), sizes[name]) for name in names)
    if not found:
        raise ConfigError(f"{field}.paths: empty; name a file or folder")
    return found if not isinstance(source, TextSource) else _first_bytes(found, source.max_bytes, field)


def _names(source: FileSource, path: str, sizes: dict[str, int], field: str) -> list[str]:
    patterns = (source.pattern,) if isinstance(source, TextSource) else _NAMES[type(source)]
    saved = _saved_dataset(source, path, sizes, field) if isinstance(source, ArrowSource) else None
    if saved is not None:
        return saved
    names = [name for name in sizes if _is_wanted(name, patterns)]
    if isinstance(source, ArrowSource):  # what datasets' map and filter leave behind
        names = [name for name in names if not fnmatchcase(name.split("/")[-1], "cache-*.arrow")]
    if not names:
        raise ConfigError(f"{field}: {path}: no file matches {' or '.join(patterns)}")
    return names


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
