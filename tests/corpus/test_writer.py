"""Shards on disk: standard Parquet, whole documents, tokens end to end at a known byte, the same bytes every time."""

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from longspan import storage
from longspan.corpus import writer
from longspan.corpus.writer import Document, WrittenShard, _groups, shard_schema, write_shards
from longspan.errors import DataError


def documents(*lengths: int, weighted: bool = False) -> list[Document]:
    rng = np.random.default_rng(0)
    return [
        Document(
            rng.integers(0, 900, size).astype(np.uint32),
            rng.random(size).astype(np.float32) if weighted and number % 2 else None,
        )
        for number, size in enumerate(lengths)
    ]


@given(lengths=st.lists(st.integers(1, 60), max_size=40), limit=st.integers(1, 100))
def test_groups_keep_order_and_limit(lengths: list[int], limit: int) -> None:
    groups = list(_groups(documents(*lengths), limit))
    assert [document.tokens.size for group in groups for document in group] == lengths
    totals = [sum(document.tokens.size for document in group) for group in groups]
    assert all(total <= limit or len(group) == 1 for total, group in zip(totals, groups, strict=True))
    # No group could have taken the next one's first document as well.
    assert all(total + group[0].tokens.size > limit for total, group in zip(totals[:-1], groups[1:], strict=True))


def write(
    folder: Path, written: list[Document], shard_tokens: int = 10**6, chunk_tokens: int = 50
) -> list[WrittenShard]:
    return list(write_shards(str(folder), "code", "code-00007", written, shard_tokens, chunk_tokens))


def test_shards_are_plain_parquet_with_a_row_a_document(tmp_path: Path) -> None:
    written = documents(30, 50, 40, 200, 5, weighted=True)
    shards = write(tmp_path, written, shard_tokens=100)
    assert [shard.info.file for shard in shards] == [f"shards/code-00007-0000{i}.parquet" for i in range(4)]
    assert [shard.length.tolist() for shard in shards] == [[30, 50], [40], [200], [5]]
    rows = []
    for shard in shards:
        info = shard.info
        file = tmp_path / info.file
        assert (file.stat().st_size, storage.digest_file(file)) == (info.bytes, info.digest)
        table = pq.read_table(file)
        # Weights are a column of the shards that have some, which here are all but those of documents 2 and 4.
        assert table.schema == shard_schema(info.weights_at is not None)
        assert (table.num_rows, table["length"].to_numpy().sum()) == (info.documents, info.tokens)
        rows += table.to_pylist()
    assert [shard.info.weights_at is not None for shard in shards] == [True, False, True, False]
    for row, document in zip(rows, written, strict=True):
        assert row["tokens"] == document.tokens.tolist()
        ones = np.ones(document.tokens.size) if document.loss_weight is None else document.loss_weight
        assert row.get("loss_weight", [1.0] * document.tokens.size) == ones.tolist()
        assert (row["length"], row["source"]) == (document.tokens.size, "code")


@settings(max_examples=60, deadline=None)
@given(lengths=st.lists(st.integers(1, 300), min_size=1, max_size=30), weighted=st.booleans(), seed=st.integers(0, 9))
def test_tokens_and_weights_lie_end_to_end_where_the_shard_says(lengths: list[int], weighted: bool, seed: int) -> None:
    rng = np.random.default_rng(seed)
    few = rng.integers(1, 4)  # values that repeat are what Parquet would put into a dictionary
    tokens = rng.integers(0, few, sum(lengths)).astype(np.uint32)
    weight = rng.integers(0, few, sum(lengths)).astype(np.float32) if weighted else None
    data, tokens_at, weights_at = writer._parquet("code", np.array(lengths, np.int32), tokens, weight, "x")
    assert np.array_equal(np.frombuffer(data, "<u4", tokens.size, tokens_at), tokens)
    assert (weights_at is not None) == weighted
    if weight is not None and weights_at is not None:
        assert np.array_equal(np.frombuffer(data, "<f4", weight.size, weights_at), weight)
    rows = pq.read_table(pa.BufferReader(data))
    assert rows["length"].to_pylist() == lengths
    assert np.array_equal(rows["tokens"].combine_chunks().flatten().to_numpy(), tokens)


def test_a_large_document_is_still_one_page(tmp_path: Path) -> None:
    written = documents(3_000_000, 10, weighted=True)
    (shard,) = write(tmp_path, written, shard_tokens=10**7)
    data = (tmp_path / shard.info.file).read_bytes()
    found = np.frombuffer(data, "<u4", shard.info.tokens, shard.info.tokens_at)
    assert np.array_equal(found, np.concatenate([document.tokens for document in written]))


def test_a_layout_that_cannot_be_addressed_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(writer, "_ONE_PAGE", 1000)
    with pytest.raises(DataError, match=r"code-00007-00000\.parquet: Arrow did not write tokens.* as one plain page"):
        write(tmp_path, documents(500, 500, 500))
    assert not list(tmp_path.rglob("*.parquet"))


def test_chunks_have_the_digest_of_their_bytes(tmp_path: Path) -> None:
    (shard,) = write(tmp_path, documents(30, 20, 40, 120, 5, weighted=True))
    data = (tmp_path / shard.info.file).read_bytes()
    assert shard.chunks.documents.tolist() == [2, 1, 1, 0, 0, 1]
    assert shard.chunks.tokens.tolist() == [50, 40, 50, 50, 20, 5]
    ends = np.cumsum(shard.chunks.tokens)
    for begin, end, digest in zip(ends - shard.chunks.tokens, ends, shard.chunks.digest, strict=True):
        assert shard.info.weights_at is not None
        places = [slice(at + 4 * int(begin), at + 4 * int(end)) for at in (shard.info.tokens_at, shard.info.weights_at)]
        expected = storage.digest_bytes(b"".join(data[place] for place in places))
        assert digest.tobytes().hex() == expected.removeprefix("xxh3-128:")


def test_the_same_documents_give_the_same_bytes(tmp_path: Path) -> None:
    one, two = (write(tmp_path / name, documents(30, 50, weighted=True)) for name in "xy")
    assert one[0].info == two[0].info
