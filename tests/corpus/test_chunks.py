"""Chunks: cut as said, and read back only if they agree with the manifest."""

import dataclasses
from pathlib import Path

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from longspan import storage
from longspan.corpus.chunks import ShardChunks, chunk_table, chunks_bytes, cut_chunks
from longspan.corpus.manifest import FileInfo, Manifest
from longspan.errors import DataError
from tests.corpus.conftest import Prepared


@example(lengths=[10, 10, 11, 1], chunk_tokens=10)
@given(lengths=st.lists(st.integers(1, 60), max_size=40), chunk_tokens=st.integers(1, 50))
def test_chunks_are_whole_documents_or_pieces_of_one(lengths: list[int], chunk_tokens: int) -> None:
    documents, tokens = cut_chunks(np.array(lengths, np.int32), chunk_tokens)
    assert documents.dtype == tokens.dtype == np.int32
    assert documents.sum() == len(lengths)
    assert tokens.sum() == sum(lengths)
    assert all(1 <= size <= chunk_tokens for size in tokens.tolist())
    begins = set(np.cumsum([0, *lengths]).tolist())
    chunk_begins = np.cumsum([0, *tokens.tolist()])[:-1]
    first = np.cumsum([0, *documents.tolist()])
    for number, begin in enumerate(chunk_begins.tolist()):
        own = lengths[first[number] : first[number + 1]]
        if documents[number] == 0:
            assert begin not in begins
        elif sum(own) <= chunk_tokens:
            assert (begin in begins, tokens[number]) == (True, sum(own))
        else:  # the first piece of a document that is longer than a chunk
            assert (begin in begins, len(own), tokens[number]) == (True, 1, chunk_tokens)


def test_the_table_gives_each_chunks_place(prepared: Prepared) -> None:
    manifest = prepared.manifest
    chunks = chunk_table(prepared.uri, manifest)
    tokens = np.diff(chunks.offset)
    for number, shard in enumerate(manifest.shards):
        own = chunks.shard == number
        assert (tokens[own].sum(), chunks.documents[own].sum()) == (shard.tokens, shard.documents)
    assert chunks.document.tolist() == (np.cumsum(chunks.documents) - chunks.documents).tolist()
    assert len({digest.tobytes() for digest in chunks.digest}) == len(tokens)


def written(folder: Path, manifest: Manifest, data: bytes) -> Manifest:
    (folder / "chunks.parquet").write_bytes(data)
    info = FileInfo("chunks.parquet", manifest.chunks.rows, len(data), storage.digest_bytes(data))
    return dataclasses.replace(manifest, chunks=info)


def own_chunks(prepared: Prepared) -> list[tuple[str, ShardChunks]]:
    chunks = chunk_table(prepared.uri, prepared.manifest)
    tokens = np.diff(chunks.offset).astype(np.int32)
    return [
        (shard.file, ShardChunks(chunks.documents[own], tokens[own], chunks.digest[own]))
        for shard, own in ((shard, chunks.shard == n) for n, shard in enumerate(prepared.manifest.shards))
    ]


def test_is_written_as_it_was_read(prepared: Prepared) -> None:
    assert chunks_bytes(own_chunks(prepared)) == (Path(prepared.uri) / "chunks.parquet").read_bytes()


def test_a_table_that_disagrees_with_the_manifest_is_refused(prepared: Prepared, tmp_path: Path) -> None:
    shards = own_chunks(prepared)
    file, first = shards[0]
    more = ShardChunks(first.documents, first.tokens + 1, first.digest)
    for changed, message in (
        ([(file, more), *shards[1:]], rf"{file} has \d+ documents and \d+ tokens here, but"),
        ([("shards/x.parquet", first), *shards[1:]], r"shard 'shards/x\.parquet' is not in the manifest"),
        ([shards[1], shards[0], *shards[2:]], "shards are not in the order of the manifest"),
    ):
        with pytest.raises(DataError, match=rf"chunks\.parquet: {message}"):
            chunk_table(str(tmp_path), written(tmp_path, prepared.manifest, chunks_bytes(changed)))


def test_a_damaged_file_is_refused(prepared: Prepared, tmp_path: Path) -> None:
    data = (Path(prepared.uri) / "chunks.parquet").read_bytes()
    (tmp_path / "chunks.parquet").write_bytes(data[:50] + bytes([data[50] ^ 1]) + data[51:])
    with pytest.raises(DataError, match=r"chunks\.parquet: not the file that was prepared"):
        chunk_table(str(tmp_path), prepared.manifest)
    with pytest.raises(DataError, match=r"chunks\.parquet: "):
        chunk_table(str(tmp_path), written(tmp_path, prepared.manifest, b"PAR1 no table"))
