"""Corpora and plans for the benchmarks, made of random ids by the package's own writers.

A corpus of N tokens in samples that divide N, packed end to end, is read exactly once by a plan of N tokens: so every
contender delivers the same tokens, and their sums can be compared.
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from longspan import storage
from longspan.corpus.chunks import chunks_bytes
from longspan.corpus.combine import token_counts_bytes
from longspan.corpus.index import corpus_table, index_bytes
from longspan.corpus.manifest import (
    CHUNKS_FILE,
    INDEX_FILE,
    MANIFEST_FILE,
    TOKEN_COUNTS_FILE,
    VERSION,
    FileInfo,
    Manifest,
    SourceInfo,
    TokenizerInfo,
    load_manifest,
    manifest_bytes,
)
from longspan.corpus.plan_table import write_plan
from longspan.corpus.writer import Document, write_shards
from longspan.sampling.plan import MixPoint, PlanSettings, plan_parts
from tests.benchmarks.mixes import document_lengths

VOCAB = 128_256
SENTENCE_TOKENS = 25
_ENDS = tuple(range(0, VOCAB, 200))


@dataclass(frozen=True)
class Corpus:
    """Where a corpus and its plan lie, and what they hold."""

    uri: str
    plan_uri: str
    num_tokens: int
    sample_length: int

    @property
    def num_samples(self) -> int:
        return self.num_tokens // self.sample_length


def make_corpus(
    root: str,
    num_tokens: int,
    sample_length: int,
    *,
    mix: str = "mixed",
    shard_tokens: int = 8_000_000,
    chunk_tokens: int = 262_144,
    shuffle_tokens: int = 32_000_000,
    packing: str = "sequential",
) -> Corpus:
    """Write ROOT/corpus and ROOT/plan: one epoch, shuffled. `num_tokens` must be a multiple of `sample_length`."""
    corpus = Corpus(storage.join(root, "corpus"), storage.join(root, "plan"), num_tokens, sample_length)
    lengths = document_lengths(mix, num_tokens)
    manifest = _write(corpus.uri, mix, lengths, shard_tokens, chunk_tokens)
    table = corpus_table(corpus.uri, manifest)
    settings = replace(plan_settings(mix, corpus.num_samples, sample_length, packing), shuffle_tokens=shuffle_tokens)
    parts = plan_parts(table, settings)
    metadata = {"manifest": manifest.fingerprint, "recipe": "benchmark"}
    write_plan(corpus.plan_uri, parts, table.source_names, sample_length, corpus.num_samples, metadata)
    return corpus


def plan_settings(source: str, num_samples: int, sample_length: int, packing: str) -> PlanSettings:
    return PlanSettings(
        mix=(MixPoint(0, {source: 1.0}),),
        steps=num_samples,
        global_batch_size=1,
        sample_length=sample_length,
        trained_length=sample_length,
        packing="best_fit" if packing == "best_fit" else "sequential",
        shuffle=True,
        shuffle_tokens=32_000_000,
        upsample={},
        max_epochs={},
        on_limit="refuse",
        seed=0,
    )


def _documents(lengths: NDArray[np.int32]) -> Iterator[Document]:
    rng = np.random.default_rng(0)
    for length in lengths.tolist():
        tokens = rng.integers(0, VOCAB, length, dtype=np.uint32)
        tokens[::SENTENCE_TOKENS] = 0  # an id that ends a sentence
        yield Document(tokens)


def _write(uri: str, source: str, lengths: NDArray[np.int32], shard_tokens: int, chunk_tokens: int) -> Manifest:
    shards = list(write_shards(uri, source, source, _documents(lengths), shard_tokens, chunk_tokens))
    files = [(shard.info.file, shard.info.source) for shard in shards]
    counts = np.zeros(VOCAB, np.int64)
    counts[0] = int(lengths.sum())
    tables = {
        INDEX_FILE: (index_bytes(files, [shard.length for shard in shards]), int(lengths.size)),
        CHUNKS_FILE: (
            chunks_bytes([(shard.info.file, shard.chunks) for shard in shards]),
            sum(shard.chunks.tokens.size for shard in shards),
        ),
        TOKEN_COUNTS_FILE: (token_counts_bytes({source: counts}), 1),
    }
    infos = {}
    for file, (data, rows) in tables.items():
        storage.write_bytes(storage.join(uri, file), data)
        infos[file] = FileInfo(file=file, rows=rows, bytes=len(data), digest=storage.digest_bytes(data))
    documents, tokens = int(lengths.size), int(lengths.sum())
    manifest = Manifest(
        version=VERSION,
        corpus="benchmark",
        tokenizer=TokenizerInfo(directory="tokenizer", vocab_size=VOCAB, files={}),
        sentence_end_ids=_ENDS,
        sources={source: SourceInfo(documents, tokens, 0, {1: documents}, {1: tokens})},
        shards=tuple(shard.info for shard in shards),
        index=infos[INDEX_FILE],
        chunks=infos[CHUNKS_FILE],
        token_counts=infos[TOKEN_COUNTS_FILE],
    )
    storage.write_bytes(storage.join(uri, MANIFEST_FILE), manifest_bytes(manifest))
    return load_manifest(uri)
