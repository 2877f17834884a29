"""Texts and records in Parquet and Arrow files, a batch of rows at a time; whatever is wrong names file and row.

A row that is wrong comes as a `BadRowError` in its place; a file that is wrong is a DataError.

Called by `sources` for the documents and by `units` for the sizes of row groups.
"""

import io
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, BinaryIO, cast

from longspan import storage
from longspan.corpus.bad_rows import NOT_TEXT, NOT_UTF8, OVERLONG, BadRowError
from longspan.errors import DataError

if TYPE_CHECKING:
    import pyarrow as pa

_BATCH_ROWS = 128
_READ_BYTES = 4 << 20
_FILE_MAGIC = b"ARROW1"
_STREAM_END = b"\xff\xff\xff\xff\0\0\0\0"


def row_group_bytes(file: str, text_field: str | None) -> list[int]:
    """Bytes of text, or of all columns if no field is named, before compression, in each row group of a Parquet file.

    Raises:
        DataError: the file is damaged, or the column is missing or not text.
        StorageError: it could not be read.
    """
    import pyarrow.parquet as pq

    with storage.open_input(file) as stream, _damage(file, "Parquet"):
        metadata = pq.read_metadata(stream)
        if text_field is None:
            return [metadata.row_group(i).total_byte_size for i in range(metadata.num_row_groups)]
        _check_column(metadata.schema.to_arrow_schema(), text_field, file)
        paths = [metadata.schema.column(i).path for i in range(metadata.num_columns)]
        column = paths.index(text_field)
        return [metadata.row_group(i).column(column).total_uncompressed_size for i in range(metadata.num_row_groups)]


def parquet_texts(file: str, text_field: str, begin: int, end: int, max_bytes: int) -> Iterator[str | BadRowError]:
    """The texts in row groups [begin, end) of a Parquet file; a bad row is one that is null, not UTF-8 or too long.

    Raises:
        DataError: the file is damaged, or the column is missing or not text.
        StorageError: it could not be read.
    """
    import pyarrow.parquet as pq

    with storage.open_input(file) as stream, _damage(file, "Parquet"):
        parquet = pq.ParquetFile(stream)
        _check_column(parquet.schema_arrow, text_field, file)
        row = sum(parquet.metadata.row_group(i).num_rows for i in range(begin))
        groups = list(range(begin, end))
        for batch in parquet.iter_batches(_BATCH_ROWS, row_groups=groups, columns=[text_field], use_threads=False):
            yield from _texts(batch.column(0), text_field, file, row, max_bytes)
            row += batch.num_rows


def parquet_records(
    file: str, fields: Collection[str], begin: int, end: int, max_bytes: int
) -> Iterator[tuple[str, dict[str, Any]] | BadRowError]:
    """The rows in row groups [begin, end) of a Parquet file as records, each with its place ("FILE, row N").

    Nulls in objects are left out: Parquet has them for every key that only another row has.

    Args:
        fields: columns to read, those that there are; if there is none of them, all.
        max_bytes: of a row; a longer one is bad, as is one that is not UTF-8.

    Raises:
        DataError: the file is damaged.
        StorageError: it could not be read.
    """
    import pyarrow.parquet as pq

    with storage.open_input(file) as stream, _damage(file, "Parquet"):
        parquet = pq.ParquetFile(stream)
        columns = [name for name in parquet.schema_arrow.names if name in fields] or None
        row = sum(parquet.metadata.row_group(i).num_rows for i in range(begin))
        groups = list(range(begin, end))
        for batch in parquet.iter_batches(_BATCH_ROWS, row_groups=groups, columns=columns, use_threads=False):
            yield from _records(batch, file, row, max_bytes)
            row += batch.num_rows


def _records(
    batch: "pa.RecordBatch", file: str, first_row: int, max_bytes: int
) -> Iterator[tuple[str, dict[str, Any]] | BadRowError]:
    import pyarrow as pa

    is_good = batch.nbytes <= max_bytes and not _not_utf8(batch)
    records = batch.to_pylist() if is_good else [None] * batch.num_rows
    for number, record in enumerate(records):
        where = f"{file}, row {first_row + number}"
        if record is None:
            one = batch.take(pa.array([number]))  # a slice would be checked with all rows of its lists
            if one.nbytes > max_bytes:
                yield _overlong(where, one.nbytes, max_bytes)
                continue
            if reason := _not_utf8(one):
                yield BadRowError(NOT_UTF8, f"{where}: not UTF-8 text ({reason})")
                continue
            record = one.to_pylist()[0]
        yield where, _without_nulls(record)


def _without_nulls(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _without_nulls(item) for key, item in value.items() if item is not None}
    return [_without_nulls(item) for item in value] if isinstance(value, list) else value


