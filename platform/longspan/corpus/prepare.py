"""`longspan prepare`: from the texts of a corpus configuration to shards, index, tokenizer and manifest.

Everything is written in an order in which the manifest comes last, so a directory without one is never taken for a
corpus; running again after a crash starts over and gives the same bytes.
"""

import hashlib
import json
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from numpy.typing import NDArray

from longspan import storage
from longspan.config.corpus import Corpus, JsonlSource, NeedleSource, TextSource
from longspan.corpus.index import index_bytes
from longspan.corpus.manifest import (
    INDEX_FILE,
    MANIFEST_FILE,
    VERSION,
    IndexInfo,
    Manifest,
    ShardInfo,
    SourceInfo,
    load_manifest,
    manifest_bytes,
)
from longspan.corpus.sources import find_files, read_texts
from longspan.corpus.synthesis.needles import NeedleVocabulary, needle_document
from longspan.corpus.tokenizer import (
    encode,
    load_tokenizer,
    needle_vocabulary,
    sentence_end_ids,
    store_tokenizer,
    train_tokenizer,
)
from longspan.corpus.writer import Document, write_shards
from longspan.errors import ConfigError, DataError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

Progress = Callable[[str], None]
"""Takes one line of text at a time: what was done, with counts."""

TRAINING_CHARACTERS = 256_000_000
"""A tokenizer is trained on the first texts of every source, this many characters in all and evenly shared."""
NEEDLE_TEXT_TOKENS = 64_000_000
"""Needle documents take their text from the first tokens of their text source, at most this many (held in memory)."""
_NEEDLES = 21
"""Tag of the random streams of needle documents."""


class _Written(NamedTuple):
    """One source as written: its counts, its shards, and the lengths int32 [num_rows] of each shard's documents."""

    info: SourceInfo
    shards: list[ShardInfo]
    lengths: list[NDArray[np.int32]]


def prepare(corpus: Corpus, progress: Progress | None = None) -> Manifest:
    """Write the corpus to `corpus.output` (local or s3://), or find that it is there already.

    A directory that holds this very configuration's corpus is left as it is, even if the texts have changed since.

    Raises:
        ConfigError: a path without files, a tokenizer that cannot be had, needles without needle tokens, or an output
            directory that holds another corpus.
        DataError: a text that cannot be decoded, a line without its field, or a source without a usable document.
        StorageError: a file could not be read or written.
    """
    say = progress or (lambda line: None)
    fingerprint = corpus_fingerprint(corpus)
    if storage.exists(storage.join(corpus.output, MANIFEST_FILE)):
        return _already_there(corpus, fingerprint, say)
    files = {
        source.name: find_files(source, f"sources.{number}")
        for number, source in enumerate(corpus.sources)
        if not isinstance(source, NeedleSource)
    }
    tokenizer = _tokenizer(corpus, files, say)
    vocabulary = needle_vocabulary(tokenizer)
    _check_needles(corpus, vocabulary)
    info = store_tokenizer(tokenizer, corpus.output)
    ends = sentence_end_ids(tokenizer)

    written = _write_sources(corpus, files, tokenizer, vocabulary, say)
    shards = [shard for source in written.values() for shard in source.shards]
    index = index_bytes(
        [(shard.file, shard.source) for shard in shards],
        [length for source in written.values() for length in source.lengths],
    )
    storage.write_bytes(storage.join(corpus.output, INDEX_FILE), index)
    manifest = Manifest(
        version=VERSION,
        corpus=fingerprint,
        tokenizer=info,
        sentence_end_ids=ends,
        sources={name: source.info for name, source in written.items()},
        shards=tuple(shards),
        index=IndexInfo(
            file=INDEX_FILE,
            documents=sum(shard.documents for shard in shards),
            bytes=len(index),
            digest=storage.digest_bytes(index),
        ),
    )
    storage.write_bytes(storage.join(corpus.output, MANIFEST_FILE), manifest_bytes(manifest))
    return manifest


def corpus_fingerprint(corpus: Corpus) -> str:
    """Hash of everything in the configuration that decides the corpus's content; where it is written is left out."""
    values = corpus.model_dump(mode="json", exclude={"output"})
    return hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()[:32]


def _already_there(corpus: Corpus, fingerprint: str, say: Progress) -> Manifest:
    manifest = load_manifest(corpus.output)
    if manifest.corpus != fingerprint:
        raise ConfigError(
            f"output: {corpus.output} holds a corpus of another configuration (sources {manifest.source_names});"
            " choose another directory, or delete that one"
        )
    count = manifest.index.documents
    say(f"{corpus.output}: already prepared from this configuration ({count} documents), nothing done")
    return manifest


def _tokenizer(corpus: Corpus, files: dict[str, list[str]], say: Progress) -> "PreTrainedTokenizerBase":
    if corpus.tokenizer.path is not None:
        return load_tokenizer(corpus.tokenizer.path)
    say(f"tokenizer: training {corpus.tokenizer.train_vocab_size} byte-level BPE tokens")
    return train_tokenizer(_training_texts(corpus, files), corpus.tokenizer)


