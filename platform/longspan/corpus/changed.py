"""Is the corpus the one that was prepared, and the one that a plan was made for? If not, what is the first difference.

`launch/` asks before any GPU time is spent; feed workers ask when they open a run.
"""

from collections.abc import Iterator

from longspan import storage
from longspan.corpus.manifest import MANIFEST_FILE, Manifest, ShardInfo, load_manifest, manifest_bytes
from longspan.errors import DataError

_SHARDS = "shards/"
_MEND = "restore it or prepare the corpus again"


def check_corpus(uri: str, manifest: Manifest) -> None:
    """Compare the files at `uri` with the manifest: names and sizes by one listing, the tokenizer's files by digest.

    A file that was replaced by another of the same size is found by the digests of its chunks when it is read.

    Raises:
        DataError: a file is missing or of another size, or a shard is there that the manifest does not name.
        StorageError: the store could not be read.
    """
    sizes = storage.list_sizes(uri)
    for name, num_bytes in _files(manifest):
        where = storage.join(uri, name)
        if name not in sizes:
            raise DataError(f"{where}: named in the manifest, but missing; {_MEND}")
        if sizes[name] != num_bytes:
            raise DataError(f"{where}: {sizes[name]} bytes, but the manifest has {num_bytes}; {_MEND}")
    known = {shard.file for shard in manifest.shards}
    for name in sizes:
        if name.startswith(_SHARDS) and name.endswith(".parquet") and name not in known:
            raise DataError(f"{storage.join(uri, name)}: not in the manifest; remove it or prepare the corpus again")
    for file, digest in manifest.tokenizer.files.items():
        name = f"{manifest.tokenizer.directory}/{file}"
        where = storage.join(uri, name)
        if name not in sizes:
            raise DataError(f"{where}: named in the manifest, but missing; {_MEND}")
        found = storage.digest_bytes(storage.read_bytes(where))
        if found != digest:
            raise DataError(f"{where}: its digest is {found}, but the manifest has {digest}; {_MEND}")


def describe_change(old: Manifest, new: Manifest) -> str:
    """The first difference between two manifests, in words; "" if there is none that matters."""
    return next(_changes(old, new), "")


def store_planned_manifest(plan_uri: str, manifest: Manifest) -> None:
    """Keep a copy of the manifest that a plan is made for, in the plan's folder."""
    storage.write_bytes(storage.join(plan_uri, MANIFEST_FILE), manifest_bytes(manifest))


def expect_manifest(uri: str, manifest: Manifest, fingerprint: str, plan_uri: str) -> None:
    """Refuse a corpus that is not the one that the plan was made for.

    Args:
        uri: folder of the corpus, for the message.
        manifest: of the corpus as it is now.
        fingerprint: of the manifest that the plan was made for (its metadata).
        plan_uri: folder of the plan, with the copy by `store_planned_manifest`.

    Raises:
        DataError: another corpus; says what changed, by the name of the shard.
    """
    if manifest.fingerprint == fingerprint:
        return
    try:
        change = describe_change(load_manifest(plan_uri), manifest)
    except DataError:
        change = f"what changed is not known, as the copy of its manifest at {plan_uri} cannot be read"
    raise DataError(
        f"{uri}: the corpus has changed since {plan_uri} was made ({change}); restore the corpus, or give the run"
        " another output"
    )


def _files(manifest: Manifest) -> Iterator[tuple[str, int]]:
    for shard in manifest.shards:
        yield shard.file, shard.bytes
    for table in (manifest.index, manifest.chunks, manifest.token_counts):
        yield table.file, table.bytes


def _changes(old: Manifest, new: Manifest) -> Iterator[str]:
    if old.version != new.version:
        yield f"the layout is of version {new.version}, was {old.version}"
    yield from _tokenizer_changes(old, new)
    before = {shard.file: shard for shard in old.shards}
    after = {shard.file: shard for shard in new.shards}
    for file in before:
        if file not in after:
            yield f"{file} was removed"
    for file in after:
        if file not in before:
            yield f"{file} was added"
    for file, shard in before.items():
        if file in after and shard != after[file]:
            yield f"{file} {_shard_change(shard, after[file])}"
    for first, second in zip(before, after, strict=False):
        if first != second:
            yield f"the shards have another order: {second} stands where {first} was"
    for table, other in ((old.index, new.index), (old.chunks, new.chunks), (old.token_counts, new.token_counts)):
        if table != other:
            yield f"{other.file} was replaced"
    if old.corpus != new.corpus:
        yield "it was prepared from another configuration"
    if old != new:
        yield "its sources or sentence ends are counted in another way"


def _tokenizer_changes(old: Manifest, new: Manifest) -> Iterator[str]:
    names = sorted(old.tokenizer.files.keys() | new.tokenizer.files.keys())
    for name in names:
        if old.tokenizer.files.get(name) != new.tokenizer.files.get(name):
            yield f"another tokenizer: {new.tokenizer.directory}/{name} differs"
    if old.tokenizer != new.tokenizer:
        yield f"another tokenizer: {new.tokenizer.vocab_size} tokens, was {old.tokenizer.vocab_size}"


def _shard_change(old: ShardInfo, new: ShardInfo) -> str:
    if old.source != new.source:
        return f"is of source {new.source}, was of {old.source}"
    if old.documents != new.documents:
        return f"has {new.documents} rows, had {old.documents}"
    if old.tokens != new.tokens:
        return f"has {new.tokens} tokens, had {old.tokens}"
    return f"was replaced: digest {new.digest}, was {old.digest}"