def arrow_texts(file: str, text_field: str, max_bytes: int) -> Iterator[str | BadRowError]:
    """The texts of an Arrow IPC stream (as `save_to_disk` writes) or file (.feather), as `parquet_texts`."""
    import pyarrow as pa

    with storage.open_input(file) as raw, _damage(file, "Arrow"):
        # Messages are read in small parts: a remote file would be asked for each of them.
        stream = cast(BinaryIO, io.BufferedReader(cast(io.RawIOBase, raw), _READ_BYTES))
        is_file = stream.read(len(_FILE_MAGIC)) == _FILE_MAGIC
        if not is_file:
            _check_end(stream, file)
        stream.seek(0)
        schema = (pa.ipc.open_file if is_file else pa.ipc.open_stream)(stream).schema
        _check_column(schema, text_field, file)
        options = pa.ipc.IpcReadOptions(included_fields=[schema.get_field_index(text_field)], use_threads=False)
        stream.seek(0)
        row = 0
        for batch in _batches(stream, is_file, options):
            for begin in range(0, batch.num_rows, _BATCH_ROWS):
                rows = batch.column(0).slice(begin, _BATCH_ROWS)
                yield from _texts(rows, text_field, file, row + begin, max_bytes)
            row += batch.num_rows


def _batches(stream: BinaryIO, is_file: bool, options: "pa.ipc.IpcReadOptions") -> "Iterator[pa.RecordBatch]":
    import pyarrow as pa

    if not is_file:
        yield from pa.ipc.open_stream(stream, options=options)
        return
    reader = pa.ipc.open_file(stream, options=options)
    for number in range(reader.num_record_batches):
        yield reader.get_batch(number)


def _check_end(stream: BinaryIO, file: str) -> None:
    """A stream that was cut between two batches reads like a shorter one; only its end mark tells."""
    stream.seek(0, io.SEEK_END)
    stream.seek(max(0, stream.tell() - len(_STREAM_END)))
    if stream.read() != _STREAM_END:
        raise DataError(f"{file}: not an Arrow stream, or it ends too early; copy or make the file again")


def _check_column(schema: "pa.Schema", text_field: str, file: str) -> None:
    columns = {field.name: field.type for field in schema}
    found = columns.get(text_field)
    if found is None or not _is_text(found):
        has = ", ".join(f"{name} ({kind})" for name, kind in list(columns.items())[:20])
        what = f"no column '{text_field}'" if found is None else f"column '{text_field}' is {found}, not text"
        raise DataError(f"{file}: {what}; it has {has or 'no columns'} (set text_field)")


def _is_text(kind: "pa.DataType") -> bool:
    import pyarrow as pa

    if pa.types.is_dictionary(kind):
        kind = kind.value_type
    return bool(pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_string_view(kind))


def _texts(
    column: "pa.Array", text_field: str, file: str, first_row: int, max_bytes: int
) -> Iterator[str | BadRowError]:
    """The texts of some rows; the whole column is checked first: Arrow believes offsets and text as they come."""
    import pyarrow as pa

    is_good = not _not_utf8(column)
    if pa.types.is_dictionary(column.type):
        column = column.dictionary.take(column.indices)
    if is_good and not column.null_count and column.nbytes <= max_bytes:
        yield from column.to_pylist()
        return
    for number in range(len(column)):
        where = f"{file}, row {first_row + number}"
        one = column.slice(number, 1)
        if one.null_count:
            yield BadRowError(NOT_TEXT, f"{where}: '{text_field}' is null")
        elif (num_bytes := one[0].as_buffer().size) > max_bytes:
            yield _overlong(where, num_bytes, max_bytes)
        elif reason := _not_utf8(one):
            yield BadRowError(NOT_UTF8, f"{where}: '{text_field}' is not UTF-8 text ({reason})")
        else:
            yield one[0].as_py()


def _not_utf8(values: "pa.Array | pa.RecordBatch") -> str:
    """Why the values are no text, "" if they are. Raises ArrowInvalid for values that are damaged in another way."""
    import pyarrow as pa

    try:
        values.validate(full=True)
    except pa.ArrowInvalid as error:
        if "UTF8" not in str(error):
            raise
        return _line(error)
    return ""


def _overlong(where: str, num_bytes: int, max_bytes: int) -> BadRowError:
    return BadRowError(OVERLONG, f"{where}: {num_bytes} bytes, more than max_document_bytes {max_bytes}")


@contextmanager
def _damage(file: str, kind: str) -> Iterator[None]:
    """What Arrow says of a file that it cannot read, as a DataError that names the file."""
    import pyarrow as pa

    try:
        yield
    except (pa.ArrowException, OSError, EOFError) as error:
        raise DataError(f"{file}: not {kind}, or damaged ({_line(error)}); copy or make the file again") from None


def _line(error: BaseException) -> str:
    return " ".join(str(error).split())
