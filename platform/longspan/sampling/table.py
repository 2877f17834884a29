"""What the sample plan needs of a corpus: its chunks and the length of every document.

`corpus/` builds it from its shards (the lengths may stay in a mapped file); everything else in `sampling/` reads it.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import ArrayLike, NDArray

from longspan.errors import DataError


@dataclass(frozen=True)
class CorpusTable:
    """Documents are numbered in corpus order; their tokens lie end to end in one global token stream.

    A chunk is the unit of reading and of the coarse shuffle: some 256k tokens of whole documents. A document longer
    than a chunk has chunks of its own, of which only the first counts it.

    Attributes:
        source_names: names that `chunk_source` counts.
        chunk_source: int16 [num_chunks], place in `source_names`; chunks of a source are neighbours.
        chunk_document: int64 [num_chunks], number of the first document that begins in the chunk.
        chunk_documents: int32 [num_chunks], documents that begin in it; 0 for the continuation of a long document.
        chunk_offset: int64 [num_chunks], first token of the chunk in the global token stream.
        length: int32 [num_documents], tokens, at least 1; may be a np.memmap: only parts of it are ever touched.

    Raises:
        DataError: the columns do not fit together.
    """

    source_names: tuple[str, ...]
    chunk_source: NDArray[np.int16]
    chunk_document: NDArray[np.int64]
    chunk_documents: NDArray[np.int32]
    chunk_offset: NDArray[np.int64]
    length: NDArray[np.int32]

    def __post_init__(self) -> None:
        columns = (self.chunk_source, self.chunk_document, self.chunk_documents, self.chunk_offset)
        if len({column.size for column in columns}) != 1:
            raise DataError(f"corpus table: columns of {[column.size for column in columns]} chunks; prepare it again")
        firsts = np.flatnonzero(np.diff(self.chunk_source, prepend=np.int16(-1)))
        if np.unique(self.chunk_source[firsts]).size != firsts.size:
            raise DataError("corpus table: the chunks of a source are not neighbours; prepare the corpus again")
        units = self.chunk_documents > 0
        first = np.cumsum(self.chunk_documents, dtype=np.int64) - self.chunk_documents
        if self.chunk_documents.sum(dtype=np.int64) != self.length.size or (first != self.chunk_document)[units].any():
            raise DataError("corpus table: chunks and documents do not fit together; prepare the corpus again")

    @property
    def num_documents(self) -> int:
        return int(self.length.size)

    @property
    def num_chunks(self) -> int:
        return int(self.chunk_source.size)

    @cached_property
    def units(self) -> NDArray[np.int64]:
        """int64 [num_units], chunks in which documents begin: what the shuffle permutes."""
        return np.flatnonzero(self.chunk_documents)

    @cached_property
    def num_tokens(self) -> int:
        """Tokens of the whole corpus."""
        if self.num_documents == 0:
            return 0
        last = int(self.units[-1])
        tail = self.length[int(self.chunk_document[last]) :]
        return int(self.chunk_offset[last]) + int(tail.sum(dtype=np.int64))

    @cached_property
    def chunk_tokens(self) -> NDArray[np.int64]:
        """int64 [num_chunks], tokens of each chunk."""
        return np.diff(self.chunk_offset, append=np.int64(self.num_tokens))

    @cached_property
    def source_tokens(self) -> NDArray[np.int64]:
        """int64 [num_sources], tokens of each source."""
        tokens = np.zeros(len(self.source_names), dtype=np.int64)
        np.add.at(tokens, self.chunk_source, self.chunk_tokens)
        return tokens

    @cached_property
    def source_documents(self) -> NDArray[np.int64]:
        """int64 [num_sources], documents of each source."""
        documents = np.zeros(len(self.source_names), dtype=np.int64)
        np.add.at(documents, self.chunk_source, self.chunk_documents)
        return documents

    @classmethod
    def from_lengths(
        cls, source_id: ArrayLike, length: ArrayLike, source_names: Sequence[str], chunk_tokens: int = 1 << 18
    ) -> "CorpusTable":
        """Table of documents given one by one, as `corpus/` would cut them into chunks.

        Args:
            source_id: int [num_documents], place in `source_names`; documents of a source are neighbours.
            length: int [num_documents], tokens, at least 1.
            source_names: names of the sources.
            chunk_tokens: tokens that a chunk holds at most; a longer document gets chunks of its own.
        """
        lengths = np.asarray(length, dtype=np.int32)
        rows: list[tuple[int, int, int, int]] = []
        offset, used, previous = 0, chunk_tokens + 1, -1
        for document, (source, size) in enumerate(zip(np.asarray(source_id).tolist(), lengths.tolist(), strict=True)):
            if source == previous and used + size <= chunk_tokens:
                first_source, first_document, documents, first_offset = rows[-1]
                rows[-1] = (first_source, first_document, documents + 1, first_offset)
                used += size
            else:
                rows.append((source, document, 1, offset))
                rows += [(source, document + 1, 0, offset + at) for at in range(chunk_tokens, size, chunk_tokens)]
                used = size
            previous, offset = source, offset + size
        columns = np.array(rows, dtype=np.int64).reshape(-1, 4).T
        return cls(
            source_names=tuple(source_names),
            chunk_source=columns[0].astype(np.int16),
            chunk_document=columns[1].copy(),
            chunk_documents=columns[2].astype(np.int32),
            chunk_offset=columns[3].copy(),
            length=lengths,
        )
