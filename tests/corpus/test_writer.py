"""Shards on disk: standard Parquet, whole documents, the same bytes every time."""

from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
from hypothesis import given
from hypothesis import strategies as st

from longspan import storage
from longspan.corpus.writer import Document, _groups, shard_schema, write_shards


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


def test_shards_are_plain_parquet_with_a_row_a_document(tmp_path: Path) -> None:
    written = documents(30, 50, 40, 200, 5, weighted=True)
    shards = list(write_shards(str(tmp_path), "code", written, 100))
    assert [shard.file for shard, _ in shards] == [f"shards/code-0000{i}.parquet" for i in range(4)]
    assert [lengths.tolist() for _, lengths in shards] == [[30, 50], [40], [200], [5]]
    rows = []
    for shard, _ in shards:
        file = tmp_path / shard.file
        assert (file.stat().st_size, storage.digest_file(file)) == (shard.bytes, shard.digest)
        table = pq.read_table(file)
        assert table.schema == shard_schema()
        assert (table.num_rows, table["length"].to_numpy().sum()) == (shard.documents, shard.tokens)
        rows += table.to_pylist()
    for row, document in zip(rows, written, strict=True):
        assert row["tokens"] == document.tokens.tolist()
        assert row["loss_weight"] == (None if document.loss_weight is None else document.loss_weight.tolist())
        assert (row["length"], row["source"]) == (document.tokens.size, "code")


def test_row_groups_hold_about_256k_tokens(tmp_path: Path) -> None:
    ((shard, _),) = write_shards(str(tmp_path), "code", documents(*[100_000] * 7), 10**6)
    metadata = pq.read_metadata(tmp_path / shard.file)
    assert [metadata.row_group(i).num_rows for i in range(metadata.num_row_groups)] == [2, 2, 2, 1]


def test_the_same_documents_give_the_same_bytes(tmp_path: Path) -> None:
    one, two = (list(write_shards(str(tmp_path / name), "a", documents(30, 50, weighted=True), 10**6)) for name in "xy")
    assert one[0][0] == two[0][0]
