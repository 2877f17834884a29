"""One unit of a preparation: read its texts, tokenise them, write its shards and, last, its record.

What `prepare` has done in this process or on Ray's workers. A unit depends on nothing but itself and its `Job`, so it
may run anywhere, in any order, and again.
"""

import hashlib
import json
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from numpy.typing import NDArray

from longspan import storage
from longspan.config.corpus import Corpus, NeedleSource, TextualSource
from longspan.corpus.manifest import ShardInfo, TokenizerInfo, read_verified
from longspan.corpus.records import UnitRecord, record_name, write_record
from longspan.corpus.sources import read_texts
from longspan.corpus.synthesis.needles import NeedleVocabulary, needle_document
from longspan.corpus.tokenizer import encode, open_stored
from longspan.corpus.units import Unit
from longspan.corpus.writer import Document, write_shards
from longspan.errors import DataError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

NEEDLE_TEXT_TOKENS = 16_000_000
"""Needle documents take their text from the first tokens of their text source, at most this many (held in memory)."""
_NEEDLES = 21
"""Tag of the random streams of needle documents."""
_COUNTED_AT_ONCE = 1 << 20


@dataclass(frozen=True)
class Job:
    """What all units of a preparation have in common.

    Attributes:
        corpus: the configuration.
        fingerprint: of the configuration (`prepare.corpus_fingerprint`).
        tokenizer: as stored in the corpus.
        pools: shards that hold the text of needle documents, by the name of the text source.
    """

    corpus: Corpus
    fingerprint: str
    tokenizer: TokenizerInfo
    pools: dict[str, tuple[ShardInfo, ...]]


class UnitResult(NamedTuple):
    """What one unit came to: documents and tokens written, bytes of input."""

    documents: int
    tokens: int
    num_bytes: int


def unit_record_name(job: Job, unit: Unit) -> str:
    """Name of the unit's record: another one if configuration, tokenizer, files or text between needles differ."""
    source = _source(job, unit)
    pool = job.pools[source.text_source] if isinstance(source, NeedleSource) else ()
    values = [
        job.fingerprint,
        job.tokenizer.fingerprint,
        asdict(unit),
        [shard.digest for shard in pool],
    ]
    return record_name(unit.name, hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()[:16])


def do_unit(job: Job, unit: Unit) -> UnitResult:
    """Write the unit's shards and then its record.

    Raises:
        DataError: a text that cannot be read, or too little text for needle documents.
        StorageError: a file could not be read or written.
    """
    corpus, source = job.corpus, _source(job, unit)
    skipped = [0]
    if isinstance(source, NeedleSource):
        documents = _needle_documents(job, source, unit.documents)
    else:
        documents = _text_documents(job, source, unit, skipped)
    counts = np.zeros(job.tokenizer.vocab_size, np.int64)
    counted = _counted(documents, counts)
    # A chunk larger than a shard would be the whole of it.
    chunk_tokens = min(corpus.chunk_tokens, corpus.shard_tokens)
    shards = list(write_shards(corpus.output, unit.source, unit.name, counted, corpus.shard_tokens, chunk_tokens))
    token = np.flatnonzero(counts)
    write_record(corpus.output, unit_record_name(job, unit), UnitRecord(shards, skipped[0], token, counts[token]))
    return UnitResult(
        sum(shard.info.documents for shard in shards), sum(shard.info.tokens for shard in shards), unit.num_bytes
    )


def _source(job: Job, unit: Unit) -> TextualSource | NeedleSource:
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


def _text_documents(job: Job, source: TextualSource, unit: Unit, skipped: list[int]) -> Iterator[Document]:
    """The unit's documents of enough tokens, with bos and eos; the others are counted in `skipped[0]`."""
    tokenizer = _tokenizer(job)
    before, after = _frame(job, tokenizer)
    for tokens in encode(tokenizer, read_texts(source, unit.pieces)):
        if tokens.size < job.corpus.min_document_tokens:
            skipped[0] += 1
        else:
            yield Document(np.concatenate([before, tokens, after]).astype(np.uint32, copy=False))


def _frame(job: Job, tokenizer: "PreTrainedTokenizerBase") -> tuple[NDArray[np.uint32], NDArray[np.uint32]]:
    """The tokens before and after each document's own."""
    config = job.corpus.tokenizer
    before = [tokenizer.bos_token_id] if config.add_bos and tokenizer.bos_token_id is not None else []
    after = [tokenizer.eos_token_id] if config.add_eos and tokenizer.eos_token_id is not None else []
    return np.array(before, np.uint32), np.array(after, np.uint32)


def _needle_documents(job: Job, source: NeedleSource, numbers: tuple[int, int]) -> Iterator[Document]:
    """Documents [begin, end); each is drawn from a stream of its own, keyed by the source's name and its number."""
    first_id = job.tokenizer.needle_first_id
    assert first_id is not None
    before, after = _frame(job, _tokenizer(job))
    pool = _pool(job.corpus.output, job.pools[source.text_source], before.size, after.size)
    name = int.from_bytes(source.name.encode(), "little")
    for number in range(*numbers):
        try:
            tokens, loss_weight = needle_document(
                np.random.default_rng([job.corpus.seed, _NEEDLES, name, number]),
                pool,
                source.length,
                NeedleVocabulary(first_id=first_id),
                fill=source.fill,
                query_fraction=source.query_fraction,
                pure_text_share=source.pure_text_share,
            )
        except DataError as error:
            raise DataError(f"source {source.name}: text of {source.text_source}: {error}") from None
        yield Document(tokens, loss_weight)


@lru_cache(maxsize=2)
def _pool(output: str, shards: tuple[ShardInfo, ...], before: int, after: int) -> NDArray[np.uint32]:
    """The first NEEDLE_TEXT_TOKENS tokens of the documents in the shards, without `before` and `after` of each."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    parts: list[NDArray[np.uint32]] = []
    room = NEEDLE_TEXT_TOKENS
    for shard in shards:
        data = read_verified(storage.join(output, shard.file), shard.bytes, shard.digest)
        table = pq.read_table(pa.BufferReader(data), columns=["length", "tokens"])
        tokens = table["tokens"].combine_chunks().flatten().to_numpy()
        length = table["length"].to_numpy()
        ends = np.cumsum(length, dtype=np.int64)
        is_text = np.ones(tokens.size, np.bool_)
        for place in range(before):
            is_text[ends - length + place] = False
        for place in range(after):
            is_text[ends - 1 - place] = False
        parts.append(tokens[is_text][:room])
        room -= parts[-1].size
    return np.concatenate(parts)


def _tokenizer(job: Job) -> "PreTrainedTokenizerBase":
    return _open(job.corpus.output, job.tokenizer.directory, tuple(sorted(job.tokenizer.files.items())))


@lru_cache(maxsize=1)
def _open(output: str, directory: str, files: tuple[tuple[str, str], ...]) -> "PreTrainedTokenizerBase":
    """From the corpus and not from the hub: workers may have no way there, and the hub's may be a newer one."""
    return open_stored(output, TokenizerInfo(directory, 1, dict(files)))
