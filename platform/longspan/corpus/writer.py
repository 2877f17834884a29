"""Documents to Parquet shards: rows until a shard is full, in row groups that a reader can take one by one.

Called by `prepare` for each source; the shards' columns are read back by `shards`.
"""

from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from numpy.typing import NDArray

from longspan import storage
from longspan.corpus.manifest import ShardInfo

if TYPE_CHECKING:
    import pyarrow as pa

_ROW_GROUP_TOKENS = 256 * 1024


class Document(NamedTuple):
    """One document: tokens uint32 [length] and float32 [length] weight of each token as a target (None: 1 each)."""

    tokens: NDArray[np.uint32]
    loss_weight: NDArray[np.float32] | None = None


def shard_schema() -> "pa.Schema":
    """Columns of a shard, one row a document; a null `loss_weight` means that every target weighs 1."""
    import pyarrow as pa

    return pa.schema(
        [
            pa.field("tokens", pa.list_(pa.field("element", pa.uint32(), nullable=False)), nullable=False),
            pa.field("loss_weight", pa.list_(pa.field("element", pa.float32(), nullable=False))),
            pa.field("length", pa.int32(), nullable=False),
            pa.field("source", pa.string(), nullable=False),
        ]
    )


def write_shards(
    output: str, source: str, documents: Iterable[Document], shard_tokens: int
) -> Iterator[tuple[ShardInfo, NDArray[np.int32]]]:
    """Write the documents to OUTPUT/shards/SOURCE-00000.parquet and on; yields each shard with its documents' lengths.

    A shard holds at most `shard_tokens` tokens, but always one document: none is cut. The same documents give the same
    bytes.
    """
    for number, group in enumerate(_groups(documents, shard_tokens)):
        data = _shard_bytes(group, source)
        file = f"shards/{source}-{number:05d}.parquet"
        storage.write_bytes(storage.join(output, file), data)
        lengths = np.array([document.tokens.size for document in group], dtype=np.int32)
        yield (
            ShardInfo(
                file=file,
                source=source,
                documents=len(group),
                tokens=int(lengths.sum(dtype=np.int64)),
                bytes=len(data),
                digest=storage.digest_bytes(data),
            ),
            lengths,
        )


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


def _shard_bytes(documents: list[Document], source: str) -> bytes:
    import pyarrow as pa
    import pyarrow.parquet as pq

    sink = pa.BufferOutputStream()
    with pq.ParquetWriter(sink, shard_schema(), compression="zstd", use_compliant_nested_type=True) as writer:
        for group in _groups(documents, _ROW_GROUP_TOKENS):
            writer.write_table(_table(group, source), row_group_size=len(group))
    return bytes(sink.getvalue())


def _table(documents: list[Document], source: str) -> "pa.Table":
    import pyarrow as pa

    schema = shard_schema()
    lengths = np.array([document.tokens.size for document in documents], dtype=np.int32)
    weights = [document.loss_weight for document in documents]
    none = np.array([weight is None for weight in weights])
    tokens = np.concatenate([document.tokens for document in documents])
    weight = np.concatenate([np.empty(0, np.float32), *(w for w in weights if w is not None)])
    return pa.Table.from_arrays(
        [
            pa.ListArray.from_arrays(_offsets(lengths), tokens, type=schema.field("tokens").type),
            pa.ListArray.from_arrays(
                _offsets(np.where(none, 0, lengths)),
                weight,
                type=schema.field("loss_weight").type,
                mask=pa.array(none),
            ),
            pa.array(lengths),
            pa.array([source] * len(documents), pa.string()),
        ],
        schema=schema,
    )


def _offsets(lengths: NDArray[np.int32]) -> "pa.Array":
    import pyarrow as pa

    return pa.array(np.concatenate([[0], np.cumsum(lengths)]), pa.int32())
