"""The raw texts and conversations of a source, one at a time, from files on this machine or in S3.

`prepare` reads them unit by unit (`units`). A text that cannot be decoded is refused with its place and never repaired:
a replaced byte would be trained on.
"""

import json
import zlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any, BinaryIO

from longspan import storage
from longspan.config.corpus import ArrowSource, ChatSource, JsonlSource, LinesSection, ParquetSource, TextualSource
from longspan.corpus.bad_rows import NO_FIELD, NOT_JSON, NOT_TEXT, NOT_UTF8, OVERLONG, BadRowError
from longspan.corpus.columns import arrow_texts, parquet_records, parquet_texts
from longspan.corpus.units import Piece, is_archive, is_parquet
from longspan.errors import DataError

_CHUNK_BYTES = 4 << 20
_FILES_AHEAD = 16
_LARGEST_WINDOW = 1 << 31
_BOM = b"\xef\xbb\xbf"


def read_texts(source: TextualSource, pieces: Sequence[Piece]) -> Iterator[str | BadRowError]:
    """The documents in `pieces` in order; in place of a bad one its error, which names file and line, row or byte.

    Bad are texts that are not UTF-8, lines and rows without their text, and what is longer than `max_document_bytes`.

    Raises:
        DataError: a damaged file, or a .zst file with too long a window.
        StorageError: a file could not be read.
    """
    limit = source.max_document_bytes
    if isinstance(source, JsonlSource):
        return (text for piece in pieces for text in _jsonl_texts(source, piece))
    if isinstance(source, ParquetSource):
        return (
            text
            for piece in pieces
            for text in parquet_texts(piece.uri, source.text_field, piece.begin, piece.end, limit)
        )
    if isinstance(source, ArrowSource):
        return (text for piece in pieces for text in arrow_texts(piece.uri, source.text_field, limit))
    return _file_texts(pieces, limit)


def read_records(
    source: ChatSource, pieces: Sequence[Piece], fields: Sequence[str]
) -> Iterator[tuple[str, Any] | BadRowError]:
    """The records in `pieces` in order, as JSON or Parquet has them, each with its place ("FILE, line N").

    A bad one's error stands in its place: a line that is not UTF-8, not JSON or too long.

    Args:
        fields: columns of Parquet that are wanted.

    Raises:
        DataError: a damaged file, or a .zst file with too long a window.
        StorageError: a file could not be read.
    """
    for piece in pieces:
        if is_parquet(source, piece.uri):
            yield from parquet_records(piece.uri, fields, piece.begin, piece.end, source.max_document_bytes)
        else:
            yield from _jsonl_records(source, piece)


def _file_texts(pieces: Sequence[Piece], max_bytes: int) -> Iterator[str | BadRowError]:
    for piece, data in _read_ahead(pieces, max_bytes):
        if data is None:
            yield _overlong(piece.uri, piece.size, max_bytes)
            continue
        if len(data) != piece.size:
            raise DataError(
                f"{piece.uri}: {len(data)} bytes, but {piece.size} when it was listed; run again when it is written"
            )
        try:
            yield _decode(data, piece.uri, 0)
        except BadRowError as error:
            yield error


def _read_ahead(pieces: Sequence[Piece], max_bytes: int) -> Iterator[tuple[Piece, bytes | None]]:
    """Each file with its content, None where it is too long; remote ones are fetched several at a time, in order."""

    def read(piece: Piece) -> bytes | None:
        return storage.read_bytes(piece.uri) if piece.size <= max_bytes else None

    if not pieces or not storage.is_remote(pieces[0].uri):
        yield from ((piece, read(piece)) for piece in pieces)
        return
    with ThreadPoolExecutor(_FILES_AHEAD) as pool:
        for begin in range(0, len(pieces), _FILES_AHEAD):
            group = pieces[begin : begin + _FILES_AHEAD]
            yield from zip(group, pool.map(read, group), strict=True)


def _jsonl_texts(source: JsonlSource, piece: Piece) -> Iterator[str | BadRowError]:
    for row in _jsonl_records(source, piece):
        if isinstance(row, BadRowError):
            yield row
            continue
        where, record = row
        try:
            yield _record_text(record, source.text_field, where)
        except BadRowError as error:
            yield error


def _jsonl_records(source: LinesSection, piece: Piece) -> Iterator[tuple[str, Any] | BadRowError]:
    """The lines that begin in the piece; the last of them may end behind it."""
    file = piece.uri
    for number, (offset, line) in enumerate(_lines(source, piece), start=1):
        # Inside a file lines are not counted: the ones before belong to other tasks.
        where = f"{file}, line {number}" if piece.begin == 0 else f"{file}, the line at byte {offset}"
        if isinstance(line, int):
            yield _overlong(where, line, source.max_document_bytes)
        elif line.strip():
            try:
                text = _decode(line.removeprefix(_BOM) if offset == 0 else line, file, offset)
                yield where, json.loads(text)
            except BadRowError as error:
                yield error
            except (ValueError, RecursionError) as error:
                yield BadRowError(NOT_JSON, f"{where}: not valid JSON ({error})")


