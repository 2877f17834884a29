"""The end of a preparation: the records of all units, in order, become the corpus's tables and its manifest.

`prepare` calls it when every unit is done. The manifest is written last, so a directory without one is never taken for
a corpus; then the records go.
"""

import math
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from longspan import storage
from longspan.config.corpus import ChatSource, FileSection
from longspan.corpus.bad_rows import LimitWatch, Tally, added, limit_error
from longspan.corpus.chunks import chunks_bytes
from longspan.corpus.documents import NEEDLE_TEXT_TOKENS, Job
from longspan.corpus.index import index_bytes
from longspan.corpus.manifest import (
    CHUNKS_FILE,
    INDEX_FILE,
    MANIFEST_FILE,
    TOKEN_COUNTS_FILE,
    VERSION,
    FileInfo,
    Manifest,
    ShardInfo,
    SourceInfo,
    manifest_bytes,
)
from longspan.corpus.records import UNITS_FOLDER, UnitRecord, read_record
from longspan.corpus.units import Unit
from longspan.corpus.work import unit_record_name
from longspan.corpus.writer import WrittenShard
from longspan.errors import DataError

SHARDS_FOLDER = "shards"
_RECORDS_AHEAD = 32


class _Source(NamedTuple):
    """One source as written; `token_counts` int64 [vocab_size] is how often each token occurs."""

    info: SourceInfo
    shards: list[WrittenShard]
    token_counts: NDArray[np.int64]


def combine(
    job: Job, units: dict[str, list[Unit]], sentence_end_ids: tuple[int, ...], say: Callable[[str], None]
) -> Manifest:
    """Write tables and manifest of the finished units, and remove their records.

    Args:
        units: of each source by name, in the order of the configuration.

    Raises:
        DataError: a source without a usable document; a record or a shard that is missing or damaged.
        StorageError: a file could not be read or written.
    """
    output = job.corpus.output
    sources: dict[str, _Source] = {}
    for name, own in units.items():
        sources[name] = _source(job, name, own, say)
        info, shards, _ = sources[name]
        say(f"{name}: {info.documents:,} documents, {info.tokens:,} tokens, {len(shards):,} shards")
    shards = [shard for source in sources.values() for shard in source.shards]
    _clear_shards(job, units, shards)

    index = index_bytes([(shard.info.file, shard.info.source) for shard in shards], [shard.length for shard in shards])
    chunks = chunks_bytes([(shard.info.file, shard.chunks) for shard in shards])
    counts = token_counts_bytes({name: source.token_counts for name, source in sources.items()})
    manifest = Manifest(
        version=VERSION,
        corpus=job.fingerprint,
        tokenizer=job.tokenizer,
        sentence_end_ids=sentence_end_ids,
        sources={name: source.info for name, source in sources.items()},
        shards=tuple(shard.info for shard in shards),
        index=_write(output, INDEX_FILE, index, sum(shard.info.documents for shard in shards)),
        chunks=_write(output, CHUNKS_FILE, chunks, sum(shard.chunks.tokens.size for shard in shards)),
        token_counts=_write(
            output,
            TOKEN_COUNTS_FILE,
            counts,
            sum(int(np.count_nonzero(source.token_counts)) for source in sources.values()),
        ),
    )
    storage.write_bytes(storage.join(output, MANIFEST_FILE), manifest_bytes(manifest))
    storage.delete_tree(storage.join(output, UNITS_FOLDER))
    return manifest


def pool_shards(job: Job, units: Sequence[Unit]) -> tuple[ShardInfo, ...]:
    """The shards that NEEDLE_TEXT_TOKENS tokens of a finished text source lie in. Raises as `text_shards`."""
    return tuple(shard.info for shard in text_shards(job, units, NEEDLE_TEXT_TOKENS))


def text_shards(job: Job, units: Sequence[Unit], num_tokens: int | None = None) -> list[WrittenShard]:
    """The shards of a finished text source in order: all, or the first that hold `num_tokens` tokens of text.

    Raises:
        DataError: the source has no usable document; a record is damaged.
    """
    shards: list[WrittenShard] = []
    room = math.inf if num_tokens is None else num_tokens
    left_out: Counter[str] = Counter()
    for record in records_of(job, units):
        left_out.update(record.tally.left_out)
        for shard in record.shards:
            if room > 0:
                shards.append(shard)
                room -= shard.info.tokens - 2 * shard.info.documents  # bos and eos are no text
        if room <= 0:
            break
    if not shards:
        raise _no_documents(job, units[0].source, left_out)
    return shards


