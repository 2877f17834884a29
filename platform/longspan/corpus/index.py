"""The index of a corpus: for every document its source, shard, row and length.

Small enough to hold for millions of documents; `sampling` plans over it and `shards` finds documents by it.
"""

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from longspan import storage
from longspan.corpus.manifest import Manifest, read_verified
from longspan.errors import DataError

if TYPE_CHECKING:
    import pyarrow as pa


@dataclass(frozen=True)
class DocumentIndex:
    """Where each document lies; all arrays [num_documents] in global order.

    Attributes:
        source_id: int16, place in `Manifest.source_names`.
        shard_id: int32, place in `Manifest.shards`.
        row: int32, row in the shard.
        length: int32, tokens.
    """

    source_id: NDArray[np.int16]
    shard_id: NDArray[np.int32]
    row: NDArray[np.int32]
    length: NDArray[np.int32]


def document_index(uri: str, manifest: Manifest) -> DocumentIndex:
    """The index of the corpus at `uri`, compared with its digest and with the manifest's counts.

    Raises:
        DataError: it is missing, damaged, or disagrees with the manifest; names the file or the shard.
        StorageError: the store could not be read.
    """
    where = storage.join(uri, manifest.index.file)
    table = _read(where, manifest)
    index = DocumentIndex(
        source_id=_numbered(table, "source", manifest.source_names, where).astype(np.int16),
        shard_id=_numbered(table, "shard", [shard.file for shard in manifest.shards], where),
        row=table["row"].to_numpy(),
        length=table["length"].to_numpy(),
    )
    _check_shards(index, manifest, where)
    _check_order(index, manifest, where)
    return index


def index_bytes(manifest_shards: list[tuple[str, str]], lengths: list[NDArray[np.int32]]) -> bytes:
    """The index file: `manifest_shards` (file, source) of each shard, and the lengths of its documents in row order."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    counts = [shard.size for shard in lengths]
    number = np.repeat(np.arange(len(counts), dtype=np.int32), counts)
    files, sources = zip(*manifest_shards, strict=True)
    table = pa.table(
        {
            "source": pa.DictionaryArray.from_arrays(number, pa.array(sources)).cast(pa.string()),
            "shard": pa.DictionaryArray.from_arrays(number, pa.array(files)).cast(pa.string()),
            "row": np.concatenate([np.arange(count, dtype=np.int32) for count in counts]),
            "length": np.concatenate(lengths),
        }
    )
    sink = pa.BufferOutputStream()
    pq.write_table(table, sink, compression="zstd", use_dictionary=["source", "shard"])
    return bytes(sink.getvalue())


def _read(where: str, manifest: Manifest) -> "pa.Table":
    import pyarrow as pa
    import pyarrow.parquet as pq

    data = read_verified(where, manifest.index.bytes, manifest.index.digest)
    columns = {"source": pa.string(), "shard": pa.string(), "row": pa.int32(), "length": pa.int32()}
    try:
        table = pq.read_table(pa.BufferReader(data)).select(list(columns))
    except (pa.ArrowException, KeyError) as error:
        raise DataError(f"{where}: not an index of documents ({' '.join(str(error).split())})") from None
    found = {field.name: field.type for field in table.schema}
    if found != columns or any(column.null_count for column in table.columns):
        raise DataError(f"{where}: not an index of documents: columns {found}, expected {columns} without nulls")
    return table


def _numbered(table: "pa.Table", column: str, names: list[str], where: str) -> NDArray[np.int32]:
    """The text column as places in `names`, int32 [num_documents]."""
    numbers = {name: number for number, name in enumerate(names)}
    encoded = table[column].combine_chunks().dictionary_encode()
    found = encoded.dictionary.to_pylist()
    for name in found:
        if name not in numbers:
            raise DataError(f"{where}: {column} {name!r} is not in the manifest")
    return np.array([numbers[name] for name in found], dtype=np.int32)[encoded.indices.to_numpy()]


def _check_shards(index: DocumentIndex, manifest: Manifest, where: str) -> None:
    documents = np.bincount(index.shard_id, minlength=len(manifest.shards))
    tokens = np.bincount(index.shard_id, weights=index.length, minlength=len(manifest.shards))
    for shard, num_documents, num_tokens in zip(manifest.shards, documents, tokens, strict=True):
        if (num_documents, num_tokens) != (shard.documents, shard.tokens):
            raise DataError(
                f"{where}: {shard.file} has {num_documents} documents and {int(num_tokens)} tokens here, but"
                f" {shard.documents} and {shard.tokens} in the manifest"
            )


def _check_order(index: DocumentIndex, manifest: Manifest, where: str) -> None:
    documents = np.array([shard.documents for shard in manifest.shards])
    shard_id = np.repeat(np.arange(documents.size), documents)
    row = np.arange(shard_id.size) - (np.cumsum(documents) - documents)[shard_id]
    names = manifest.source_names
    source_id = np.array([names.index(shard.source) for shard in manifest.shards])[shard_id]
    wrong = (index.shard_id != shard_id) | (index.row != row) | (index.source_id != source_id) | (index.length < 1)
    if wrong.any():
        at = int(np.flatnonzero(wrong)[0])
        raise DataError(
            f"{where}: document {at} should be row {row[at]} of {manifest.shards[shard_id[at]].file}, but is listed as"
            f" row {index.row[at]} of {manifest.shards[index.shard_id[at]].file}, source {names[index.source_id[at]]},"
            f" {index.length[at]} tokens"
        )
