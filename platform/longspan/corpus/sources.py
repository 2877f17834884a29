"""The raw texts of a source, one document at a time, from files on this machine or in S3.

First stop of `prepare`. Files come in the order of their sorted names, so the order is the same every time. A text that
cannot be decoded is refused with its place and never repaired: a replaced byte would be trained on.
"""

import json
import zlib
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from fnmatch import fnmatchcase
from functools import partial
from typing import Any

from longspan import storage
from longspan.config.corpus import JsonlSource, TextSource
from longspan.errors import ConfigError, DataError

_JSONL_NAMES = ("*.jsonl", "*.jsonl.gz", "*.jsonl.zst")
_CHUNK_BYTES = 4 << 20
_FILES_AHEAD = 16


def find_files(source: TextSource | JsonlSource, field: str) -> list[str]:
    """URIs of the source's files: each of `paths` itself if it is a file, else what matches in the folder.

    In a folder, `pattern` (or the JSONL names) is compared with a file's name and with its path below the folder;
    hidden files and folders are passed over.

    Args:
        field: dotted place of the source in the configuration, for messages.

    Raises:
        ConfigError: a path holds no matching file.
    """
    patterns = (source.pattern,) if isinstance(source, TextSource) else _JSONL_NAMES
    found = []
    for number, path in enumerate(source.paths):
        names = storage.list_files(path)
        if not names and storage.exists(path):
            found.append(storage.absolute(path))
            continue
        names = [name for name in names if _is_wanted(name, patterns)]
        if not names:
            raise ConfigError(f"{field}.paths.{number}: {path}: no file matches {' or '.join(patterns)}")
        found.extend(storage.join(path, name) for name in names)
    if not found:
        raise ConfigError(f"{field}.paths: empty; name a file or folder")
    return found


def read_texts(source: TextSource | JsonlSource, files: list[str]) -> Iterator[str]:
    """The documents in `files` in order.

    Raises:
        DataError: a text that is not UTF-8 (file and byte offset), or a line that is not JSON or lacks the field
            (file and line number).
        StorageError: a file could not be read.
    """
    if isinstance(source, TextSource):
        return _file_texts(files, source.max_bytes)
    return (text for file in files for text in _jsonl_texts(file, source.text_field))


def _is_wanted(name: str, patterns: Iterable[str]) -> bool:
    parts = name.split("/")
    if any(part.startswith(".") for part in parts):
        return False
    return any(fnmatchcase(name, pattern) or fnmatchcase(parts[-1], pattern) for pattern in patterns)


def _file_texts(files: list[str], max_bytes: int | None) -> Iterator[str]:
    total = 0
    for file, data in _read_ahead(files):
        total += len(data)
        if max_bytes is not None and total > max_bytes:
            return
        yield _decode(data, file, 0)


def _read_ahead(files: list[str]) -> Iterator[tuple[str, bytes]]:
    """Each file with its content; remote ones are fetched several at a time, in order."""
    if not storage.is_remote(files[0]):
        yield from ((file, storage.read_bytes(file)) for file in files)
        return
    with ThreadPoolExecutor(_FILES_AHEAD) as pool:
        for begin in range(0, len(files), _FILES_AHEAD):
            group = files[begin : begin + _FILES_AHEAD]
            yield from zip(group, pool.map(storage.read_bytes, group), strict=True)


def _jsonl_texts(file: str, text_field: str) -> Iterator[str]:
    offset = 0
    for number, line in enumerate(_lines(file), start=1):
        if line.strip():
            yield _line_text(_decode(line, file, offset), text_field, f"{file}, line {number}")
        offset += len(line) + 1


def _line_text(line: str, text_field: str, where: str) -> str:
    try:
        record = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise DataError(f"{where}: not valid JSON ({error})") from None
    if not isinstance(record, dict) or text_field not in record:
        has = list(record)[:10] if isinstance(record, dict) else type(record).__name__
        raise DataError(f"{where}: no field '{text_field}'; it has {has} (set text_field)")
    text = record[text_field]
    if not isinstance(text, str):
        raise DataError(f"{where}: field '{text_field}' is {type(text).__name__}, not text")
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise DataError(
            f"{where}: field '{text_field}' holds half a surrogate pair at character {error.start}"
        ) from None
    return text


def _decode(data: bytes, file: str, offset: int) -> str:
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError as error:
        place = offset + error.start
        raise DataError(
            f"{file}: not UTF-8 at byte {place} ({error.reason}); convert the file or leave it out"
        ) from None


def _lines(file: str) -> Iterator[bytes]:
    """Lines of the (decompressed) file, without their newline."""
    with storage.open_input(file) as stream:
        rest = b""
        for chunk in _plain(iter(lambda: stream.read(_CHUNK_BYTES), b""), file):
            head, *lines = chunk.split(b"\n")
            rest += head
            if lines:
                yield rest
                yield from lines[:-1]
                rest = lines[-1]
        if rest:
            yield rest


def _plain(chunks: Iterator[bytes], file: str) -> Iterator[bytes]:
    """`chunks` of a .gz or .zst file decompressed, of any other file as they are."""
    if not file.endswith((".gz", ".zst")):
        yield from chunks
        return
    import zstandard

    # Decompressors and not the file objects of these libraries: zstandard's reads a truncated file as a shorter one.
    start: Callable[[], Any] = (
        partial(zlib.decompressobj, wbits=31) if file.endswith(".gz") else zstandard.ZstdDecompressor().decompressobj
    )
    unit = None
    try:
        for data in chunks:
            while data:
                unit = unit or start()
                yield unit.decompress(data)
                data = unit.unused_data if unit.eof else b""
                unit = None if unit.eof else unit
    except (zlib.error, zstandard.ZstdError) as error:
        raise DataError(f"{file}: damaged archive ({error})") from None
    if unit is not None:
        raise DataError(f"{file}: the archive ends too early; it is not complete")
