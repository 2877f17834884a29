"""The documents of a unit, whatever its source: texts and conversations read and tokenised, others made.

`work` writes them as shards. What is random in a document comes from a stream of its own, keyed by the corpus's seed,
the source's name and the document's number, so it is the same in whichever unit it lies.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, fields
from functools import lru_cache
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from longspan import storage
from longspan.config.corpus import (
    ChatSource,
    Corpus,
    InterleavedSource,
    NeedleSource,
    Source,
    SynlSource,
    TextualSource,
)
from longspan.corpus.bad_rows import NO_ANSWER, SHORT, BadRowError, Tally
from longspan.corpus.chat import chat_documents
from longspan.corpus.encoding import encode, encode_with_offsets
from longspan.corpus.manifest import ShardInfo, TokenizerInfo, read_verified
from longspan.corpus.messages import ChatFormat
from longspan.corpus.sources import read_records, read_texts
from longspan.corpus.synthesis.interleave import fill_windows
from longspan.corpus.synthesis.needle_tasks import task_document
from longspan.corpus.synthesis.needles import NeedleVocabulary
from longspan.corpus.synthesis.synl import SynlSettings, answer_weights, check_room, synl_document
from longspan.corpus.tokenizer import open_stored
from longspan.corpus.units import Unit
from longspan.corpus.windows import open_knots, text_of_windows, window_document, window_rng
from longspan.corpus.writer import Document
from longspan.errors import ConfigError, DataError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

NEEDLE_TEXT_TOKENS = 16_000_000
"""Needle documents take their text from the first tokens of their text source, at most this many (held in memory)."""
_NEEDLES, _SYNL, _INTERLEAVED = 21, 22, 23
"""Tags of the random streams of synthetic documents."""


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


def unit_documents(job: Job, source: Source, unit: Unit, tally: Tally) -> Iterator[Document]:
    """The unit's documents in order; rows that give none are counted in `tally`.

    Raises:
        ConfigError: SynL tables that its lengths have no room for.
        DataError: a file that is damaged, a bad row where the source refuses them, or too little text for needle
            documents.
        StorageError: a file could not be read.
    """
    if isinstance(source, NeedleSource):
        return _needle_documents(job, source, unit.documents)
    if isinstance(source, SynlSource):
        return _synl_documents(job, source, unit.documents)
    if isinstance(source, InterleavedSource):
        return _interleaved_documents(job, source, unit)
    if isinstance(source, ChatSource):
        return _chat_documents(job, source, unit, tally)
    return _text_documents(job, source, unit, tally)


def chat_format(source: ChatSource) -> ChatFormat:
    """The source's settings as `chat` takes them."""
    return ChatFormat(**source.model_dump(include={field.name for field in fields(ChatFormat)}))


def num_bos(job: Job) -> int:
    """How many tokens of each text document are the bos before its own."""
    return int(_frame(job.corpus, _tokenizer(job))[0].size)


def windows_of(job: Job, source: InterleavedSource, lengths: Sequence[NDArray[np.integer]]) -> NDArray[np.int64]:
    """Tokens of text in each window of an interleaved source: int64 [num_windows].

    Args:
        lengths: int [num_documents] of each shard of its text, tokens of each document.
    """
    tokenizer, bos = _tokenizer(job), num_bos(job)
    key = _key(job.corpus, _INTERLEAVED, source.name)
    return text_of_windows(source, lengths, bos, open_knots(source, tokenizer, bos), key)


def check_knots(corpus: Corpus, source: InterleavedSource, tokenizer: "PreTrainedTokenizerBase") -> None:
    """Raises ConfigError for marks or names that cannot be written, or that have no room in a window."""
    open_knots(source, tokenizer, _frame(corpus, tokenizer)[0].size)


def check_synl(corpus: Corpus, source: SynlSource, tokenizer: "PreTrainedTokenizerBase") -> None:
    """Raises ConfigError if the tokenizer is a slow one, or the shortest documents have no room for their questions."""
    if not tokenizer.is_fast:
        raise ConfigError(
            "SynL needs a fast tokenizer, which says where in the text each token lies, and this one is slow; give the"
            " path of its fast version (tokenizer.json)"
        )
    frame = sum(ids.size for ids in _frame(corpus, tokenizer))
    key = _key(corpus, _SYNL, source.name)
    check_room(_synl_settings(source), key, source.documents, lambda text: frame + _count(tokenizer, text))


