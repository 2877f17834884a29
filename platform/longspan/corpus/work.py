"""One unit of a preparation: read its texts, tokenise them, write its shards and, last, its record.

What `prepare` has done in this process or on Ray's workers. A unit depends on nothing but itself and its `Job`, so it
may run anywhere, in any order, and again.
"""

import hashlib
import json
from collections.abc import Iterable, Iterator
from dataclasses import asdict
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from longspan.config.corpus import InterleavedSource, NeedleSource, Source, SynlSource
from longspan.corpus.bad_rows import Tally
from longspan.corpus.documents import Job, unit_documents
from longspan.corpus.records import RECORD_VERSION, UnitRecord, record_name, write_record
from longspan.corpus.units import Unit
from longspan.corpus.writer import Document, write_shards

_COUNTED_AT_ONCE = 1 << 20


class UnitResult(NamedTuple):
    """What one unit came to: documents and tokens written, bytes and rows of input, bad rows, and the unit's name."""

    documents: int
    tokens: int
    num_bytes: int
    rows: int = 0
    bad: int = 0
    unit: str = ""


def unit_record_name(job: Job, unit: Unit) -> str:
    """Name of the unit's record: another one if configuration, tokenizer, files or the text it is made of differ."""
    source = _source(job, unit)
    pool = job.pools[source.text_source] if isinstance(source, NeedleSource) else ()
    values = [
        RECORD_VERSION,
        job.fingerprint,
        job.tokenizer.fingerprint,
        asdict(unit),
        [shard.digest for shard in pool],
    ]
    return record_name(unit.name, hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()[:16])


def do_unit(job: Job, unit: Unit) -> UnitResult:
    """Write the unit's shards and then its record.

    Raises:
        LongspanError: as `documents.unit_documents`, or StorageError: a file could not be written.
    """
    corpus = job.corpus
    source = _source(job, unit)
    tally = Tally(None if isinstance(source, NeedleSource | SynlSource | InterleavedSource) else source)
    documents = unit_documents(job, source, unit, tally)
    counts = np.zeros(job.tokenizer.vocab_size, np.int64)
    counted = _counted(documents, counts)
    # A chunk larger than a shard would be the whole of it.
    chunk_tokens = min(corpus.chunk_tokens, corpus.shard_tokens)
    shards = list(write_shards(corpus.output, unit.source, unit.name, counted, corpus.shard_tokens, chunk_tokens))
    token = np.flatnonzero(counts)
    write_record(corpus.output, unit_record_name(job, unit), UnitRecord(shards, tally, token, counts[token]))
    num_documents = sum(shard.info.documents for shard in shards)
    num_tokens = sum(shard.info.tokens for shard in shards)
    return UnitResult(num_documents, num_tokens, unit.num_bytes, tally.rows, tally.bad, unit.name)


def _source(job: Job, unit: Unit) -> Source:
    return next(source for source in job.corpus.sources if source.name == unit.source)


def _counted(documents: Iterable[Document], counts: NDArray[np.int64]) -> Iterator[Document]:
    """The documents; their tokens are added up in `counts` [vocab_size]."""
    waiting: list[NDArray[np.uint32]] = []
    size = 0

    def count() -> None:
        counts[:] += np.bincount(np.concatenate(waiting), minlength=counts.size)

    for document in documents:
        waiting.append(document.tokens)
        size += document.tokens.size
        if size >= _COUNTED_AT_ONCE:
            count()
            waiting, size = [], 0
        yield document
    if waiting:
        count()