def _record_text(record: Any, text_field: str, where: str) -> str:
    if not isinstance(record, dict) or text_field not in record:
        has = list(record)[:10] if isinstance(record, dict) else type(record).__name__
        raise BadRowError(NO_FIELD, f"{where}: no field '{text_field}'; it has {has} (set text_field)")
    text = record[text_field]
    if not isinstance(text, str):
        raise BadRowError(NOT_TEXT, f"{where}: field '{text_field}' is {type(text).__name__}, not text")
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise BadRowError(
            NOT_UTF8, f"{where}: field '{text_field}' holds half a surrogate pair at character {error.start}"
        ) from None
    return text


def _decode(data: bytes, file: str, offset: int) -> str:
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError as error:
        place = offset + error.start
        raise BadRowError(
            NOT_UTF8, f"{file}: not UTF-8 at byte {place} ({error.reason}); convert the file or leave it out"
        ) from None


def _overlong(where: str, num_bytes: int, max_bytes: int) -> BadRowError:
    return BadRowError(OVERLONG, f"{where}: {num_bytes} bytes, more than max_document_bytes {max_bytes}")


def _lines(source: LinesSection, piece: Piece) -> Iterator[tuple[int, bytes | int]]:
    """Lines that begin in the piece, without their newline, each with its first byte in the (decompressed) file.

    Of a line that is longer than `max_document_bytes` there is its size only.
    """
    limit = source.max_document_bytes
    with storage.open_input(piece.uri) as stream:
        if is_archive(piece.uri):
            yield from _split(_plain(_chunks(stream), piece.uri, source.zst_window_bytes), 0, limit)
            return
        if piece.begin == 0:
            lines = _split(_chunks(stream), 0, limit)
        else:
            # A line begins behind a newline, so what ends with the first one from the byte before on is not ours.
            stream.seek(piece.begin - 1)
            lines = _split(_chunks(stream), piece.begin - 1, limit)
            next(lines, None)
        for offset, line in lines:
            if offset >= piece.end:
                return
            yield offset, line


def _chunks(stream: BinaryIO) -> Iterator[bytes]:
    return iter(lambda: stream.read(_CHUNK_BYTES), b"")


def _split(chunks: Iterable[bytes], offset: int, limit: int) -> Iterator[tuple[int, bytes | int]]:
    """Lines of the bytes in `chunks`, the first of which begins at byte `offset`; the size of any over `limit`."""
    begun: list[bytes] = []
    size = 0

    def add(part: bytes) -> None:
        nonlocal size
        size += len(part)
        begun.append(part)
        if size > limit:
            begun.clear()

    for chunk in chunks:
        head, *lines = chunk.split(b"\n")
        add(head)
        for following in lines:
            yield offset, b"".join(begun) if size <= limit else size
            offset += size + 1
            begun, size = [], 0
            add(following)
    if size:
        yield offset, b"".join(begun) if size <= limit else size


def _plain(chunks: Iterator[bytes], file: str, window_bytes: int) -> Iterator[bytes]:
    """`chunks` of a .gz or .zst file decompressed."""
    import zstandard

    # Decompressors and not the file objects of these libraries: zstandard's reads a truncated file as a shorter one.
    start: Callable[[], Any] = partial(zlib.decompressobj, wbits=31)
    if not file.endswith(".gz"):
        start = zstandard.ZstdDecompressor(max_window_size=min(window_bytes, _LARGEST_WINDOW)).decompressobj
    part = start()
    begin = b""
    try:
        for data in chunks:
            while data:
                begin = begin or data
                part = part or start()
                yield part.decompress(data)
                data = part.unused_data if part.eof else b""
                part, begin = (None, b"") if part.eof else (part, begin)
    except (zlib.error, zstandard.ZstdError) as error:
        window = _window_bytes(begin)
        if window > window_bytes:
            raise DataError(
                f"{file}: compressed with a window of {window} bytes, more than zst_window_bytes {window_bytes}; set"
                f" zst_window_bytes: {window} (memory of each worker), or compress it without --long"
            ) from None
        raise DataError(f"{file}: damaged archive ({error})") from None
    if part is not None:
        raise DataError(f"{file}: the archive ends too early; it is not complete")


def _window_bytes(begin: bytes) -> int:
    """The window that a .zst frame asks for at its begin, 0 if that cannot be told."""
    import zstandard

    try:
        return int(zstandard.get_frame_parameters(begin[:32]).window_size)
    except zstandard.ZstdError:
        return 0