def _text_documents(job: Job, source: TextualSource, unit: Unit, tally: Tally) -> Iterator[Document]:
    """Each text with bos and eos."""
    tokenizer = _tokenizer(job)
    before, after = _frame(job.corpus, tokenizer)
    for tokens in encode(tokenizer, tally.good(read_texts(source, unit.pieces)), source.added_tokens):
        if tokens.size < job.corpus.min_document_tokens:
            tally.leave_out(SHORT)
        else:
            yield Document(np.concatenate([before, tokens, after]).astype(np.uint32, copy=False))


def _chat_documents(job: Job, source: ChatSource, unit: Unit, tally: Tally) -> Iterator[Document]:
    """Each conversation as its template frames it, in one document or several."""
    tokenizer, form = _tokenizer(job), chat_format(source)
    for where, record in tally.good(read_records(source, unit.pieces, form.record_fields)):
        try:
            documents = chat_documents(tokenizer, record, form, where=where)
        except BadRowError as error:
            tally.refuse(error)
            continue
        if not documents:
            tally.leave_out(NO_ANSWER)
        for document in documents:
            if document.tokens.size < job.corpus.min_document_tokens:
                tally.leave_out(SHORT)
            else:
                yield document


def _needle_documents(job: Job, source: NeedleSource, numbers: tuple[int, int]) -> Iterator[Document]:
    first_id = job.tokenizer.needle_first_id
    assert first_id is not None
    before, after = _frame(job.corpus, _tokenizer(job))
    pool = _pool(job.corpus.output, job.pools[source.text_source], before.size, after.size)
    for number in range(*numbers):
        try:
            tokens, loss_weight = task_document(
                np.random.default_rng([*_key(job.corpus, _NEEDLES, source.name), number]),
                pool,
                source.length,
                NeedleVocabulary(first_id=first_id),
                tasks=source.tasks,
                fill=source.fill,
                query_fraction=source.query_fraction,
                pure_text_share=source.pure_text_share,
            )
        except DataError as error:
            raise DataError(f"source {source.name}: text of {source.text_source}: {error}") from None
        yield Document(tokens, loss_weight)


def _synl_documents(job: Job, source: SynlSource, numbers: tuple[int, int]) -> Iterator[Document]:
    """Tables and questions between bos (weight 0) and eos (weight 1: where to stop is learned from nothing else)."""
    tokenizer = _tokenizer(job)
    before, after = _frame(job.corpus, tokenizer)
    settings, key = _synl_settings(source), _key(job.corpus, _SYNL, source.name)

    def count(text: str) -> int:
        return _count(tokenizer, text) + before.size + after.size

    for number in range(*numbers):
        try:
            made = synl_document(settings, key, number, count)
        except ConfigError as error:
            raise ConfigError(f"source {source.name}: {error}") from None
        tokens, offsets = encode_with_offsets(tokenizer, made.text)
        answers = answer_weights(offsets, made.spans)
        weight = np.concatenate([np.zeros(before.size), answers, np.ones(after.size)]).astype(np.float32)
        yield Document(np.concatenate([before, tokens, after]).astype(np.uint32, copy=False), weight)


def _interleaved_documents(job: Job, source: InterleavedSource, unit: Unit) -> Iterator[Document]:
    tokenizer = _tokenizer(job)
    before, _ = _frame(job.corpus, tokenizer)
    knots = open_knots(source, tokenizer, before.size)
    sizes = np.array(unit.windows, np.int64)
    text, length, is_cut = _unit_text(job.corpus.output, unit, before.size, int(sizes.sum()))
    window, pieces = fill_windows(length, sizes)
    offset = (np.cumsum(length) - length)[pieces.document] + pieces.start
    documents = np.split(text, offset[1:])
    goes_on = (pieces.start > 0).tolist()
    goes_on[0] |= is_cut
    bounds = np.searchsorted(window, np.arange(sizes.size + 1)).tolist()
    key = _key(job.corpus, _INTERLEAVED, source.name)
    for number, begin, end in zip(range(*unit.documents), bounds[:-1], bounds[1:], strict=True):
        rng = window_rng(key, number)
        yield window_document(source, rng, documents[begin:end], goes_on[begin:end], before, knots)


