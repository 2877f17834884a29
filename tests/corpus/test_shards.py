"""Reading documents back: any span, every damage named, each shard fetched once."""

import dataclasses
import io
import shutil
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from longspan import storage
from longspan.corpus import manifest as manifest_module
from longspan.corpus.manifest import Manifest
from longspan.corpus.shards import ShardReader
from longspan.corpus.writer import shard_schema
from longspan.errors import DataError
from tests.corpus.conftest import Prepared
from tests.s3 import Fault


@pytest.fixture
def fetched(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Names of the shards that are read from storage."""
    names: list[str] = []
    read = storage.read_bytes

    def counted(uri: str) -> bytes:
        names.append(uri.rpartition("/")[2])
        return read(uri)

    monkeypatch.setattr(manifest_module.storage, "read_bytes", counted)
    return names


def all_rows(prepared: Prepared) -> list[dict[str, Any]]:
    return [
        row for shard in prepared.manifest.shards for row in pq.read_table(f"{prepared.uri}/{shard.file}").to_pylist()
    ]


def test_any_span_of_any_document(prepared: Prepared) -> None:
    reader = ShardReader(prepared.uri, prepared.manifest)
    rng = np.random.default_rng(0)
    for number, row in enumerate(all_rows(prepared)):
        begin, end = sorted(rng.integers(0, row["length"] + 1, 2))
        tokens, loss_weight = reader.document(number, int(begin), int(end - begin))
        assert (tokens.dtype, tokens.tolist()) == (np.uint32, row["tokens"][begin:end])
        if row["loss_weight"] is None:
            assert loss_weight is None
        else:
            assert loss_weight is not None
            assert (loss_weight.dtype, loss_weight.tolist()) == (np.float32, row["loss_weight"][begin:end])


def test_spans_are_views_that_cannot_be_written(prepared: Prepared) -> None:
    reader = ShardReader(prepared.uri, prepared.manifest)
    one, two = reader.document(0, 0, 100)[0], reader.document(0, 50, 100)[0]
    assert np.shares_memory(one, two)
    with pytest.raises(ValueError, match="read-only"):
        one[0] = 1


@pytest.mark.parametrize(("document", "start", "length"), [(0, 0, 201), (0, 200, 1), (0, -1, 5), (0, 3, -1)])
def test_rejects_a_span_outside_the_document(prepared: Prepared, document: int, start: int, length: int) -> None:
    reader = ShardReader(prepared.uri, prepared.manifest)
    with pytest.raises(DataError, match=r"shards/needles-00000\.parquet, row 0: tokens .* but the document has 200"):
        reader.document(document, start, length)


@pytest.mark.parametrize("document", [-1, 40])
def test_rejects_a_document_that_does_not_exist(prepared: Prepared, document: int) -> None:
    reader = ShardReader(prepared.uri, prepared.manifest)
    with pytest.raises(DataError, match=f"document {document} does not exist; it has 40"):
        reader.document(document, 0, 1)


def test_each_shard_is_fetched_once_from_many_threads(prepared: Prepared, fetched: list[str]) -> None:
    reader = ShardReader(prepared.uri, prepared.manifest)
    documents = np.random.default_rng(0).permutation(np.repeat(np.arange(40), 5))
    with ThreadPoolExecutor(8) as pool:
        sums = list(pool.map(lambda i: int(reader.document(int(i), 0, 10)[0].sum()), documents))
    rows = all_rows(prepared)
    assert sums == [sum(rows[i]["tokens"][:10]) for i in documents]
    assert sorted(fetched) == sorted(["documents.parquet", *(s.file[7:] for s in prepared.manifest.shards)])


def test_the_shards_used_last_are_kept_within_the_limit(prepared: Prepared, fetched: list[str]) -> None:
    shard_of = ShardReader(prepared.uri, prepared.manifest).index.shard_id
    first = [int(np.flatnonzero(shard_of == shard)[0]) for shard in range(3)]
    # Room for the first (with weights: 8 bytes a token) and either of the others (4 bytes), but not for all three.
    tokens = [shard.tokens for shard in prepared.manifest.shards]
    limit = 8 * tokens[0] + 4 * max(tokens[1], tokens[2]) + 1000
    reader = ShardReader(prepared.uri, prepared.manifest, cache_bytes=limit)
    fetched.clear()
    for shard in (0, 1, 0, 2, 0, 1):
        reader.document(first[shard], 0, 1)
    assert [prepared.manifest.shards[i].file[7:] for i in (0, 1, 2, 1)] == fetched
    # Even a limit below one shard keeps the last one.
    reader = ShardReader(prepared.uri, prepared.manifest, cache_bytes=0)
    fetched.clear()
    for shard in (0, 0, 1, 1):
        reader.document(first[shard], 0, 1)
    assert [prepared.manifest.shards[i].file[7:] for i in (0, 1)] == fetched


def test_a_flipped_bit_on_the_way_is_fetched_again(
    prepared: Prepared, s3_bucket: str, fault_proxy: Callable[..., Any]
) -> None:
    storage.upload_tree(prepared.uri, f"{s3_bucket}/corpus")
    proxy = fault_proxy(Fault("flip", times=3, path="needles-00000"))
    reader = ShardReader(f"{s3_bucket}/corpus", prepared.manifest)
    assert reader.document(0, 0, 200)[0].tolist() == all_rows(prepared)[0]["tokens"]
    assert proxy.struck == {"flip": 3}


def test_a_shard_that_stays_damaged_is_named_with_both_digests(
    prepared: Prepared, s3_bucket: str, fault_proxy: Callable[..., Any]
) -> None:
    storage.upload_tree(prepared.uri, f"{s3_bucket}/corpus")
    proxy = fault_proxy(Fault("flip", path="needles-00000"))
    reader = ShardReader(f"{s3_bucket}/corpus", prepared.manifest)
    info = prepared.manifest.shards[0]
    message = rf"s3://.*needles-00000\.parquet: not the file .*: expected {info.bytes} bytes, {info.digest}, found .*"
    with pytest.raises(DataError, match=message):
        reader.document(0, 0, 1)
    assert proxy.struck == {"flip": 4}


@pytest.fixture
def copied(prepared: Prepared, tmp_path: Path) -> Prepared:
    shutil.copytree(prepared.uri, tmp_path / "out")
    return prepared._replace(config=prepared.config.model_copy(update={"output": str(tmp_path / "out")}))


def test_a_missing_truncated_or_swapped_shard_is_named(copied: Prepared) -> None:
    first, second = (Path(copied.uri, shard.file) for shard in copied.manifest.shards[:2])
    data, other = first.read_bytes(), second.read_bytes()
    for damaged in (data[:-1], b"", other, data + b"\0"):
        first.write_bytes(damaged)
        with pytest.raises(DataError, match=r"needles-00000\.parquet: not the file that was prepared"):
            ShardReader(copied.uri, copied.manifest).document(0, 0, 1)
    first.unlink()
    with pytest.raises(DataError, match=r"needles-00000\.parquet: named in the manifest, but missing"):
        ShardReader(copied.uri, copied.manifest).document(0, 0, 1)


def replaced(copied: Prepared, table: pa.Table | bytes) -> ShardReader:
    """A reader of the corpus with another first shard, whose size and digest the manifest has."""
    if isinstance(table, bytes):
        data = table
    else:
        sink = io.BytesIO()
        pq.write_table(table, sink)
        data = sink.getvalue()
    info = dataclasses.replace(copied.manifest.shards[0], bytes=len(data), digest=storage.digest_bytes(data))
    Path(copied.uri, info.file).write_bytes(data)
    manifest: Manifest = dataclasses.replace(copied.manifest, shards=(info, *copied.manifest.shards[1:]))
    return ShardReader(copied.uri, manifest)


def test_rejects_a_shard_of_another_layout(copied: Prepared) -> None:
    table = pq.read_table(f"{copied.uri}/{copied.manifest.shards[0].file}")
    for other in (
        table.drop_columns(["length"]),
        table.rename_columns(["input_ids", "loss_weight", "length", "source"]),
    ):
        with pytest.raises(DataError, match=r"needles-00000\.parquet: columns \{.*\}, not those of a shard"):
            replaced(copied, other).document(0, 0, 1)
    signed = table.set_column(0, "tokens", table["tokens"].cast(pa.list_(pa.int32())))
    with pytest.raises(DataError, match="not those of a shard"):
        replaced(copied, signed).document(0, 0, 1)
    with pytest.raises(DataError, match="not a readable Parquet file"):
        replaced(copied, b"PAR1 nothing PAR1").document(0, 0, 1)


def test_rejects_rows_that_disagree_with_manifest_and_index(copied: Prepared) -> None:
    table = pq.read_table(f"{copied.uri}/{copied.manifest.shards[0].file}")
    with pytest.raises(DataError, match=r"needles-00000\.parquet: 11 rows, but the manifest has 12 documents"):
        replaced(copied, table.slice(1)).document(0, 0, 1)

    def with_row(**changes: Any) -> pa.Table:
        rows = table.to_pylist()
        rows[2].update(changes)
        return pa.Table.from_pylist(rows, schema=shard_schema())

    with pytest.raises(DataError, match=r"parquet, row 2: 3 tokens, but the index has 200"):
        replaced(copied, with_row(tokens=[1, 2, 3], loss_weight=None)).document(0, 0, 1)
    with pytest.raises(DataError, match=r"parquet, row 2: its loss_weight has another length than its tokens"):
        replaced(copied, with_row(loss_weight=[1.0])).document(0, 0, 1)
    with pytest.raises(DataError, match=r"parquet, row 2: token 4294967295 is outside the vocabulary of 860"):
        replaced(copied, with_row(tokens=[2**32 - 1] * 200)).document(0, 0, 1)
