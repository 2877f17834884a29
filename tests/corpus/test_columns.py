"""Texts in Parquet and Arrow files: every layout that readers meet, and every way in which one can be wrong."""

from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from longspan import storage
from longspan.corpus.bad_rows import NOT_TEXT, NOT_UTF8, OVERLONG, BadRowError
from longspan.corpus.columns import arrow_texts, parquet_records, parquet_texts, row_group_bytes
from longspan.errors import DataError

TEXTS = ["one", "", "gr\u00fcn\n", *(f"text {number} " * (number % 7) for number in range(300))]


def table(column: pa.Array | None = None) -> pa.Table:
    texts = pa.array(TEXTS) if column is None else column
    return pa.table({"id": list(range(len(texts))), "text": texts, "score": [0.5] * len(texts)})


def as_stream(rows: pa.Table) -> bytes:
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, rows.schema) as writer:
        writer.write_table(rows, max_chunksize=100)
    return sink.getvalue().to_pybytes()


def as_file(rows: pa.Table) -> bytes:
    sink = pa.BufferOutputStream()
    with pa.ipc.new_file(sink, rows.schema, options=pa.ipc.IpcWriteOptions(compression="zstd")) as writer:
        writer.write_table(rows, max_chunksize=100)
    return sink.getvalue().to_pybytes()


def as_parquet(rows: pa.Table) -> bytes:
    sink = pa.BufferOutputStream()
    pq.write_table(rows, sink, row_group_size=40)
    return sink.getvalue().to_pybytes()


LIMIT = 1 << 20


def read(path: Path, limit: int = LIMIT) -> list[str | BadRowError]:
    if path.suffix != ".parquet":
        return list(arrow_texts(str(path), "text", limit))
    return list(parquet_texts(str(path), "text", 0, len(row_group_bytes(str(path), "text")), limit))


def split(rows: list[str | BadRowError]) -> tuple[list[str], list[tuple[str, str]]]:
    """The texts, and the kind and message of each bad row."""
    bad = [(row.kind, str(row)) for row in rows if isinstance(row, BadRowError)]
    return [row for row in rows if isinstance(row, str)], bad


FORMATS: list[tuple[str, Callable[[pa.Table], bytes]]] = [
    ("a.arrow", as_stream),
    ("b.arrow", as_file),
    ("c.parquet", as_parquet),
]
EACH_FORMAT = pytest.mark.parametrize(("name", "write"), FORMATS, ids=["stream", "file", "parquet"])


@EACH_FORMAT
@pytest.mark.parametrize(
    "kind", [pa.string(), pa.large_string(), pa.string_view(), pa.dictionary(pa.int32(), pa.string())], ids=str
)
def test_every_kind_of_text_column_is_read(
    tmp_path: Path, name: str, write: Callable[[pa.Table], bytes], kind: pa.DataType
) -> None:
    # Each batch of a stream has the same dictionary: what is tested is the reader, not replacements of dictionaries.
    column = pa.array(TEXTS).dictionary_encode() if pa.types.is_dictionary(kind) else pa.array(TEXTS, kind)
    (tmp_path / name).write_bytes(write(table(column)))
    assert read(tmp_path / name) == TEXTS


@EACH_FORMAT
def test_objects_of_a_store_are_read_alike(
    tmp_path: Path, s3_bucket: str, name: str, write: Callable[[pa.Table], bytes]
) -> None:
    storage.write_bytes(f"{s3_bucket}/{name}", write(table()))
    if name == "c.parquet":
        assert list(parquet_texts(f"{s3_bucket}/{name}", "text", 2, 5, LIMIT)) == TEXTS[80:200]
    else:
        assert list(arrow_texts(f"{s3_bucket}/{name}", "text", LIMIT)) == TEXTS


def test_row_groups_are_sized_by_their_text_and_read_apart(tmp_path: Path) -> None:
    path = tmp_path / "a.parquet"
    path.write_bytes(as_parquet(table()))
    sizes = row_group_bytes(str(path), "text")
    assert len(sizes) == 8
    assert all(40 < size < 4000 for size in sizes)
    parts = [list(parquet_texts(str(path), "text", begin, begin + 1, LIMIT)) for begin in range(8)]
    assert [len(part) for part in parts] == [40] * 7 + [23]
    assert [text for part in parts for text in part] == TEXTS