def token_counts_bytes(counts: dict[str, NDArray[np.int64]]) -> bytes:
    """The file of token counts: a row for each token that occurs in a source, by source and then by token.

    Args:
        counts: int64 [vocab_size] of each source, by its name.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    tokens = [np.flatnonzero(count) for count in counts.values()]
    number = np.repeat(np.arange(len(tokens), dtype=np.int32), [token.size for token in tokens])
    table = pa.table(
        {
            "source": pa.DictionaryArray.from_arrays(number, pa.array(list(counts))).cast(pa.string()),
            "token": np.concatenate(tokens).astype(np.uint32),
            "count": np.concatenate([count[token] for count, token in zip(counts.values(), tokens, strict=True)]),
        }
    )
    sink = pa.BufferOutputStream()
    pq.write_table(table, sink, compression="zstd", use_dictionary=["source"])
    return bytes(sink.getvalue())


def check_bad_rows(job: Job, name: str, tallies: Sequence[Tally]) -> None:
    """Raises DataError where the first units of a file source have more bad rows than it allows.

    Args:
        tallies: of its first units in order, or of all.
    """
    source = next(source for source in job.corpus.sources if source.name == name)
    if not isinstance(source, FileSection):
        return
    names = [str(number) for number in range(len(tallies))]
    watch = LimitWatch(source, names)
    for name, tally in zip(names, tallies, strict=True):
        if num_units := watch.add(name, tally.rows, tally.bad):
            raise limit_error(source, tallies[:num_units])


def _source(job: Job, name: str, units: Sequence[Unit], say: Callable[[str], None]) -> _Source:
    shards: list[WrittenShard] = []
    token_counts = np.zeros(job.tokenizer.vocab_size, np.int64)
    tallies: list[Tally] = []
    for record in records_of(job, units):
        shards.extend(record.shards)
        token_counts[record.token_ids] += record.token_counts
        tallies.append(record.tally)
    check_bad_rows(job, name, tallies)
    tally = added(tallies)
    if not shards:
        raise _no_documents(job, name, tally.left_out)
    if tally.bad:
        say(f"{name}: {tally.bad:,} of {tally.rows:,} rows are bad and left out. First: {'; '.join(tally.first)}")
    return _Source(_info(np.concatenate([shard.length for shard in shards]), tally.left_out), shards, token_counts)


def _info(length: NDArray[np.int32], left_out: dict[str, int]) -> SourceInfo:
    buckets, place = np.unique(1 << np.floor(np.log2(length)).astype(np.int64), return_inverse=True)
    tokens = np.bincount(place, weights=length).astype(np.int64)  # exact: float64 counts to 2**53
    return SourceInfo(
        documents=length.size,
        tokens=int(tokens.sum()),
        skipped=sum(left_out.values()),
        left_out=dict(sorted(left_out.items())),
        length_histogram=dict(zip(buckets.tolist(), np.bincount(place).tolist(), strict=True)),
        token_histogram=dict(zip(buckets.tolist(), tokens.tolist(), strict=True)),
    )


def records_of(job: Job, units: Sequence[Unit]) -> Iterator[UnitRecord]:
    """The records of the units in order, fetched several at a time."""
    with ThreadPoolExecutor(_RECORDS_AHEAD) as pool:
        for begin in range(0, len(units), _RECORDS_AHEAD):
            names = [unit_record_name(job, unit) for unit in units[begin : begin + _RECORDS_AHEAD]]
            yield from pool.map(partial(read_record, job.corpus.output), names)


def _no_documents(job: Job, name: str, left_out: Mapping[str, int]) -> DataError:
    least, skipped = job.corpus.min_document_tokens, sum(left_out.values())
    source = next(source for source in job.corpus.sources if source.name == name)
    if isinstance(source, ChatSource):
        room = "" if source.max_tokens is None else f" that fits max_tokens {source.max_tokens}"
        return DataError(
            f"source {name}: none of its {skipped} conversations has an answer of the assistant{room}; check its paths"
            " and the names of its fields and roles"
        )
    return DataError(
        f"source {name}: none of its {skipped} documents has min_document_tokens {least} tokens; check its paths, or"
        " lower min_document_tokens"
    )


def _clear_shards(job: Job, units: dict[str, list[Unit]], shards: Sequence[WrittenShard]) -> None:
    """Every shard is there, and no other: an interrupted run over other files may have left some."""
    folder = storage.join(job.corpus.output, SHARDS_FOLDER)
    found = storage.list_sizes(folder)
    for shard in shards:
        name = shard.info.file.removeprefix(f"{SHARDS_FOLDER}/")
        if found.pop(name, None) != shard.info.bytes:
            unit = next(u for own in units.values() for u in own if name.rpartition("-")[0] == u.name)
            storage.delete(storage.join(job.corpus.output, unit_record_name(job, unit)))
            raise DataError(
                f"{storage.join(folder, name)}: missing, or not of the size that was written; run the same command"
                " again, which makes it anew"
            )
    for name in found:
        storage.delete(storage.join(folder, name))


def _write(output: str, file: str, data: bytes, rows: int) -> FileInfo:
    storage.write_bytes(storage.join(output, file), data)
    return FileInfo(file=file, rows=rows, bytes=len(data), digest=storage.digest_bytes(data))
