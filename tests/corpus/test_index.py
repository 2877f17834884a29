"""The table of documents: what the index says is compared with manifest and chunks, document by document."""

import dataclasses
import io
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from longspan import storage
from longspan.corpus import index as index_module
from longspan.corpus.index import corpus_table, document_offset
from longspan.corpus.manifest import Manifest
from longspan.errors import DataError
from tests.corpus_files import random_documents, write_corpus
from tests.s3 import Fault

LENGTHS = {"books": [30, 500, 1700, 20, 499, 2, 900], "code": [100] * 12, "chat": [1, 2, 3, 4000]}


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, Manifest]:
    uri = str(tmp_path_factory.mktemp("corpus"))
    documents = {name: random_documents(i, lengths) for i, (name, lengths) in enumerate(LENGTHS.items())}
    return uri, write_corpus(uri, documents, shard_tokens=2000)


@pytest.mark.parametrize("batch_rows", [1 << 18, 5])
def test_holds_every_document_and_chunk_in_order(
    corpus: tuple[str, Manifest], batch_rows: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(index_module, "_BATCH_ROWS", batch_rows)
    table = corpus_table(*corpus)
    assert table.source_names == ("books", "code", "chat")
    assert table.length.tolist() == [length for lengths in LENGTHS.values() for length in lengths]
    assert isinstance(table.length, np.memmap)
    assert table.length.dtype == np.int32
    assert table.source_documents.tolist() == [7, 12, 4]
    assert table.source_tokens.tolist() == [sum(lengths) for lengths in LENGTHS.values()]
    assert table.num_tokens == sum(map(sum, LENGTHS.values()))
    # A document of 1700 tokens has four chunks of 500, of which the first counts it.
    assert table.chunk_documents[:7].tolist() == [1, 1, 1, 0, 0, 0, 1]
    assert table.chunk_offset[:7].tolist() == [0, 30, 530, 1030, 1530, 2030, 2230]


def test_a_document_is_found_in_the_stream(corpus: tuple[str, Manifest]) -> None:
    table = corpus_table(*corpus)
    expected = np.cumsum(table.length, dtype=np.int64) - table.length
    assert [document_offset(table, number) for number in range(table.num_documents)] == expected.tolist()
    for number in (-1, 23):
        with pytest.raises(DataError, match=f"document {number} does not exist; the corpus has 23"):
            document_offset(table, number)


def with_index(corpus: tuple[str, Manifest], folder: Path, table: pa.Table | bytes) -> tuple[str, Manifest]:
    """A corpus folder with this index, and a manifest with its digest: as if prepare had written it."""
    uri, manifest = corpus
    if isinstance(table, bytes):
        data = table
    else:
        sink = io.BytesIO()
        pq.write_table(table, sink)
        data = sink.getvalue()
    (folder / "documents.parquet").write_bytes(data)
    (folder / "chunks.parquet").write_bytes(Path(uri, "chunks.parquet").read_bytes())
    info = dataclasses.replace(manifest.index, bytes=len(data), digest=storage.digest_bytes(data))
    return str(folder), dataclasses.replace(manifest, index=info)


def columns(corpus: tuple[str, Manifest]) -> dict[str, Any]:
    table = pq.read_table(Path(corpus[0], "documents.parquet"))
    return {name: table[name].to_pylist() for name in table.column_names}


def as_table(values: dict[str, Any]) -> pa.Table:
    types = {"source": pa.string(), "shard": pa.string(), "row": pa.int32(), "length": pa.int32()}
    return pa.table({name: pa.array(column, types.get(name)) for name, column in values.items()})


def swap(values: list[Any], i: int, j: int) -> None:
    values[i], values[j] = values[j], values[i]


EDITS: list[tuple[Callable[[dict[str, Any]], Any], str]] = [
    (lambda v: [column.pop() for column in v.values()], r"22 documents, but 23 in the manifest"),
    (lambda v: v["length"].__setitem__(0, 31), r"shards/books-00000\.parquet: the documents up to 0 have other"),
    (lambda v: v["length"].__setitem__(22, 1), r"shards/chat-00001\.parquet: the documents up to 22 have other"),
    (lambda v: swap(v["length"], 0, 1), r"shards/books-00000\.parquet: the documents up to 0 have other lengths"),
    (lambda v: v["length"].__setitem__(3, 0), r"document 3 should be row 1 of .*, source books, 0 tokens"),
    (lambda v: v["shard"].__setitem__(0, "shards/x.parquet"), r"shard 'shards/x\.parquet' is not in the manifest"),
    (lambda v: v["source"].__setitem__(0, "nobody"), r"source 'nobody' is not in the manifest"),
    (lambda v: v["source"].__setitem__(1, "code"), r"document 1 should be row 1 of .*books.*, source code"),
    (lambda v: swap(v["row"], 0, 1), r"document 0 should be row 0 of shards/books-00000\.parquet, but is .* row 1"),
    (lambda v: v.pop("row"), r"not an index of documents"),
    (lambda v: v["row"].__setitem__(0, None), r"not an index of documents: columns with nulls"),
]


@pytest.mark.parametrize(("edit", "message"), EDITS)
@pytest.mark.parametrize("batch_rows", [1 << 18, 3])
def test_rejects_an_index_that_disagrees(
    corpus: tuple[str, Manifest],
    tmp_path: Path,
    edit: Callable[[dict[str, Any]], Any],
    message: str,
    batch_rows: int,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(index_module, "_BATCH_ROWS", batch_rows)
    values = columns(corpus)
    edit(values)
    with pytest.raises(DataError, match=r"documents\.parquet: .*" + message):
        corpus_table(*with_index(corpus, tmp_path, as_table(values)))


def test_rejects_other_types_and_other_files(corpus: tuple[str, Manifest], tmp_path: Path) -> None:
    table = as_table(columns(corpus))
    floats = table.set_column(2, "row", table["row"].cast(pa.float64()))
    with pytest.raises(DataError, match="not an index of documents: columns"):
        corpus_table(*with_index(corpus, tmp_path, floats))
    with pytest.raises(DataError, match="not an index of documents"):
        corpus_table(*with_index(corpus, tmp_path, b"something else"))


def test_rejects_a_damaged_or_missing_file(corpus: tuple[str, Manifest], tmp_path: Path) -> None:
    data = bytearray(Path(corpus[0], "documents.parquet").read_bytes())
    with_index(corpus, tmp_path, bytes(data))
    data[len(data) // 2] ^= 1
    (tmp_path / "documents.parquet").write_bytes(data)
    with pytest.raises(DataError, match=r"documents\.parquet: not the file that was prepared: expected .*, found .*"):
        corpus_table(str(tmp_path), corpus[1])
    (tmp_path / "documents.parquet").unlink()
    with pytest.raises(DataError, match=r"documents\.parquet: named in the manifest, but missing"):
        corpus_table(str(tmp_path), corpus[1])


def test_is_fetched_again_when_it_arrives_damaged(
    corpus: tuple[str, Manifest], s3_bucket: str, fault_proxy: Callable[..., Any]
) -> None:
    storage.upload_tree(corpus[0], s3_bucket)
    proxy = fault_proxy(Fault("flip", times=3, path="documents.parquet"))
    np.testing.assert_array_equal(corpus_table(s3_bucket, corpus[1]).length, corpus_table(*corpus).length)
    assert proxy.struck == {"flip": 3}
