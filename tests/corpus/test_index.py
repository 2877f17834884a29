"""The index: what it says is compared with the manifest, document by document."""

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
from longspan.corpus.index import document_index
from longspan.corpus.manifest import Manifest
from longspan.errors import DataError
from tests.corpus.conftest import Prepared


def test_lists_every_document_in_order(prepared: Prepared) -> None:
    index = document_index(prepared.uri, prepared.manifest)
    assert [index.source_id.dtype, index.shard_id.dtype, index.row.dtype, index.length.dtype] == [
        np.int16,
        np.int32,
        np.int32,
        np.int32,
    ]
    assert np.bincount(index.source_id).tolist() == [12, 8, 20]
    for source_id, name in enumerate(prepared.manifest.sources):
        lengths = index.length[index.source_id == source_id]
        info = prepared.manifest.sources[name]
        assert (lengths.size, lengths.sum()) == (info.documents, info.tokens)
        for bucket, count in info.length_histogram.items():
            assert ((lengths >= bucket) & (lengths < 2 * bucket)).sum() == count
        assert sum(info.length_histogram.values()) == info.documents


def with_index(prepared: Prepared, folder: Path, table: pa.Table | bytes) -> tuple[str, Manifest]:
    """A corpus folder with this index, and a manifest with its digest: as if prepare had written it."""
    if isinstance(table, bytes):
        data = table
    else:
        sink = io.BytesIO()
        pq.write_table(table, sink)
        data = sink.getvalue()
    (folder / "documents.parquet").write_bytes(data)
    info = dataclasses.replace(prepared.manifest.index, bytes=len(data), digest=storage.digest_bytes(data))
    return str(folder), dataclasses.replace(prepared.manifest, index=info)


def columns(prepared: Prepared) -> dict[str, Any]:
    table = pq.read_table(Path(prepared.uri, "documents.parquet"))
    return {name: table[name].to_pylist() for name in table.column_names}


def as_table(values: dict[str, Any]) -> pa.Table:
    types = {"source": pa.string(), "shard": pa.string(), "row": pa.int32(), "length": pa.int32()}
    return pa.table({name: pa.array(column, types.get(name)) for name, column in values.items()})


def swap(values: list[Any]) -> None:
    values[0], values[1] = values[1], values[0]


EDITS: list[tuple[Callable[[dict[str, Any]], Any], str]] = [
    (lambda v: [column.pop() for column in v.values()], r"shards/lines-0000\d\.parquet has \d+ documents and"),
    (lambda v: v["length"].__setitem__(0, 1), r"shards/needles-00000\.parquet has"),
    (lambda v: v["shard"].__setitem__(0, "shards/x.parquet"), r"shard 'shards/x\.parquet' is not in the manifest"),
    (lambda v: v["source"].__setitem__(0, "nobody"), r"source 'nobody' is not in the manifest"),
    (lambda v: v["source"].__setitem__(3, "lines"), r"document 3 should be row 3 of .*needles.*, source lines"),
    (lambda v: swap(v["row"]), r"document 0 should be row 0 of shards/needles-00000\.parquet, but is listed as row 1"),
    (lambda v: v.pop("row"), r"not an index of documents"),
    (lambda v: v["row"].__setitem__(0, None), r"not an index of documents: columns"),
]


@pytest.mark.parametrize(("edit", "message"), EDITS)
def test_rejects_an_index_that_disagrees(
    prepared: Prepared, tmp_path: Path, edit: Callable[[dict[str, Any]], Any], message: str
) -> None:
    values = columns(prepared)
    edit(values)
    with pytest.raises(DataError, match=r"documents\.parquet: .*" + message):
        document_index(*with_index(prepared, tmp_path, as_table(values)))


def test_rejects_other_types_and_other_files(prepared: Prepared, tmp_path: Path) -> None:
    table = as_table(columns(prepared))
    floats = table.set_column(2, "row", table["row"].cast(pa.float64()))
    with pytest.raises(DataError, match="not an index of documents: columns"):
        document_index(*with_index(prepared, tmp_path, floats))
    with pytest.raises(DataError, match="not an index of documents"):
        document_index(*with_index(prepared, tmp_path, b"something else"))


def test_rejects_a_damaged_or_missing_file(prepared: Prepared, tmp_path: Path) -> None:
    data = bytearray(Path(prepared.uri, "documents.parquet").read_bytes())
    data[len(data) // 2] ^= 1
    (tmp_path / "documents.parquet").write_bytes(data)
    with pytest.raises(DataError, match=r"documents\.parquet: not the file that was prepared: expected .*, found .*"):
        document_index(str(tmp_path), prepared.manifest)
    (tmp_path / "documents.parquet").unlink()
    with pytest.raises(DataError, match=r"documents\.parquet: named in the manifest, but missing"):
        document_index(str(tmp_path), prepared.manifest)
