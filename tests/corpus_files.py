"""A corpus written from arrays, without text and tokenizer training: for tests of what reads one.

The files are those of `prepare`, by the same functions; only the tokenizer's are not a tokenizer.
"""

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from longspan import storage
from longspan.corpus.chunks import chunks_bytes
from longspan.corpus.index import index_bytes
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
    manifest_bytes,
)
from longspan.corpus.writer import Document, WrittenShard, write_shards

VOCAB = 1000


def random_documents(
    seed: int, lengths: Sequence[int] | NDArray[np.integer], vocab_size: int = VOCAB, weighted: bool = False
) -> list[Document]:
    """Documents of these lengths; with weights among which are zeros, or without."""
    rng = np.random.default_rng(seed)
    documents = []
    for length in lengths:
        tokens = rng.integers(0, vocab_size, length, dtype=np.uint32)
        weight = rng.choice(np.array([0, 0.5, 1, 3], np.float32), length) if weighted else None
        documents.append(Document(tokens, weight))
    return documents


def write_corpus(
    uri: str,
    sources: Mapping[str, Sequence[Document]],
    *,
    shard_tokens: int = 4000,
    chunk_tokens: int = 500,
    vocab_size: int = VOCAB,
) -> Manifest:
    """Write a finished corpus to the folder or prefix `uri`; returns its manifest."""
    shards: list[WrittenShard] = []
    for name, documents in sources.items():
        shards += write_shards(uri, name, name, documents, shard_tokens, chunk_tokens)
    tokenizer = b'{"a": "tokenizer"}'
    storage.write_bytes(storage.join(uri, "tokenizer", "tokenizer.json"), tokenizer)
    index = index_bytes([(s.info.file, s.info.source) for s in shards], [s.length for s in shards])
    chunks = chunks_bytes([(s.info.file, s.chunks) for s in shards])
    manifest = Manifest(
        version=VERSION,
        corpus="0" * 32,
        tokenizer=TokenizerInfo("tokenizer", vocab_size, {"tokenizer.json": storage.digest_bytes(tokenizer)}),
        sentence_end_ids=tuple(range(0, vocab_size, 20)),
        sources={name: _counts(documents) for name, documents in sources.items()},
        shards=tuple(shard.info for shard in shards),
        index=_table(uri, INDEX_FILE, index, sum(s.length.size for s in shards)),
        chunks=_table(uri, CHUNKS_FILE, chunks, sum(s.chunks.tokens.size for s in shards)),
        token_counts=_table(uri, TOKEN_COUNTS_FILE, b"counts", 1),
    )
    storage.write_bytes(storage.join(uri, MANIFEST_FILE), manifest_bytes(manifest))
    return manifest


def _counts(documents: Sequence[Document]) -> SourceInfo:
    lengths = [document.tokens.size for document in documents]
    buckets = [1 << (length.bit_length() - 1) for length in lengths]
    by_count = {bucket: buckets.count(bucket) for bucket in sorted(set(buckets))}
    pairs = list(zip(buckets, lengths, strict=True))
    by_tokens = {bucket: sum(n for b, n in pairs if b == bucket) for bucket in sorted(set(buckets))}
    return SourceInfo(len(lengths), sum(lengths), 0, by_count, by_tokens)


def _table(uri: str, file: str, data: bytes, rows: int) -> FileInfo:
    storage.write_bytes(storage.join(uri, file), data)
    return FileInfo(file, rows, len(data), storage.digest_bytes(data))
