"""Ranges of the global token stream of a corpus: chunks are fetched, proven by their digests and kept for a while.

`feed` asks for all spans of its next samples at once, so that requests to a store overlap and a chunk serves all spans
that lie in it. `index` says where a document lies in the stream.
"""

import threading
from collections import OrderedDict
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import NamedTuple

import numpy as np
import xxhash
from numpy.typing import NDArray

from longspan import storage
from longspan.corpus.chunk_cache import ChunkCache
from longspan.corpus.chunks import chunk_table
from longspan.corpus.manifest import Manifest
from longspan.corpus.writer import TOKEN_BYTES
from longspan.errors import DataError, StorageError

MEMORY_BYTES = 256 << 20
DISK_BYTES = 16 << 30
_REQUEST_BYTES = 8 << 20
_REQUESTS = 16
_CHUNKS_AT_ONCE = 64
"""Chunks fetched before their spans are copied out: enough for all threads, and a limit to what is held meanwhile."""
_REFETCHES = 3


class Chunk(NamedTuple):
    """A proven chunk: tokens uint32 and weight float32 (None: all 1), both read-only [num_tokens]."""

    tokens: NDArray[np.uint32]
    weight: NDArray[np.float32] | None

    @property
    def num_bytes(self) -> int:
        return self.tokens.nbytes + (0 if self.weight is None else self.weight.nbytes)


class _Pieces(NamedTuple):
    """Spans cut at the borders of chunks, sorted by chunk; all int64 [num_pieces].

    Piece i is tokens [begin, end) of `chunk`, and tokens [out, out + end - begin) of the spans end to end.
    """

    chunk: NDArray[np.int64]
    begin: NDArray[np.int64]
    end: NDArray[np.int64]
    out: NDArray[np.int64]


