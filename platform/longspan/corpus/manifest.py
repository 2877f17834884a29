"""What a prepared corpus holds: the manifest, which `prepare` writes last.

Everything that reads a corpus starts here. Nothing in it is believed: names must stay inside the directory, counts must
add up, and every file that it lists is compared with its digest when it is read.
"""

import dataclasses
import hashlib
import json
from dataclasses import dataclass, field
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray
from pydantic import ConfigDict, NonNegativeInt, PositiveInt

from longspan import storage
from longspan.corpus.manifest_file import check_names, read_manifest
from longspan.errors import ConfigError, DataError

MANIFEST_FILE = "manifest.json"
INDEX_FILE = "documents.parquet"
CHUNKS_FILE = "chunks.parquet"
TOKEN_COUNTS_FILE = "token_counts.parquet"  # noqa: S105 - tokens of text
VERSION = 2
_STRICT = ConfigDict(extra="forbid")


@dataclass(frozen=True)
class TokenizerInfo:
    """The tokenizer stored with the corpus, in Hugging Face's layout.

    Attributes:
        directory: its folder in the corpus.
        vocab_size: number of ids, added tokens included; every token of the shards is below it.
        files: digest of each file by name.
        needle_first_id: id of the first needle token (`synthesis.needles.NeedleVocabulary`), None if it has none.
    """

    __pydantic_config__: ClassVar[ConfigDict] = _STRICT
    directory: str
    vocab_size: PositiveInt
    files: dict[str, str]
    needle_first_id: int | None = None

    @property
    def fingerprint(self) -> str:
        """Hash of the files: equal for equal tokenizers."""
        return _hash(sorted(self.files.items()))


@dataclass(frozen=True)
class SourceInfo:
    """Counts of one source. Keys of histograms are powers of two: bucket b is of documents of b to 2b - 1 tokens."""

    __pydantic_config__: ClassVar[ConfigDict] = _STRICT
    documents: PositiveInt
    tokens: PositiveInt
    skipped: NonNegativeInt
    """Rows left out."""
    length_histogram: dict[int, int]
    """Documents by bucket."""
    token_histogram: dict[int, int]
    """Tokens by bucket of their document's length."""
    left_out: dict[str, NonNegativeInt] = field(default_factory=dict)
    """The rows left out by kind (`bad_rows`); {} where there are none, and in corpora that count them together only."""


@dataclass(frozen=True)
class ShardInfo:
    """One Parquet file. Its tokens lie uncompressed and end to end, so that any range of them is one byte range.

    Attributes:
        file: name in the corpus.
        source: name of the source that all of it comes from.
        documents, tokens: counts.
        bytes, digest: of the whole file (xxh3-128).
        tokens_at: byte at which its first token begins (uint32, little-endian).
        weights_at: likewise of the tokens' weights as targets (float32); None where every target weighs 1.
    """

    __pydantic_config__: ClassVar[ConfigDict] = _STRICT
    file: str
    source: str
    documents: PositiveInt
    tokens: PositiveInt
    bytes: PositiveInt
    digest: str
    tokens_at: NonNegativeInt
    weights_at: NonNegativeInt | None = None


@dataclass(frozen=True)
class FileInfo:
    """A table of the corpus: its file, number of rows, and size and digest (xxh3-128) of the file."""

    __pydantic_config__: ClassVar[ConfigDict] = _STRICT
    file: str
    rows: PositiveInt
    bytes: PositiveInt
    digest: str


@dataclass(frozen=True)
class Manifest:
    """A finished corpus.

    Attributes:
        version: layout of the corpus; this code reads and writes `VERSION`.
        corpus: fingerprint of the configuration it was prepared from.
        tokenizer: see TokenizerInfo.
        sentence_end_ids: token ids whose text ends a sentence or line, rising.
        sources: by name, in the order in which documents are numbered.
        shards: in the order in which documents are numbered.
        index: one row a document, in that order (`index`).
        chunks: one row a chunk, the unit in which shards are read (`chunks`).
        token_counts: how often each token occurs in each source.
    """

    __pydantic_config__: ClassVar[ConfigDict] = _STRICT
    version: int
    corpus: str
    tokenizer: TokenizerInfo
    sentence_end_ids: tuple[int, ...]
    sources: dict[str, SourceInfo]
    shards: tuple[ShardInfo, ...]
    index: FileInfo
    chunks: FileInfo
    token_counts: FileInfo

    @property
    def fingerprint(self) -> str:
        """Hash of the whole manifest, and through its digests of every token: another one is other data."""
        return _hash(_values(self))

    @property
    def source_names(self) -> list[str]:
        return list(self.sources)

    def ends_sentence(self) -> NDArray[np.bool_]:
        """bool [vocab_size], True where the token's text ends a sentence (for `positions.segment_starts`)."""
        ends = np.zeros(self.tokenizer.vocab_size, dtype=np.bool_)
        ends[list(self.sentence_end_ids)] = True
        return ends