def _training_texts(corpus: Corpus, files: dict[str, list[str]]) -> Iterator[str]:
    budget = TRAINING_CHARACTERS // max(len(files), 1)
    for source in corpus.sources:
        if isinstance(source, NeedleSource):
            continue
        used = 0
        for text in read_texts(source, files[source.name]):
            yield text[: budget - used]
            used += len(text)
            if used >= budget:
                break


def _write_sources(
    corpus: Corpus,
    files: dict[str, list[str]],
    tokenizer: "PreTrainedTokenizerBase",
    vocabulary: NeedleVocabulary | None,
    say: Progress,
) -> dict[str, _Written]:
    """Writes the shards of all sources; what was written, in the order of the configuration."""
    needle_sources = [source for source in corpus.sources if isinstance(source, NeedleSource)]
    # Filled while the texts are written, so that they are tokenised once: needles come last.
    pools: dict[str, list[NDArray[np.uint32]]] = {source.text_source: [] for source in needle_sources}
    written = {}
    for source in corpus.sources:
        if not isinstance(source, NeedleSource):
            skipped = [0]
            documents = _text_documents(corpus, source, files[source.name], tokenizer, skipped, pools.get(source.name))
            written[source.name] = _write_source(corpus, source.name, documents, skipped, say)
    for source in needle_sources:
        assert vocabulary is not None
        pool = np.concatenate(pools[source.text_source])
        documents = _needle_documents(source, pool, vocabulary, corpus.seed)
        written[source.name] = _write_source(corpus, source.name, documents, [0], say)
    return {source.name: written[source.name] for source in corpus.sources}


def _write_source(
    corpus: Corpus, name: str, documents: Iterator[Document], skipped: list[int], say: Progress
) -> _Written:
    shards, lengths = [], []
    for shard, shard_lengths in write_shards(corpus.output, name, documents, corpus.shard_tokens):
        shards.append(shard)
        lengths.append(shard_lengths)
        say(f"{name}: {shard.file}, {shard.documents} documents, {shard.tokens} tokens")
    if not shards:
        raise DataError(
            f"source {name}: none of its {skipped[0]} documents has min_document_tokens {corpus.min_document_tokens}"
            " tokens; check its paths, or lower min_document_tokens"
        )
    return _Written(_counts(np.concatenate(lengths), skipped[0]), shards, lengths)


def _counts(length: NDArray[np.int32], skipped: int) -> SourceInfo:
    buckets, counts = np.unique(1 << np.floor(np.log2(length)).astype(np.int64), return_counts=True)
    return SourceInfo(
        documents=length.size,
        tokens=int(length.sum(dtype=np.int64)),
        skipped=skipped,
        length_histogram=dict(zip(buckets.tolist(), counts.tolist(), strict=True)),
    )


def _text_documents(
    corpus: Corpus,
    source: TextSource | JsonlSource,
    files: list[str],
    tokenizer: "PreTrainedTokenizerBase",
    skipped: list[int],
    pool: list[NDArray[np.uint32]] | None,
) -> Iterator[Document]:
    """The source's documents of enough tokens, with bos and eos; the others are counted in `skipped[0]`.

    `pool` gets the tokens of the first ones, without bos and eos, as text between needles.
    """
    room = NEEDLE_TEXT_TOKENS
    before = [tokenizer.bos_token_id] if corpus.tokenizer.add_bos and tokenizer.bos_token_id is not None else []
    after = [tokenizer.eos_token_id] if corpus.tokenizer.add_eos and tokenizer.eos_token_id is not None else []
    for tokens in encode(tokenizer, read_texts(source, files)):
        if tokens.size < corpus.min_document_tokens:
            skipped[0] += 1
        else:
            if pool is not None and room > 0:
                pool.append(tokens[:room])
                room -= tokens.size
            yield Document(np.concatenate([before, tokens, after]).astype(np.uint32))


def _needle_documents(
    source: NeedleSource, pool: NDArray[np.uint32], vocabulary: NeedleVocabulary, seed: int
) -> Iterator[Document]:
    """The source's documents; each is drawn from a stream of its own, keyed by the source's name and its number."""
    name = int.from_bytes(source.name.encode(), "little")
    for number in range(source.documents):
        try:
            tokens, loss_weight = needle_document(
                np.random.default_rng([seed, _NEEDLES, name, number]),
                pool,
                source.length,
                vocabulary,
                fill=source.fill,
                query_fraction=source.query_fraction,
                pure_text_share=source.pure_text_share,
            )
        except DataError as error:
            raise DataError(f"source {source.name}: text of {source.text_source}: {error}") from None
        yield Document(tokens, loss_weight)


def _check_needles(corpus: Corpus, vocabulary: NeedleVocabulary | None) -> None:
    for number, source in enumerate(corpus.sources):
        if isinstance(source, NeedleSource) and vocabulary is None:
            raise ConfigError(
                f"sources.{number}: needles need needle tokens in the tokenizer; set tokenizer.needle_tokens with"
                " train_vocab_size, or give the path of a tokenizer that was trained so"
            )