def _unit_text(
    output: str, unit: Unit, before: int, num_tokens: int
) -> tuple[NDArray[np.uint32], NDArray[np.int64], bool]:
    """The text of the unit's windows.

    Returns:
        tokens uint32 [num_tokens]; the length int64 [num_documents] of each document in them; and whether the first one
        begins in an earlier unit.
    """
    tokens, lengths = [], []
    skip, room, is_cut = unit.text_begin, num_tokens, False
    for shard in unit.text:
        text, length = _shard_text(output, shard, before, 0)
        # Of each document what lies between what is skipped and what there is room for.
        ends = np.cumsum(length)
        taken = np.minimum(ends, skip + room) - np.maximum(ends - length, skip)
        inside = np.flatnonzero(taken > 0)
        is_cut |= bool((ends - length)[inside[0]] < skip)
        tokens.append(text[skip : skip + room])
        lengths.append(taken[inside])
        room -= tokens[-1].size
        skip = 0
    return np.concatenate(tokens), np.concatenate(lengths), is_cut


@lru_cache(maxsize=2)
def _pool(output: str, shards: tuple[ShardInfo, ...], before: int, after: int) -> NDArray[np.uint32]:
    """The first NEEDLE_TEXT_TOKENS tokens of the documents in the shards, without `before` and `after` of each."""
    parts: list[NDArray[np.uint32]] = []
    room = NEEDLE_TEXT_TOKENS
    for shard in shards:
        parts.append(_shard_text(output, shard, before, after)[0][:room])
        room -= parts[-1].size
    return np.concatenate(parts)


def _shard_text(output: str, shard: ShardInfo, before: int, after: int) -> tuple[NDArray[np.uint32], NDArray[np.int64]]:
    """The shard's documents without the first `before` and last `after` tokens of each.

    Returns:
        tokens uint32 [num_tokens] end to end, and the length int64 [num_documents] of each document.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    data = read_verified(storage.join(output, shard.file), shard.bytes, shard.digest)
    table = pq.read_table(pa.BufferReader(data), columns=["length", "tokens"])
    tokens = table["tokens"].combine_chunks().flatten().to_numpy()
    length = table["length"].to_numpy().astype(np.int64)
    ends = np.cumsum(length)
    is_text = np.ones(tokens.size, np.bool_)
    for place in range(before):
        is_text[ends - length + place] = False
    for place in range(after):
        is_text[ends - 1 - place] = False
    return tokens[is_text], length - before - after


def _synl_settings(source: SynlSource) -> SynlSettings:
    return SynlSettings(
        lengths=tuple(source.lengths),
        questions=source.questions,
        kinds=tuple(source.kinds),
        formats=tuple(source.formats),
        split=source.split,
    )


def _count(tokenizer: "PreTrainedTokenizerBase", text: str) -> int:
    return next(encode(tokenizer, [text])).size


def _key(corpus: Corpus, tag: int, name: str) -> list[int]:
    """Entropy of a source's random streams."""
    return [corpus.seed, tag, int.from_bytes(name.encode(), "little")]


def _frame(corpus: Corpus, tokenizer: "PreTrainedTokenizerBase") -> tuple[NDArray[np.uint32], NDArray[np.uint32]]:
    """The tokens before and after each document's own."""
    config = corpus.tokenizer
    before = [tokenizer.bos_token_id] if config.add_bos and tokenizer.bos_token_id is not None else []
    after = [tokenizer.eos_token_id] if config.add_eos and tokenizer.eos_token_id is not None else []
    return np.array(before, np.uint32), np.array(after, np.uint32)


def _tokenizer(job: Job) -> "PreTrainedTokenizerBase":
    return _open(job.corpus.output, job.tokenizer.directory, tuple(sorted(job.tokenizer.files.items())))


@lru_cache(maxsize=1)
def _open(output: str, directory: str, files: tuple[tuple[str, str], ...]) -> "PreTrainedTokenizerBase":
    """From the corpus and not from the hub: workers may have no way there, and the hub's may be a newer one."""
    return open_stored(output, TokenizerInfo(directory, 1, dict(files)))