def manifest_bytes(manifest: Manifest) -> bytes:
    """The manifest as the bytes of its file: JSON with sorted scalars on lines of their own, the same every time."""
    return (json.dumps(_values(manifest), indent=1, ensure_ascii=True) + "\n").encode()


def load_manifest(uri: str) -> Manifest:
    """The manifest of the corpus at `uri` (local or s3://).

    Raises:
        DataError: there is none, or it is damaged, of another version, or does not add up.
        StorageError: the store could not be read.
    """
    where = storage.join(uri, MANIFEST_FILE)
    absent = "no finished corpus here; run `longspan prepare` first"
    manifest = read_manifest(Manifest, where, VERSION, absent=absent, again="prepare the corpus again")
    _check_sums(manifest, where)
    return manifest


def named_manifest(uri: str, field: str) -> Manifest:
    """`load_manifest` of the corpus that the user named in `field`.

    Raises:
        ConfigError: there is none; names the field.
        DataError, StorageError: as `load_manifest`.
    """
    if not storage.exists(storage.join(uri, MANIFEST_FILE)):
        raise ConfigError(
            f"{field}: no finished corpus at '{uri}'; give the directory that `longspan prepare` wrote, or run it first"
        )
    return load_manifest(uri)


def read_verified(where: str, num_bytes: int, digest: str, refetches: int = 3) -> bytes:
    """The file at `where` if it has this size and digest; a wrong answer is fetched again `refetches` times.

    Raises:
        DataError: the file is missing, or stays different; with the expected and the found size and digest.
        StorageError: the store could not be read.
    """
    for _ in range(1 + refetches):
        try:
            data = storage.read_bytes(where)
        except storage.NotFoundError:
            raise DataError(f"{where}: named in the manifest, but missing; prepare the corpus again") from None
        found = storage.digest_bytes(data)
        if len(data) == num_bytes and found == digest:
            return data
    raise DataError(
        f"{where}: not the file that was prepared: expected {num_bytes} bytes, {digest}, found {len(data)} bytes,"
        f" {found} (fetched {1 + refetches} times); restore it or prepare the corpus again"
    )


def _check_sums(manifest: Manifest, where: str) -> None:
    files = [shard.file for shard in manifest.shards]
    tables = [table.file for table in (manifest.index, manifest.chunks, manifest.token_counts)]
    check_names(where, [*tables, manifest.tokenizer.directory, *manifest.tokenizer.files, *files])
    if len(set(files)) != len(files):
        raise DataError(f"{where}: shards: a file is named twice")
    order = [shard.source for shard in manifest.shards]
    if list(dict.fromkeys(order)) != list(manifest.sources) or sorted(order, key=list(manifest.sources).index) != order:
        raise DataError(f"{where}: shards do not follow the order of sources {list(manifest.sources)}")
    for name, source in manifest.sources.items():
        own = [shard for shard in manifest.shards if shard.source == name]
        counts = (sum(shard.documents for shard in own), sum(shard.tokens for shard in own))
        if counts != (source.documents, source.tokens):
            raise DataError(
                f"{where}: sources.{name}: {source.documents} documents and {source.tokens} tokens, but its shards"
                f" add up to {counts[0]} and {counts[1]}"
            )
        for histogram, count, unit in (
            (source.length_histogram, source.documents, "documents"),
            (source.token_histogram, source.tokens, "tokens"),
        ):
            if sum(histogram.values()) != count:
                raise DataError(f"{where}: sources.{name}: the histogram of its {unit} does not add up to {count}")
        if source.left_out and sum(source.left_out.values()) != source.skipped:
            raise DataError(f"{where}: sources.{name}: left_out does not add up to skipped {source.skipped}")
    if manifest.index.rows != sum(source.documents for source in manifest.sources.values()):
        raise DataError(f"{where}: index.rows {manifest.index.rows} is not the sum of the sources' documents")
    for shard in manifest.shards:
        for begin in (shard.tokens_at, shard.weights_at):
            if begin is not None and begin + 4 * shard.tokens > shard.bytes:
                raise DataError(
                    f"{where}: {shard.file}: {shard.tokens} tokens from byte {begin} on do not fit in its {shard.bytes}"
                    " bytes"
                )
    ids = manifest.sentence_end_ids
    if ids and not 0 <= min(ids) <= max(ids) < manifest.tokenizer.vocab_size:
        raise DataError(f"{where}: sentence_end_ids: outside the vocabulary of {manifest.tokenizer.vocab_size}")


def _values(manifest: Manifest) -> dict[str, Any]:
    """As JSON has it. What older manifests lack is left out where it says nothing: their fingerprints stay."""
    values = dataclasses.asdict(manifest)
    for source in values["sources"].values():
        if not source["left_out"]:
            del source["left_out"]
    return values


def _hash(value: Any) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()[:32]
