"""The index of a corpus: the length of every document, and with the chunks where each lies in the global token stream.

`sampling` plans over the table made here. Lengths go from the file to a mapped file batch by batch, so that memory does
not grow with the number of documents.
"""

import tempfile
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from longspan import storage
from longspan.corpus.chunks import ChunkTable, chunk_table
from longspan.corpus.manifest import FileInfo, Manifest
from longspan.errors import DataError
from longspan.sampling.table import CorpusTable

if TYPE_CHECKING:
    import pyarrow as pa

_BATCH_ROWS = 1 << 18
_FETCHES = 4


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


def corpus_table(uri: str, manifest: Manifest) -> CorpusTable:
    """Documents and chunks of the corpus at `uri`, compared with their files' digests and with the manifest's counts.

    `length` is a np.memmap of a file that has no name and is gone with the table.

    Raises:
        DataError: a file is missing, damaged, or disagrees with the manifest or the other; names the file or the shard.
        StorageError: the store could not be read.
    """
    where = storage.join(uri, manifest.index.file)
    chunks = chunk_table(uri, manifest)
    with tempfile.TemporaryDirectory() as folder:
        path = f"{folder}/{manifest.index.file.rpartition('/')[2]}"
        _download(where, path, manifest.index)
        length = _lengths(path, where, manifest, chunks)
    sources = np.array([manifest.source_names.index(shard.source) for shard in manifest.shards], np.int16)
    return CorpusTable(
        source_names=tuple(manifest.source_names),
        chunk_source=sources[chunks.shard],
        chunk_document=chunks.document,
        chunk_documents=chunks.documents,
        chunk_offset=chunks.offset[:-1],
        length=length,
    )


def document_offset(table: CorpusTable, document: int) -> int:
    """First token of a document in the global token stream. DataError if there is no such document."""
    if not 0 <= document < table.num_documents:
        raise DataError(f"document {document} does not exist; the corpus has {table.num_documents}")
    begins = np.flatnonzero(table.chunk_documents)
    chunk = begins[np.searchsorted(table.chunk_document[begins], document, side="right") - 1]
    first = int(table.chunk_document[chunk])
    return int(table.chunk_offset[chunk]) + int(table.length[first:document].sum(dtype=np.int64))


def _download(where: str, path: str, info: FileInfo) -> None:
    found = ""
    for _ in range(_FETCHES):
        try:
            storage.download_file(where, path)
        except storage.NotFoundError:
            raise DataError(f"{where}: named in the manifest, but missing; prepare the corpus again") from None
        found = storage.digest_file(path)
        if (storage.size(path), found) == (info.bytes, info.digest):
            return
    raise DataError(
        f"{where}: not the file that was prepared: expected {info.bytes} bytes, {info.digest}, found"
        f" {storage.size(path)} bytes, {found} (fetched {_FETCHES} times); restore it or prepare the corpus again"
    )


