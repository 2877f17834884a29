"""Documents to Parquet shards whose tokens lie end to end, uncompressed, at a known byte.

A shard is an ordinary Parquet file, one row a document, that any reader opens. It is also addressable: one row group,
one page a column, plain values, so that `reader` takes any range of tokens with one byte range and no decoding. That
layout is Arrow's to choose, so it is checked on the bytes of every shard before it is written.
"""

from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import xxhash
from numpy.typing import NDArray

from longspan import storage
from longspan.corpus.chunks import DIGEST_BYTES, ShardChunks, cut_chunks
from longspan.corpus.manifest import ShardInfo
from longspan.errors import DataError

if TYPE_CHECKING:
    import pyarrow as pa

_ONE_PAGE = 2**31 - 1
TOKEN_BYTES = 4


class Document(NamedTuple):
    """One document: tokens uint32 [length] and float32 [length] weight of each token as a target (None: 1 each)."""

    tokens: NDArray[np.uint32]
    loss_weight: NDArray[np.float32] | None = None


class WrittenShard(NamedTuple):
    """A shard as written: its entry in the manifest, its documents' lengths int32 [num_documents], and its chunks."""

    info: ShardInfo
    length: NDArray[np.int32]
    chunks: ShardChunks


def shard_schema(is_weighted: bool) -> "pa.Schema":
    """Columns of a shard, one row a document; `loss_weight` is there only where some target does not weigh 1."""
    import pyarrow as pa

    weight = pa.field("loss_weight", pa.list_(pa.field("element", pa.float32(), nullable=False)), nullable=False)
    return pa.schema(
        [
            pa.field("source", pa.string(), nullable=False),
            pa.field("length", pa.int32(), nullable=False),
            *([weight] if is_weighted else []),
            pa.field("tokens", pa.list_(pa.field("element", pa.uint32(), nullable=False)), nullable=False),
        ]
    )


def write_shards(
    output: str, source: str, name: str, documents: Iterable[Document], shard_tokens: int, chunk_tokens: int
) -> Iterator[WrittenShard]:
    """Write the documents to OUTPUT/shards/NAME-00000.parquet and on.

    A shard holds at most `shard_tokens` tokens, but always one document: none is cut. The same documents give the same
    bytes.

    Raises:
        DataError: Arrow laid the file out in a way that cannot be addressed.
        StorageError: a shard could not be written.
    """
    for number, group in enumerate(_groups(documents, shard_tokens)):
        yield _write_shard(output, source, f"shards/{name}-{number:05d}.parquet", group, chunk_tokens)


def _groups(documents: Iterable[Document], num_tokens: int) -> Iterator[list[Document]]:
    """Neighbouring documents of at most `num_tokens` together; a longer one is alone."""
    group: list[Document] = []
    total = 0
    for document in documents:
        if group and total + document.tokens.size > num_tokens:
            yield group
            group, total = [], 0
        group.append(document)
        total += document.tokens.size
    if group:
        yield group


def _write_shard(output: str, source: str, file: str, documents: list[Document], chunk_tokens: int) -> WrittenShard:
    length = np.array([document.tokens.size for document in documents], np.int32)
    tokens = np.concatenate([document.tokens for document in documents]).astype("<u4", copy=False)
    weight = None
    if any(document.loss_weight is not None for document in documents):
        ones = [np.ones(d.tokens.size, "<f4") if d.loss_weight is None else d.loss_weight for d in documents]
        weight = np.concatenate(ones).astype("<f4", copy=False)
    data, tokens_at, weights_at = _parquet(source, length, tokens, weight, file)
    storage.write_bytes(storage.join(output, file), data)
    info = ShardInfo(
        file=file,
        source=source,
        documents=len(documents),
        tokens=tokens.size,
        bytes=len(data),
        digest=storage.digest_bytes(data),
        tokens_at=tokens_at,
        weights_at=weights_at,
    )
    return WrittenShard(info, length, _chunks(length, tokens, weight, chunk_tokens))


def _chunks(
    length: NDArray[np.int32], tokens: NDArray[np.uint32], weight: NDArray[np.float32] | None, chunk_tokens: int
) -> ShardChunks:
    documents, sizes = cut_chunks(length, chunk_tokens)
    ends = np.cumsum(sizes)
    digest = np.empty((sizes.size, DIGEST_BYTES), np.uint8)
    for number, (begin, end) in enumerate(zip(ends - sizes, ends, strict=True)):
        state = xxhash.xxh3_128(tokens[begin:end].tobytes())
        if weight is not None:
            state.update(weight[begin:end].tobytes())
        digest[number] = np.frombuffer(state.digest(), np.uint8)
    return ShardChunks(documents, sizes, digest)


def _parquet(
    source: str,
    length: NDArray[np.int32],
    tokens: NDArray[np.uint32],
    weight: NDArray[np.float32] | None,
    file: str,
) -> tuple["pa.Buffer", int, int | None]:
    """The file's bytes, and the bytes at which its tokens and weights begin."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    schema = shard_schema(weight is not None)
    offsets = pa.array(np.concatenate([[0], np.cumsum(length)]).astype(np.int32))
    values = [tokens] if weight is None else [weight, tokens]
    lists = [
        pa.ListArray.from_arrays(offsets, array, type=field.type)
        for array, field in zip(values, list(schema)[2:], strict=True)
    ]
    names = pa.DictionaryArray.from_arrays(np.zeros(length.size, np.int32), pa.array([source])).cast(pa.string())
    table = pa.Table.from_arrays([names, pa.array(length), *lists], schema=schema)
    sink = pa.BufferOutputStream()
    pq.write_table(
        table,
        sink,
        row_group_size=length.size,
        compression="none",
        use_dictionary=["source"],
        write_statistics=False,
        data_page_size=_ONE_PAGE,
        max_rows_per_page=_ONE_PAGE,
    )
    data = sink.getvalue()
    row_group = pq.read_metadata(pa.BufferReader(data)).row_group(0)
    places = [_values_at(data, row_group.column(2 + i), array, file) for i, array in enumerate(values)]
    return data, places[-1], None if weight is None else places[0]


def _values_at(data: "pa.Buffer", column: "pa.ColumnChunkMetaData", values: NDArray[np.generic], file: str) -> int:
    """The byte at which the column's values begin: they end the column's only page."""
    begin = column.data_page_offset + column.total_compressed_size - values.nbytes
    found = np.frombuffer(data, np.uint8, values.nbytes, begin) if begin >= 0 else np.empty(0, np.uint8)
    if not np.array_equal(found, values.view(np.uint8)):
        raise DataError(
            f"{file}: Arrow did not write {column.path_in_schema} as one plain page, so its tokens cannot be addressed;"
            " use the pyarrow version of longspan's constraints"
        )
    return begin