@EACH_FORMAT
def test_a_column_that_is_missing_or_no_text_is_named(
    tmp_path: Path, name: str, write: Callable[[pa.Table], bytes]
) -> None:
    path = tmp_path / name
    path.write_bytes(write(table().rename_columns(["id", "body", "score"])))
    has = r"it has id \(int64\), body \(string\), score \(double\) \(set text_field\)"
    with pytest.raises(DataError, match=rf"{name}: no column 'text'; {has}"):
        read(path)
    path.write_bytes(write(pa.table({"text": [[1], [2]]})))
    with pytest.raises(DataError, match=rf"{name}: column 'text' is list<.*>, not text; it has text"):
        read(path)


@EACH_FORMAT
@pytest.mark.parametrize("is_dictionary", [False, True], ids=["plain", "dictionary"])
def test_bad_rows_are_named_and_the_others_are_read(
    tmp_path: Path, name: str, write: Callable[[pa.Table], bytes], is_dictionary: bool
) -> None:
    """A null, one that is not UTF-8 and one that is too long, among rows that are read a batch at a time."""
    texts = [text.encode() for text in TEXTS]
    texts[251:251] = [None, b"caf\xe9", b"x" * 5000]  # type: ignore[list-item]
    buffers = pa.array(texts, pa.binary()).buffers()
    column: pa.Array = pa.StringArray.from_buffers(len(texts), buffers[1], buffers[2], buffers[0])
    if is_dictionary and name != "c.parquet":  # Parquet's reader gives plain texts
        column = pa.DictionaryArray.from_arrays(pa.array(range(len(texts)), pa.int32()), column, safe=False)
    (tmp_path / name).write_bytes(write(table(column)))
    good, bad = split(read(tmp_path / name, 4000))
    assert good == TEXTS
    assert [kind for kind, _ in bad] == [NOT_TEXT, NOT_UTF8, OVERLONG]
    assert f"{name}, row 251: 'text' is null" in bad[0][1]
    assert f"{name}, row 252: 'text' is not UTF-8 text (" in bad[1][1]
    assert bad[2][1].endswith(f"{name}, row 253: 5000 bytes, more than max_document_bytes 4000")


def test_bad_records_are_named_and_the_others_are_read(tmp_path: Path) -> None:
    """Lists of objects, whose texts lie in one array for many rows."""
    texts = [b"one", b"two", b"caf\xe9", b"four", b"x" * 900]
    buffers = pa.array(texts, pa.binary()).buffers()
    column = pa.StringArray.from_buffers(len(texts), buffers[1], buffers[2])
    messages = pa.ListArray.from_arrays(
        pa.array(range(6), pa.int32()), pa.StructArray.from_arrays([column], ["content"])
    )
    pq.write_table(pa.table({"messages": messages}), tmp_path / "a.parquet")
    rows = list(parquet_records(str(tmp_path / "a.parquet"), ["messages"], 0, 1, 800))
    good = [row[1]["messages"][0]["content"] for row in rows if not isinstance(row, BadRowError)]
    assert good == ["one", "two", "four"]
    assert [(row.kind, number) for number, row in enumerate(rows) if isinstance(row, BadRowError)] == [
        (NOT_UTF8, 2),
        (OVERLONG, 4),
    ]
    assert "a.parquet, row 2: not UTF-8 text (" in str(rows[2])


@EACH_FORMAT
def test_a_file_cut_short_is_refused_wherever_it_is_cut(
    tmp_path: Path, name: str, write: Callable[[pa.Table], bytes]
) -> None:
    data = write(table())
    for size in sorted({0, 3, 8, *range(9, len(data), len(data) // 60), len(data) - 8, len(data) - 1}):
        (tmp_path / name).write_bytes(data[:size])
        with pytest.raises(DataError, match=rf"{name}: not "):
            read(tmp_path / name)


def test_a_stream_cut_between_batches_is_no_shorter_stream(tmp_path: Path) -> None:
    data = as_stream(table())
    cuts = [at for at in range(len(data) - 8) if data[at : at + 4] == b"\xff\xff\xff\xff"]
    assert len(cuts) >= 5  # the schema and four batches
    for cut in cuts:
        (tmp_path / "a.arrow").write_bytes(data[:cut])
        with pytest.raises(DataError, match=r"a\.arrow: not an Arrow stream, or it ends too early"):
            read(tmp_path / "a.arrow")


def test_a_damaged_page_is_refused(tmp_path: Path) -> None:
    data = bytearray(as_parquet(table().select(["text"])))
    data[40:90] = bytes(50)
    (tmp_path / "a.parquet").write_bytes(data)
    with pytest.raises(DataError, match=r"a\.parquet: not Parquet, or damaged \("):
        list(parquet_texts(str(tmp_path / "a.parquet"), "text", 0, 1, LIMIT))
