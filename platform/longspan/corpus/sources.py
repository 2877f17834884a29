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
from longspan.config.corpus import ArrowSource, ChatSource, JsonlSource, ParquetSource, TextualSource
from longspan.corpus.columns import arrow_texts, parquet_records, parquet_texts
from longspan.corpus.units import Piece, is_archive, is_parquet
from longspan.errors import DataError

_CHUNK_BYTES = 4 << 20
_FILES_AHEAD = 16


def read_texts(source: TextualSource, pieces: Sequence[Piece]) -> Iterator[str]:
    """The documents in `pieces` in order.

    Raises:
        DataError: a text that is not UTF-8 (file and byte), a line or row without its text (file and line or row), or a
            damaged file.
        StorageError: a file could not be read.
    """
    if isinstance(source, JsonlSource):
        return (text for piece in pieces for text in _jsonl_texts(piece, source.text_field))
    if isinstance(source, ParquetSource):
        return (
            text for piece in pieces for text in parquet_texts(piece.uri, source.text_field, piece.begin, piece.end)
        )
    if isinstance(source, ArrowSource):
        return (text for piece in pieces for text in arrow_texts(piece.uri, source.text_field))
    return _file_texts(pieces)


def read_records(source: ChatSource, pieces: Sequence[Piece]) -> Iterator[tuple[str, Any]]:
    """The records in `pieces` in order, as JSON or Parquet has them, each with its place ("FILE, line N").

    Raises:
        DataError: a line that is not UTF-8 or not JSON, or a damaged file.
        StorageError: a file could not be read.
    """
    fields = (source.messages_field, source.prompt_field, source.response_field)
    for piece in pieces:
        if is_parquet(source, piece.uri):
            yield from parquet_records(piece.uri, fields, piece.begin, piece.end)
        else:
            yield from _jsonl_records(piece)


def _file_texts(pieces: Sequence[Piece]) -> Iterator[str]:
    for piece, data in _read_ahead(pieces):
        if len(data) != piece.size:
            raise DataError(
                f"{piece.uri}: {len(data)} bytes, but {piece.size} when it was listed; run again when it is written"
            )
        yield _decode(data, piece.uri, 0)


def _read_ahead(pieces: Sequence[Piece]) -> Iterator[tuple[Piece, bytes]]:
    """Each file with its content; remote ones are fetched several at a time, in order."""
    if not pieces or not storage.is_remote(pieces[0].uri):
        yield from ((piece, storage.read_bytes(piece.uri)) for piece in pieces)
        return
    with ThreadPoolExecutor(_FILES_AHEAD) as pool:
        for begin in range(0, len(pieces), _FILES_AHEAD):
            group = pieces[begin : begin + _FILES_AHEAD]
            yield from zip(group, pool.map(storage.read_bytes, [piece.uri for piece in group]), strict=True)


def _jsonl_texts(piece: Piece, text_field: str) -> Iterator[str]:
    return (_record_text(record, text_field, where) for where, record in _jsonl_records(piece))


def _jsonl_records(piece: Piece) -> Iterator[tuple[str, Any]]:
    """The lines that begin in the piece; the last of them may end behind it."""
    file = piece.uri
    for number, (offset, line) in enumerate(_lines(piece), start=1):
        if line.strip():
            # Inside a file lines are not counted: the ones before belong to other tasks.
            where = f"{file}, line {number}" if piece.begin == 0 else f"{file}, the line at byte {offset}"
            try:
                record = json.loads(_decode(line, file, offset))
            except (ValueError, RecursionError) as error:
                raise DataError(f"{where}: not valid JSON ({error})") from None
            yield where, record


def _record_text(record: Any, text_field: str, where: str) -> str:
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


def _lines(piece: Piece) -> Iterator[tuple[int, bytes]]:
    """Lines that begin in the piece, without their newline, each with its first byte in the (decompressed) file."""
    with storage.open_input(piece.uri) as stream:
        if is_archive(piece.uri):
            yield from _split(_plain(_chunks(stream), piece.uri), 0)
            return
        if piece.begin == 0:
            lines = _split(_chunks(stream), 0)
        else:
            # A line begins behind a newline, so what ends with the first one from the byte before on is not ours.
            stream.seek(piece.begin - 1)
            lines = _split(_chunks(stream), piece.begin - 1)
            next(lines, None)
        for offset, line in lines:
            if offset >= piece.end:
                return
            yield offset, line


def _chunks(stream: BinaryIO) -> Iterator[bytes]:
    return iter(lambda: stream.read(_CHUNK_BYTES), b"")


def _split(chunks: Iterable[bytes], offset: int) -> Iterator[tuple[int, bytes]]:
    """Lines of the bytes in `chunks`, the first of which begins at byte `offset`."""
    begun: list[bytes] = []
    for chunk in chunks:
        head, *lines = chunk.split(b"\n")
        begun.append(head)
        for following in lines:
            line = b"".join(begun)
            yield offset, line
            offset += len(line) + 1
            begun = [following]
    if any(begun):
        yield offset, b"".join(begun)


def _plain(chunks: Iterator[bytes], file: str) -> Iterator[bytes]:
    """`chunks` of a .gz or .zst file decompressed."""
    import zstandard

    # Decompressors and not the file objects of these libraries: zstandard's reads a truncated file as a shorter one.
    start: Callable[[], Any] = (
        partial(zlib.decompressobj, wbits=31) if file.endswith(".gz") else zstandard.ZstdDecompressor().decompressobj
    )
    part = start()
    try:
        for data in chunks:
            while data:
                part = part or start()
                yield part.decompress(data)
                data = part.unused_data if part.eof else b""
                part = None if part.eof else part
    except (zlib.error, zstandard.ZstdError) as error:
        raise DataError(f"{file}: damaged archive ({error})") from None
    if part is not None:
        raise DataError(f"{file}: the archive ends too early; it is not complete")
