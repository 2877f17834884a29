"""Chunks: the pieces in which shards are read, each a run of whole documents with a digest of its own.

A chunk is one range request, one proof and one entry of the cache, so that a few documents of a large shard cost a
few chunks and not the shard. `prepare` cuts them, `sampling` shuffles by them, `reader` fetches them.
"""

from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from numpy.typing import NDArray

from longspan import storage
from longspan.corpus.manifest import FileInfo, Manifest, read_verified
from longspan.errors import DataError

if TYPE_CHECKING:
    import pyarrow as pa

DIGEST_BYTES = 16


class ShardChunks(NamedTuple):
    """The chunks of one shard, in order.

    Attributes:
        documents: int32 [num_chunks], documents that begin in the chunk; 0 in the later chunks of a long document.
        tokens: int32 [num_chunks].
        digest: uint8 [num_chunks, 16], xxh3-128 of the chunk's bytes: its tokens, then its weights if the shard has
            any.
    """

    documents: NDArray[np.int32]
    tokens: NDArray[np.int32]
    digest: NDArray[np.uint8]


@dataclass(frozen=True)
class ChunkTable:
    """All chunks of a corpus in global order: 24 bytes a chunk, so that every worker can hold it.

    Attributes:
        offset: int64 [num_chunks + 1], first token of each chunk in the global token stream (all shards end to end).
        document: int64 [num_chunks], number of the first document that begins in the chunk.
        documents: int32 [num_chunks], how many begin in it.
        shard: int32 [num_chunks], place in `Manifest.shards`.
        digest: uint8 [num_chunks, 16].
    """

    offset: NDArray[np.int64]
    document: NDArray[np.int64]
    documents: NDArray[np.int32]
    shard: NDArray[np.int32]
    digest: NDArray[np.uint8]


def cut_chunks(length: NDArray[np.int32], chunk_tokens: int) -> tuple[NDArray[np.int32], NDArray[np.int32]]:
    """Neighbouring documents of at most `chunk_tokens` together; a longer one has chunks of its own, cut at that size.

    Args:
        length: int32 [num_documents], tokens of each document of a shard.

    Returns:
        documents int32 [num_chunks] and tokens int32 [num_chunks] of each chunk (see ShardChunks).
    """
    documents: list[int] = []
    tokens: list[int] = []
    room = 0
    for size in length.tolist():
        if size > chunk_tokens:
            pieces = [chunk_tokens] * (size // chunk_tokens) + ([size % chunk_tokens] if size % chunk_tokens else [])
            documents += [1] + [0] * (len(pieces) - 1)
            tokens += pieces
            room = 0
        elif size > room:
            documents.append(1)
            tokens.append(size)
            room = chunk_tokens - size
        else:
            documents[-1] += 1
            tokens[-1] += size
            room -= size
    return np.array(documents, np.int32), np.array(tokens, np.int32)


def chunks_bytes(shards: list[tuple[str, ShardChunks]]) -> bytes:
    """The file of all chunks: of each shard (file, chunks) in global order."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    counts = [chunks.tokens.size for _, chunks in shards]
    number = np.repeat(np.arange(len(counts), dtype=np.int32), counts)
    digest = np.concatenate([chunks.digest for _, chunks in shards])
    table = pa.table(
        {
            "shard": pa.DictionaryArray.from_arrays(number, pa.array([file for file, _ in shards])).cast(pa.string()),
            "documents": np.concatenate([chunks.documents for _, chunks in shards]),
            "tokens": np.concatenate([chunks.tokens for _, chunks in shards]),
            "digest": pa.FixedSizeBinaryArray.from_buffers(
                pa.binary(DIGEST_BYTES), len(digest), [None, pa.py_buffer(digest.tobytes())]
            ),
        }
    )
    sink = pa.BufferOutputStream()
    pq.write_table(table, sink, compression="zstd", use_dictionary=["shard"])
    return bytes(sink.getvalue())


def chunk_table(uri: str, manifest: Manifest) -> ChunkTable:
    """The chunks of the corpus at `uri`, compared with their file's digest and with the manifest's counts.

    Raises:
        DataError: the file is missing, damaged, or disagrees with the manifest; names the file or the shard.
        StorageError: the store could not be read.
    """
    where = storage.join(uri, manifest.chunks.file)
    table = _read(where, manifest.chunks)
    documents, tokens = table["documents"].to_numpy(), table["tokens"].to_numpy()
    shard = _shard_numbers(table, manifest, where)
    for number, info in enumerate(manifest.shards):
        own = slice(*np.searchsorted(shard, [number, number + 1]))
        found = (int(documents[own].sum(dtype=np.int64)), int(tokens[own].sum(dtype=np.int64)))
        if found != (info.documents, info.tokens):
            raise DataError(
                f"{where}: {info.file} has {found[0]} documents and {found[1]} tokens here, but {info.documents} and"
                f" {info.tokens} in the manifest; prepare the corpus again"
            )
    begins = np.cumsum(documents, dtype=np.int64) - documents
    digest = np.frombuffer(table["digest"].combine_chunks().buffers()[1], np.uint8)
    return ChunkTable(
        offset=np.concatenate([[0], np.cumsum(tokens, dtype=np.int64)]),
        document=begins,
        documents=documents,
        shard=shard,
        digest=digest[: len(tokens) * DIGEST_BYTES].reshape(-1, DIGEST_BYTES),
    )


def _read(where: str, info: FileInfo) -> "pa.Table":
    import pyarrow as pa
    import pyarrow.parquet as pq

    columns = {"shard": pa.string(), "documents": pa.int32(), "tokens": pa.int32(), "digest": pa.binary(DIGEST_BYTES)}
    try:
        table = pq.read_table(pa.BufferReader(read_verified(where, info.bytes, info.digest))).combine_chunks()
    except pa.ArrowException as error:
        raise DataError(f"{where}: not a table of chunks ({' '.join(str(error).split())})") from None
    found = {field.name: field.type for field in table.schema}
    if found != columns or table.num_rows != info.rows or any(column.null_count for column in table.columns):
        raise DataError(f"{where}: not the table of chunks: {table.num_rows} rows of {found}, expected {info.rows}")
    return table


def _shard_numbers(table: "pa.Table", manifest: Manifest, where: str) -> NDArray[np.int32]:
    """Shard of each chunk as its place in the manifest, int32 [num_chunks], rising."""
    numbers = {shard.file: number for number, shard in enumerate(manifest.shards)}
    encoded = table["shard"].combine_chunks().dictionary_encode()
    found = encoded.dictionary.to_pylist()
    unknown = [name for name in found if name not in numbers]
    if unknown:
        raise DataError(f"{where}: shard {unknown[0]!r} is not in the manifest")
    shard = np.array([numbers[name] for name in found], np.int32)[encoded.indices.to_numpy()]
    if (np.diff(shard) < 0).any():
        raise DataError(f"{where}: shards are not in the order of the manifest; prepare the corpus again")
    return shard
