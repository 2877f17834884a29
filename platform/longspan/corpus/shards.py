"""From a document number to its tokens: whole shards are fetched once, proven by digest, and kept in memory.

`feed/` has one reader a process and asks it for the spans of the plan; evaluation reads held-out documents by it.
"""

import threading
from collections import OrderedDict
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from longspan import storage
from longspan.corpus.index import DocumentIndex, document_index
from longspan.corpus.manifest import Manifest, ShardInfo, read_verified
from longspan.corpus.writer import shard_schema
from longspan.errors import DataError

if TYPE_CHECKING:
    import pyarrow as pa


class Shard(NamedTuple):
    """A shard in memory: tokens uint32 and loss_weight float32 of all rows end to end, and where each row begins.

    Attributes:
        offsets, weight_offsets: int32 [num_rows + 1].
        is_weighted: bool [num_rows], False where every target of the row weighs 1.
        num_bytes: memory that it takes.
    """

    tokens: NDArray[np.uint32]
    offsets: NDArray[np.int32]
    loss_weight: NDArray[np.float32]
    weight_offsets: NDArray[np.int32]
    is_weighted: NDArray[np.bool_]
    num_bytes: int


class ShardReader:
    """Documents of a corpus by their number, with the shards used last kept up to `cache_bytes`. Safe in threads."""

    def __init__(
        self,
        manifest_uri: str,
        manifest: Manifest,
        cache_bytes: int = 512 << 20,
        index: DocumentIndex | None = None,
    ) -> None:
        """Reads the index unless it is given. Raises as `document_index`."""
        self._uri = manifest_uri
        self._manifest = manifest
        self._cache_bytes = cache_bytes
        self._index = document_index(manifest_uri, manifest) if index is None else index
        self._cache: OrderedDict[int, Shard] = OrderedDict()
        self._lock = threading.Lock()
        # One lock a shard: threads that want the same one wait for a single fetch, the others go on.
        self._fetching = [threading.Lock() for _ in manifest.shards]

    @property
    def index(self) -> DocumentIndex:
        return self._index

    def document(
        self, document_id: int, start: int, length: int
    ) -> tuple[NDArray[np.uint32], NDArray[np.float32] | None]:
        """Tokens [start, start + length) of a document.

        Args:
            document_id: number in the index.

        Returns:
            tokens uint32 [length] and the weight of each as a target float32 [length], None where all weigh 1. Both are
            read-only views of the cached shard.

        Raises:
            DataError: the document or the span does not exist, or the shard is missing, damaged or of another layout.
            StorageError: the store could not be read.
        """
        if not 0 <= document_id < self._index.row.size:
            raise DataError(f"{self._uri}: document {document_id} does not exist; it has {self._index.row.size}")
        shard_id, row = int(self._index.shard_id[document_id]), int(self._index.row[document_id])
        size = int(self._index.length[document_id])
        if start < 0 or length < 0 or start + length > size:
            raise DataError(
                f"{self._manifest.shards[shard_id].file}, row {row}: tokens {start} to {start + length} asked for, but"
                f" the document has {size}"
            )
        shard = self._shard(shard_id)
        begin = int(shard.offsets[row]) + start
        tokens = shard.tokens[begin : begin + length]
        if not shard.is_weighted[row]:
            return tokens, None
        begin = int(shard.weight_offsets[row]) + start
        return tokens, shard.loss_weight[begin : begin + length]

    def _shard(self, shard_id: int) -> Shard:
        shard = self._cached(shard_id)
        if shard is not None:
            return shard
        with self._fetching[shard_id]:
            shard = self._cached(shard_id)
            if shard is None:
                shard = self._fetch(shard_id)
                self._keep(shard_id, shard)
        return shard

    def _cached(self, shard_id: int) -> Shard | None:
        with self._lock:
            if shard_id in self._cache:
                self._cache.move_to_end(shard_id)
            return self._cache.get(shard_id)

    def _keep(self, shard_id: int, shard: Shard) -> None:
        with self._lock:
            self._cache[shard_id] = shard
            total = sum(kept.num_bytes for kept in self._cache.values())
            while total > self._cache_bytes and len(self._cache) > 1:
                total -= self._cache.popitem(last=False)[1].num_bytes

    def _fetch(self, shard_id: int) -> Shard:
        info = self._manifest.shards[shard_id]
        where = storage.join(self._uri, info.file)
        data = read_verified(where, info.bytes, info.digest)
        shard = parse_shard(data, info, where)
        expected = self._index.length[self._index.shard_id == shard_id]
        wrong = np.flatnonzero(np.diff(shard.offsets) != expected)
        if wrong.size:
            row = int(wrong[0])
            raise DataError(
                f"{where}, row {row}: {shard.offsets[row + 1] - shard.offsets[row]} tokens, but the index has"
                f" {expected[row]}; prepare the corpus again"
            )
        highest = int(shard.tokens.max())
        if highest >= self._manifest.tokenizer.vocab_size:
            row = int(np.searchsorted(shard.offsets, shard.tokens.argmax(), side="right")) - 1
            raise DataError(
                f"{where}, row {row}: token {highest} is outside the vocabulary of"
                f" {self._manifest.tokenizer.vocab_size}; the shard was made with another tokenizer"
            )
        return shard


def parse_shard(data: bytes, info: ShardInfo, where: str) -> Shard:
    """The shard in these bytes of a Parquet file.

    Raises:
        DataError: not Parquet, other columns than `writer.shard_schema`, another number of rows than `info`, or a row
            whose weights are not as many as its tokens.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        file = pq.ParquetFile(pa.BufferReader(data))
        found = file.schema_arrow
        if found.remove_metadata() != shard_schema():
            columns = {field.name: str(field.type) for field in found}
            raise DataError(f"{where}: columns {columns}, not those of a shard; prepare the corpus again")
        table = file.read(columns=["tokens", "loss_weight"], use_threads=False)
    except pa.ArrowException as error:
        raise DataError(f"{where}: not a readable Parquet file ({' '.join(str(error).split())})") from None
    if table.num_rows != info.documents:
        raise DataError(f"{where}: {table.num_rows} rows, but the manifest has {info.documents} documents")
    tokens, offsets = _flat(table["tokens"])
    loss_weight, weight_offsets = _flat(table["loss_weight"])
    is_weighted = table["loss_weight"].is_valid().to_numpy()
    wrong = np.flatnonzero(is_weighted & (np.diff(weight_offsets) != np.diff(offsets)))
    if wrong.size:
        raise DataError(f"{where}, row {wrong[0]}: its loss_weight has another length than its tokens")
    num_bytes = tokens.nbytes + loss_weight.nbytes + offsets.nbytes + weight_offsets.nbytes + is_weighted.nbytes
    return Shard(tokens, offsets, loss_weight, weight_offsets, is_weighted, num_bytes)


def _flat(column: "pa.ChunkedArray") -> tuple[NDArray[Any], NDArray[np.int32]]:
    """Values of a list column end to end, and where each row begins in them."""
    lists = column.combine_chunks()
    return lists.values.to_numpy(zero_copy_only=True), lists.offsets.to_numpy()