def _lengths(path: str, where: str, manifest: Manifest, chunks: ChunkTable) -> NDArray[np.int32]:
    """The column `length`, in a mapped file, after every row has been compared with manifest and chunks."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    columns = {"source": pa.string(), "shard": pa.string(), "row": pa.int32(), "length": pa.int32()}
    try:
        schema = pq.read_schema(path)
        found = {field.name: field.type for field in schema}
        if found != columns:
            raise DataError(f"{where}: not an index of documents: columns {found}, expected {columns}")
        with pq.ParquetFile(path, read_dictionary=["source", "shard"], memory_map=True) as file:
            if file.metadata.num_rows != manifest.index.rows:
                raise DataError(
                    f"{where}: {file.metadata.num_rows} documents, but {manifest.index.rows} in the manifest;"
                    " prepare the corpus again"
                )
            with tempfile.TemporaryFile() as mapped:
                length = np.memmap(mapped, np.int32, "w+", shape=(manifest.index.rows,))
            check = _RowCheck(manifest, chunks, where)
            for batch in file.iter_batches(_BATCH_ROWS, columns=list(columns), use_threads=False):
                begin = check.rows_seen
                length[begin : begin + batch.num_rows] = check.checked_lengths(batch)
    except pa.ArrowException as error:
        raise DataError(f"{where}: not an index of documents ({' '.join(str(error).split())})") from None
    return length


class _RowCheck:
    """Compares the rows of the index, in order, with what manifest and chunks say of them."""

    def __init__(self, manifest: Manifest, chunks: ChunkTable, where: str) -> None:
        self.rows_seen = 0
        self._tokens_seen = 0
        self._where = where
        self._files = [shard.file for shard in manifest.shards]
        self._names = manifest.source_names
        self._source = np.array([self._names.index(shard.source) for shard in manifest.shards])
        documents = np.array([shard.documents for shard in manifest.shards], np.int64)
        self._shard_end = np.cumsum(documents)
        self._shard_begin = self._shard_end - documents
        begins = np.flatnonzero(chunks.documents)
        self._chunk_document = np.append(chunks.document[begins], self._shard_end[-1])
        self._chunk_offset = np.append(chunks.offset[begins], chunks.offset[-1])

    def checked_lengths(self, batch: "pa.RecordBatch") -> NDArray[np.int32]:
        """Lengths of the next rows. DataError if they are not the documents that come next."""
        if any(column.null_count for column in batch.columns):
            raise DataError(f"{self._where}: not an index of documents: columns with nulls")
        shard = self._numbered(batch, "shard", self._files)
        source = self._numbered(batch, "source", self._names)
        row, length = batch.column("row").to_numpy(), batch.column("length").to_numpy()
        document = np.arange(self.rows_seen, self.rows_seen + batch.num_rows)
        expected = np.searchsorted(self._shard_end, document, side="right")
        expected_row = document - self._shard_begin[expected]
        wrong = (shard != expected) | (row != expected_row) | (source != self._source[expected]) | (length < 1)
        if wrong.any():
            at = int(np.flatnonzero(wrong)[0])
            raise DataError(
                f"{self._where}: document {document[at]} should be row {expected_row[at]} of"
                f" {self._files[expected[at]]}, but is listed as row {row[at]} of {self._files[shard[at]]}, source"
                f" {self._names[source[at]]}, {length[at]} tokens; prepare the corpus again"
            )
        self._check_chunks(length)
        return length

    def _check_chunks(self, length: NDArray[np.int32]) -> None:
        """Documents begin where the chunks say; the last entry compared is the end of the corpus."""
        begins = self._tokens_seen + np.concatenate([[0], np.cumsum(length, dtype=np.int64)])
        low, high = np.searchsorted(self._chunk_document, [self.rows_seen, self.rows_seen + length.size + 1])
        documents = self._chunk_document[low:high]
        wrong = begins[documents - self.rows_seen] != self._chunk_offset[low:high]
        if wrong.any():
            before = int(documents[np.flatnonzero(wrong)[0]]) - 1
            file = self._files[int(np.searchsorted(self._shard_end, before, side="right"))]
            raise DataError(
                f"{self._where}: {file}: the documents up to {before} have other lengths than in the table of chunks;"
                " prepare the corpus again"
            )
        self.rows_seen += length.size
        self._tokens_seen = int(begins[-1])

    def _numbered(self, batch: "pa.RecordBatch", column: str, names: list[str]) -> NDArray[np.int32]:
        """The text column as places in `names`, int32 [num_rows]."""
        numbers = {name: number for number, name in enumerate(names)}
        encoded = batch.column(column)
        places = []
        for name in encoded.dictionary.to_pylist():
            if name not in numbers:
                raise DataError(f"{self._where}: {column} {name!r} is not in the manifest")
            places.append(numbers[name])
        return np.array(places, np.int32)[encoded.indices.to_numpy()]
