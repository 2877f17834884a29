"""Scores by document, or by place in the corpus's token stream: parts are fetched when asked for and kept for a while.

What makes batches asks for the scores of the spans that it reads tokens of, in the same terms as `TokenReader.gather`.
"""

import threading
from collections import OrderedDict

import numpy as np
from numpy.typing import NDArray

from longspan import storage
from longspan.corpus.impact.manifest import load_impact
from longspan.corpus.impact.parts import Part, read_part
from longspan.corpus.manifest import Manifest
from longspan.errors import DataError

MEMORY_BYTES = 256 << 20


class ImpactReader:
    """The scores of a finished analysis. Safe in threads; one a process is enough."""

    def __init__(self, uri: str, corpus: Manifest | None = None, *, memory_bytes: int = MEMORY_BYTES) -> None:
        """
        Args:
            uri: folder of the analysis, local or s3://.
            corpus: manifest of the corpus that is read beside it, to prove that the scores are its own.
            memory_bytes: parts kept in memory, the ones used last.

        Raises:
            DataError: no finished analysis, or one of another corpus.
        """
        self.manifest = load_impact(uri)
        if corpus is not None and self.manifest.corpus != corpus.fingerprint:
            raise DataError(f"{uri}: the scores are those of another corpus; score this one")
        self._uri = storage.absolute(uri)
        self._document = np.array([part.first_document for part in self.manifest.parts], np.int64)
        self._offset = np.array([part.offset for part in self.manifest.parts], np.int64)
        self._end = self._offset + np.array([part.tokens for part in self.manifest.parts], np.int64)
        self._memory_bytes = memory_bytes
        self._kept: OrderedDict[int, Part] = OrderedDict()
        self._kept_bytes = 0
        self._lock = threading.Lock()

    def scores(self, document: int, start: int, length: int) -> NDArray[np.float32]:
        """Scores of tokens [start, start + length) of a document, float32 [length].

        Args:
            document: its number in the corpus.

        Raises:
            DataError: the document was not scored, has no such tokens, or its part is damaged.
            StorageError: the store could not be read.
        """
        number = int(np.searchsorted(self._document, document, side="right")) - 1
        info = self.manifest.parts[number] if number >= 0 else None
        if info is None or document >= info.first_document + info.documents:
            raise DataError(f"{self._uri}: document {document} was not scored; score its source too")
        part = self._load(number)
        place = document - info.first_document
        if start < 0 or length < 0 or start + length > part.length[place]:
            raise DataError(
                f"{self._uri}: tokens {start} to {start + length} of document {document} asked for, which has"
                f" {part.length[place]}"
            )
        begin = int(part.length[:place].sum(dtype=np.int64)) + start
        return part.scores[begin : begin + length].astype(np.float32)

    def gather(self, offsets: NDArray[np.integer], lengths: NDArray[np.integer]) -> NDArray[np.float32]:
        """Scores of spans of the global token stream, end to end: float32 [sum of lengths].

        Args:
            offsets, lengths: [num_spans], as of `TokenReader.gather`.

        Raises:
            DataError: a token was not scored, or a part is damaged.
            StorageError: the store could not be read.
        """
        pieces: list[NDArray[np.float16]] = []
        for begin, length in zip(offsets.tolist(), lengths.tolist(), strict=True):
            end = begin + length
            while begin < end:
                number = int(np.searchsorted(self._offset, begin, side="right")) - 1
                if number < 0 or begin >= self._end[number]:
                    raise DataError(f"{self._uri}: token {begin} of the corpus was not scored; score its source too")
                stop = min(end, int(self._end[number]))
                first = int(self._offset[number])
                pieces.append(self._load(number).scores[begin - first : stop - first])
                begin = stop
        return np.concatenate([np.empty(0, np.float16), *pieces]).astype(np.float32)

    def part(self, number: int) -> Part:
        """A whole part, from the store and not kept: for those who go through all of them."""
        return read_part(self._uri, self.manifest.parts[number])

    def _load(self, number: int) -> Part:
        with self._lock:
            if number in self._kept:
                self._kept.move_to_end(number)
                return self._kept[number]
        part = self.part(number)
        with self._lock:
            if number not in self._kept:
                self._kept[number] = part
                self._kept_bytes += _num_bytes(part)
            while self._kept_bytes > self._memory_bytes and len(self._kept) > 1:
                self._kept_bytes -= _num_bytes(self._kept.popitem(last=False)[1])
        return part


def _num_bytes(part: Part) -> int:
    return part.scores.nbytes + part.length.nbytes
