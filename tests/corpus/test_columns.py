"""Texts in Parquet and Arrow files: every layout that readers meet, and every way in which one can be wrong."""

from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from longspan import storage
from longspan.corpus.columns import arrow_texts, parquet_texts, row_group_bytes
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


def read(path: Path) -> list[str]:
    if path.suffix != ".parquet":
        return list(arrow_texts(str(path), "text"))
    return list(parquet_texts(str(path), "text", 0, len(row_group_bytes(str(path), "text"))))


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
        assert list(parquet_texts(f"{s3_bucket}/{name}", "text", 2, 5)) == TEXTS[80:200]
    else:
        assert list(arrow_texts(f"{s3_bucket}/{name}", "text")) == TEXTS


def test_row_groups_are_sized_by_their_text_and_read_apart(tmp_path: Path) -> None:
    path = tmp_path / "a.parquet"
    path.write_bytes(as_parquet(table()))
    sizes = row_group_bytes(str(path), "text")
    assert len(sizes) == 8
    assert all(40 < size < 4000 for size in sizes)
    parts = [list(parquet_texts(str(path), "text", begin, begin + 1)) for begin in range(8)]
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
def test_the_row_of_a_null_is_named(tmp_path: Path, name: str, write: Callable[[pa.Table], bytes]) -> None:
    (tmp_path / name).write_bytes(write(table(pa.array([*TEXTS[:250], None, *TEXTS[250:]]))))
    with pytest.raises(DataError, match=rf"{name}, row 250: 'text' is null"):
        read(tmp_path / name)


@EACH_FORMAT
def test_text_that_is_not_utf8_is_refused(tmp_path: Path, name: str, write: Callable[[pa.Table], bytes]) -> None:
    texts = [text.encode() for text in TEXTS]
    texts[260] = b"caf\xe9"
    offsets = pa.array(texts, pa.binary()).buffers()
    column = pa.StringArray.from_buffers(len(texts), offsets[1], offsets[2])
    (tmp_path / name).write_bytes(write(table(column)))
    with pytest.raises(DataError, match=rf"{name}, rows \d+ to \d+: column 'text' is not UTF-8 text"):
        read(tmp_path / name)


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
        list(parquet_texts(str(tmp_path / "a.parquet"), "text", 0, 1))