class TokenReader:
    """Any range of a corpus' tokens. Safe in threads; one a process is enough."""

    def __init__(
        self, uri: str, manifest: Manifest, *, memory_bytes: int = MEMORY_BYTES, disk_bytes: int = DISK_BYTES
    ) -> None:
        """
        Args:
            uri: folder of the corpus, local or s3://.
            memory_bytes: proven chunks kept in memory, the ones used last.
            disk_bytes: of the node's disk cache, which only a corpus in a store has.

        Raises as `chunks.chunk_table`.
        """
        self._uri = uri
        self._manifest = manifest
        self._table = chunk_table(uri, manifest)
        self._memory_bytes = memory_bytes
        self._cache = ChunkCache(manifest.fingerprint, disk_bytes) if storage.is_remote(uri) else None
        self._kept: OrderedDict[int, Chunk] = OrderedDict()
        self._kept_bytes = 0
        # Chunks that some thread is fetching; others that want them wait for its result.
        self._coming: dict[int, Future[Chunk]] = {}
        self._lock = threading.Lock()

    def read(self, offset: int, length: int) -> tuple[NDArray[np.uint32], NDArray[np.float32] | None]:
        """Tokens [offset, offset + length) of the global token stream, inside one shard.

        Returns:
            tokens uint32 [length], and the weight of each as a target float32 [length], None where all weigh 1. Views
            of the kept chunk, not to be written, where one chunk holds them.

        Raises:
            DataError: the range does not exist or leaves its shard; the shard is missing, too short or damaged, or
                holds a token outside the vocabulary.
            StorageError: the store could not be read.
        """
        pieces = self._pieces(np.array([offset]), np.array([length]))
        if pieces.chunk.size == 1:
            number, begin, end = (int(column[0]) for column in pieces[:3])
            chunk = self._load([number])[number]
            return chunk.tokens[begin:end], None if chunk.weight is None else chunk.weight[begin:end]
        return self._copied(pieces)

    def gather(
        self, offsets: NDArray[np.integer], lengths: NDArray[np.integer]
    ) -> tuple[NDArray[np.uint32], NDArray[np.float32] | None]:
        """Many ranges, end to end in new arrays. Chunks that are not at hand are fetched side by side, neighbours in
        one request.

        Args:
            offsets, lengths: [num_spans], each as of `read`.

        Returns and raises as `read`; length is the sum of `lengths`.
        """
        return self._copied(self._pieces(offsets, lengths))

    def _pieces(self, offsets: NDArray[np.integer], lengths: NDArray[np.integer]) -> _Pieces:
        starts, shard = self._table.offset, self._table.shard
        begin, size = offsets.astype(np.int64), lengths.astype(np.int64)
        self._refuse(begin, size, (begin < 0) | (size < 0) | (begin + size > starts[-1]))
        begin, size = begin[size > 0], size[size > 0]  # an empty span is of no chunk
        first = np.searchsorted(starts, begin, side="right") - 1
        last = np.searchsorted(starts, begin + size - 1, side="right") - 1
        self._refuse(begin, size, shard[first] != shard[last])
        count = last - first + 1
        span = np.repeat(np.arange(begin.size), count)
        chunk = np.arange(span.size) - np.repeat(np.cumsum(count) - count, count) + first[span]
        piece_begin = np.maximum(begin[span], starts[chunk])
        piece_end = np.minimum((begin + size)[span], starts[chunk + 1])
        out = np.cumsum(piece_end - piece_begin) - (piece_end - piece_begin)
        order = np.argsort(chunk, kind="stable")
        columns = (chunk, piece_begin - starts[chunk], piece_end - starts[chunk], out)
        return _Pieces(*(column[order] for column in columns))

    def _refuse(self, begin: NDArray[np.int64], size: NDArray[np.int64], wrong: NDArray[np.bool_]) -> None:
        for at in np.flatnonzero(wrong)[:1]:
            raise DataError(
                f"{self._uri}: tokens {begin[at]} to {begin[at] + size[at]} asked for, which are not of one shard; the"
                f" corpus has {self._table.offset[-1]} tokens. The plan was made for another corpus"
            )

    def _copied(self, pieces: _Pieces) -> tuple[NDArray[np.uint32], NDArray[np.float32] | None]:
        total = int((pieces.end - pieces.begin).sum())
        tokens = np.empty(total, np.uint32)
        numbers, first = np.unique(pieces.chunk, return_index=True)
        is_weighted = any(self._manifest.shards[i].weights_at is not None for i in set(self._table.shard[numbers]))
        weight = np.ones(total, np.float32) if is_weighted else None
        last = np.append(first[1:], pieces.chunk.size)
        for at in range(0, numbers.size, _CHUNKS_AT_ONCE):
            wanted = numbers[at : at + _CHUNKS_AT_ONCE].tolist()
            chunks = self._load(wanted)
            own = slice(first[at], last[at + len(wanted) - 1])
            for number, begin, end, out in zip(*(column[own].tolist() for column in pieces), strict=True):
                chunk = chunks[number]
                tokens[out : out + end - begin] = chunk.tokens[begin:end]
                if weight is not None and chunk.weight is not None:
                    weight[out : out + end - begin] = chunk.weight[begin:end]
        return tokens, weight

    def _load(self, numbers: Sequence[int]) -> dict[int, Chunk]:
        """These chunks: kept, being fetched by another thread, or fetched now."""
        chunks: dict[int, Chunk] = {}
        own: list[int] = []
        others: list[tuple[int, Future[Chunk]]] = []
        with self._lock:
            for number in numbers:
                if number in self._kept:
                    self._kept.move_to_end(number)
                    chunks[number] = self._kept[number]
                elif number in self._coming:
                    others.append((number, self._coming[number]))
                else:
                    self._coming[number] = Future()
                    own.append(number)
        if own:
            chunks |= self._fetch_for_all(own)
        for number, future in others:
            # What the other thread failed at may be another chunk of its own.
            chunks[number] = future.result() if future.exception() is None else self._load([number])[number]
        return chunks

    def _fetch_for_all(self, numbers: list[int]) -> dict[int, Chunk]:
        try:
            fetched = self._from_store(numbers) if self._cache is None else self._from_node(self._cache, numbers)
        except BaseException as error:
            with self._lock:
                futures = [self._coming.pop(number) for number in numbers]
            for future in futures:
                future.set_exception(error)
            raise
        with self._lock:
            for number, chunk in fetched.items():
                self._kept[number] = chunk
                self._kept_bytes += chunk.num_bytes
            while self._kept_bytes > self._memory_bytes and len(self._kept) > 1:
                self._kept_bytes -= self._kept.popitem(last=False)[1].num_bytes
            futures = [self._coming.pop(number) for number in numbers]
        for number, future in zip(numbers, futures, strict=True):
            future.set_result(fetched[number])
        return fetched

    def _from_node(self, cache: ChunkCache, numbers: list[int]) -> dict[int, Chunk]:
        """From the node's cache, or from the store into it; what another process is fetching is waited for."""
        chunks = dict(self._cached(cache, numbers))
        missing = [number for number in numbers if number not in chunks]
        if missing:
            with cache.claim(missing) as claimed:
                chunks |= self._claimed(cache, claimed)
        for number in missing:
            if number not in chunks:
                with cache.claim([number], wait=True) as claimed:
                    chunks |= self._claimed(cache, claimed)
        return chunks

    def _claimed(self, cache: ChunkCache, numbers: list[int]) -> dict[int, Chunk]:
        chunks = dict(self._cached(cache, numbers))  # another process may have been quicker
        return chunks | self._from_store([number for number in numbers if number not in chunks])

    def _cached(self, cache: ChunkCache, numbers: list[int]) -> Iterator[tuple[int, Chunk]]:
        for number in numbers:
            data = cache.read(number)
            if data is None:
                continue
            chunk = self._proven(number, data)
            if chunk is not None:
                yield number, chunk
            else:
                cache.remove(number)

    def _from_store(self, numbers: list[int]) -> dict[int, Chunk]:
        groups = list(self._groups(numbers))
        if self._cache is None or len(groups) < 2:
            fetched = [self._fetch(group) for group in groups]
        else:
            with ThreadPoolExecutor(min(_REQUESTS, len(groups)), thread_name_prefix="longspan-read") as pool:
                futures = [pool.submit(self._fetch, group) for group in groups]
                try:
                    fetched = [future.result() for future in futures]
                except BaseException:
                    pool.shutdown(wait=False, cancel_futures=True)
                    raise
        return {number: chunk for part in fetched for number, chunk in part.items()}

    def _groups(self, numbers: list[int]) -> Iterator[list[int]]:
        """Neighbouring chunks of a shard that one request brings; on a local disk there is nothing to save by it."""
        group: list[int] = []
        for number in sorted(numbers):
            size = self._table.offset[number + 1] - self._table.offset[group[0] if group else number]
            is_next = group and number == group[-1] + 1 and self._table.shard[number] == self._table.shard[group[0]]
            if group and not (is_next and self._cache is not None and size * TOKEN_BYTES <= _REQUEST_BYTES):
                yield group
                group = []
            group.append(number)
        if group:
            yield group

    def _fetch(self, group: list[int]) -> dict[int, Chunk]:
        """The neighbouring chunks from the store, each proven; one that is wrong is fetched again on its own."""
        chunks: dict[int, Chunk] = {}
        for number, data in self._bytes_of(group):
            chunk = self._proven(number, data)
            for _ in range(_REFETCHES):
                if chunk is not None:
                    break
                ((_, data),) = self._bytes_of([number])
                chunk = self._proven(number, data)
            if chunk is None:
                raise DataError(
                    f"{self._place(number)}: its tokens are not those that were prepared: expected digest"
                    f" {self._table.digest[number].tobytes().hex()}, found {xxhash.xxh3_128_hexdigest(data)}"
                    f" (fetched {1 + _REFETCHES} times); restore the shard or prepare the corpus again"
                )
            if self._cache is not None:
                self._cache.write(number, data)
            chunks[number] = chunk
        return chunks

    def _bytes_of(self, group: list[int]) -> Iterator[tuple[int, bytes]]:
        """Each chunk's tokens and then weights, as they are in the shard."""
        table, shard_id = self._table, int(self._table.shard[group[0]])
        shard = self._manifest.shards[shard_id]
        shard_begin = int(table.offset[np.searchsorted(table.shard, shard_id)])
        begins = [TOKEN_BYTES * (int(table.offset[number]) - shard_begin) for number in [*group, group[-1] + 1]]
        places = [place for place in (shard.tokens_at, shard.weights_at) if place is not None]
        where = storage.join(self._uri, shard.file)
        try:
            parts = storage.read_ranges(where, [(place + begins[0], place + begins[-1]) for place in places])
        except storage.NotFoundError:
            raise DataError(f"{where}: named in the manifest, but missing; prepare the corpus again") from None
        except StorageError:
            found = storage.size(where)
            if found >= max(places) + begins[-1]:
                raise
            raise DataError(
                f"{where}: {found} bytes, but the manifest has {shard.bytes}; restore it or prepare the corpus again"
            ) from None
        for number, begin, end in zip(group, begins[:-1], begins[1:], strict=True):
            # A slice is a copy, so that a chunk that is kept does not keep its neighbours.
            yield number, b"".join(part[begin - begins[0] : end - begins[0]] for part in parts)

    def _proven(self, number: int, data: bytes) -> Chunk | None:
        """The chunk in these bytes, None if they are not it. DataError if it holds what is no token."""
        if xxhash.xxh3_128_digest(data) != self._table.digest[number].tobytes():
            return None
        size = int(self._table.offset[number + 1] - self._table.offset[number])
        tokens = np.frombuffer(data, "<u4", size)
        vocab_size = self._manifest.tokenizer.vocab_size
        if int(tokens.max()) >= vocab_size:
            raise DataError(
                f"{self._place(number)}: token {tokens.max()} is outside the vocabulary of {vocab_size}; the shard was"
                " made with another tokenizer, prepare the corpus again"
            )
        has_weights = self._manifest.shards[self._table.shard[number]].weights_at is not None
        return Chunk(tokens, np.frombuffer(data, "<f4", size, size * TOKEN_BYTES) if has_weights else None)

    def _place(self, number: int) -> str:
        """Shard and rows of a chunk, for messages."""
        table = self._table
        shard_id = int(table.shard[number])
        first = int(table.document[np.searchsorted(table.shard, shard_id)])
        # The later chunks of a long document begin none: they are of the one before.
        begin = int(table.document[number]) - first - (1 if table.documents[number] == 0 else 0)
        end = begin + max(int(table.documents[number]), 1) - 1
        rows = f"row {begin}" if begin == end else f"rows {begin} to {end}"
        return f"{storage.join(self._uri, self._manifest.shards[shard_id].file)}, {rows}"
