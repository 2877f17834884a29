"""A corpus that is not the one the plan was made for is refused, and the message names what changed."""

import dataclasses
from collections.abc import Callable
from pathlib import Path

import pytest

from longspan import storage
from longspan.corpus.changed import check_corpus, describe_change, expect_manifest, store_planned_manifest
from longspan.corpus.manifest import Manifest, ShardInfo, load_manifest, manifest_bytes
from longspan.corpus.reader import TokenReader
from longspan.errors import DataError
from tests.corpus_files import random_documents, write_corpus
from tests.s3 import FaultProxy

LENGTHS = [300, 900, 40, 700, 1200, 800, 350, 1500]


def write(uri: str, seed: int = 0, lengths: list[int] = LENGTHS, weighted: bool = False) -> Manifest:
    return write_corpus(uri, {"text": random_documents(seed, lengths, weighted=weighted)}, shard_tokens=2000)


@pytest.fixture
def uri(tmp_path: Path) -> str:
    write(str(tmp_path / "corpus"))
    return str(tmp_path / "corpus")


def rewritten(uri: str, change: Callable[[Manifest], Manifest]) -> None:
    """As if the corpus had been prepared anew, so that manifest and files agree."""
    Path(uri, "manifest.json").write_bytes(manifest_bytes(change(load_manifest(uri))))


def with_shards(manifest: Manifest, *shards: ShardInfo) -> Manifest:
    """The manifest of these shards, with counts that add up."""
    documents = sum(shard.documents for shard in shards)
    tokens = sum(shard.tokens for shard in shards)
    source = dataclasses.replace(
        manifest.sources["text"],
        documents=documents,
        tokens=tokens,
        length_histogram={1: documents},
        token_histogram={1: tokens},
    )
    index = dataclasses.replace(manifest.index, rows=documents)
    return dataclasses.replace(manifest, shards=shards, sources={"text": source}, index=index)


def one_row_more(manifest: Manifest) -> Manifest:
    last = manifest.shards[-1]
    return with_shards(manifest, *manifest.shards[:-1], dataclasses.replace(last, documents=last.documents + 1))


def one_shard_more(manifest: Manifest) -> Manifest:
    return with_shards(manifest, *manifest.shards, dataclasses.replace(manifest.shards[-1], file="shards/new.parquet"))


def other_tokenizer(manifest: Manifest) -> Manifest:
    files = {"tokenizer.json": storage.digest_bytes(b"other")}
    return dataclasses.replace(manifest, tokenizer=dataclasses.replace(manifest.tokenizer, files=files))


def replaced(manifest: Manifest) -> Manifest:
    shard = dataclasses.replace(manifest.shards[1], digest="xxh3-128:" + "0" * 32)
    return with_shards(manifest, manifest.shards[0], shard, *manifest.shards[2:])


REWRITTEN: dict[str, tuple[Callable[[Manifest], Manifest], str]] = {
    "replaced": (replaced, r"shards/text-00001\.parquet was replaced: digest xxh3-128:0+, was xxh3-128:"),
    "removed": (lambda m: with_shards(m, *m.shards[:-1]), r"shards/text-00002\.parquet was removed"),
    "added": (one_shard_more, r"shards/new\.parquet was added"),
    "reordered": (
        lambda m: with_shards(m, m.shards[1], m.shards[0], *m.shards[2:]),
        r"the shards have another order: shards/text-00001\.parquet stands where shards/text-00000\.parquet was",
    ),
    "tokenizer": (other_tokenizer, r"another tokenizer: tokenizer/tokenizer\.json differs"),
    "rows": (one_row_more, r"shards/text-00002\.parquet has 3 rows, had 2"),
    "counts": (lambda m: dataclasses.replace(m, sentence_end_ids=(1,)), "sentence ends"),
    "configuration": (lambda m: dataclasses.replace(m, corpus="1" * 32), "prepared from another configuration"),
}


@pytest.mark.parametrize("kind", list(REWRITTEN))
def test_a_rewritten_manifest_is_refused_by_what_changed(uri: str, tmp_path: Path, kind: str) -> None:
    change, message = REWRITTEN[kind]
    plan = str(tmp_path / "plan")
    old = load_manifest(uri)
    store_planned_manifest(plan, old)
    expect_manifest(uri, load_manifest(uri), old.fingerprint, plan)
    rewritten(uri, change)
    with pytest.raises(DataError, match=rf"corpus: the corpus has changed since .*plan was made \(.*{message}"):
        expect_manifest(uri, load_manifest(uri), old.fingerprint, plan)


def test_shards_of_another_type_or_layout_are_refused(uri: str, tmp_path: Path) -> None:
    """Another token type is another version of the layout, or another byte at which the values begin."""
    old = load_manifest(uri)
    narrow = dataclasses.replace(old.shards[0], bytes=old.shards[0].bytes // 2, digest="xxh3-128:" + "0" * 32)
    rewritten(uri, lambda manifest: with_shards(manifest, narrow, *manifest.shards[1:]))
    with pytest.raises(DataError, match=r"shards/text-00000\.parquet: 1940 tokens from byte .* do not fit in its"):
        load_manifest(uri)
    rewritten_text = manifest_bytes(old).replace(b'"version": 2', b'"version": 1')
    Path(uri, "manifest.json").write_bytes(rewritten_text)
    with pytest.raises(DataError, match=r"manifest\.json: version 1; this longspan reads version 2"):
        load_manifest(uri)
    write(uri, weighted=True)
    assert describe_change(old, load_manifest(uri)).startswith("shards/text-00000.parquet was replaced")


def test_the_first_change_is_described_and_none_is_none(uri: str) -> None:
    old = load_manifest(uri)
    assert describe_change(old, old) == ""
    both = other_tokenizer(replaced(old))
    assert describe_change(old, both).startswith("another tokenizer")
    assert describe_change(both, old).startswith("another tokenizer")


def test_without_the_copy_a_change_is_still_refused(uri: str, tmp_path: Path) -> None:
    with pytest.raises(
        DataError, match=r"the corpus has changed since .*\(what changed is not known, as the copy of its manifest"
    ):
        expect_manifest(uri, load_manifest(uri), "0" * 32, str(tmp_path / "plan"))


def shard(uri: str, number: int) -> Path:
    return Path(uri, f"shards/text-{number:05d}.parquet")


def swap(one: Path, two: Path) -> None:
    data = one.read_bytes()
    one.write_bytes(two.read_bytes())
    two.write_bytes(data)


def other_type(uri: str) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    table = pq.read_table(shard(uri, 1))
    narrow = table["tokens"].cast(pa.list_(pa.uint16()))
    pq.write_table(table.set_column(table.column_names.index("tokens"), "tokens", narrow), shard(uri, 1))


def one_row_less(uri: str) -> None:
    import pyarrow.parquet as pq

    pq.write_table(pq.read_table(shard(uri, 1)).slice(1), shard(uri, 1))


ONLY_FILES: dict[str, tuple[Callable[[str], object], str]] = {
    "replaced": (lambda uri: shard(uri, 1).write_bytes(b"other"), r"text-00001\.parquet: 5 bytes, but the manifest"),
    "removed": (lambda uri: shard(uri, 2).unlink(), r"text-00002\.parquet: named in the manifest, but missing"),
    "added": (
        lambda uri: shard(uri, 9).write_bytes(shard(uri, 1).read_bytes()),
        r"text-00009\.parquet: not in the manifest; remove it",
    ),
    "reordered": (lambda uri: swap(shard(uri, 0), shard(uri, 1)), r"text-00000\.parquet: \d+ bytes, but the manifest"),
    "type": (other_type, r"text-00001\.parquet: \d+ bytes, but the manifest has \d+"),
    "tokenizer": (
        lambda uri: Path(uri, "tokenizer/tokenizer.json").write_bytes(b'{"b": "tokenizer"}'),
        r"tokenizer/tokenizer\.json: its digest is .*, but the manifest has",
    ),
    "tokenizer gone": (
        lambda uri: Path(uri, "tokenizer/tokenizer.json").unlink(),
        r"tokenizer/tokenizer\.json: named in the manifest, but missing",
    ),
    "rows": (one_row_less, r"text-00001\.parquet: \d+ bytes, but the manifest"),
    "index": (lambda uri: Path(uri, "documents.parquet").unlink(), r"documents\.parquet: named in the manifest"),
    "chunks": (lambda uri: Path(uri, "chunks.parquet").write_bytes(b""), r"chunks\.parquet: 0 bytes, but"),
}


@pytest.mark.parametrize("kind", list(ONLY_FILES))
def test_files_that_changed_under_the_manifest_are_refused(uri: str, kind: str) -> None:
    change, message = ONLY_FILES[kind]
    manifest = load_manifest(uri)
    check_corpus(uri, manifest)
    change(uri)
    with pytest.raises(DataError, match=message):
        check_corpus(uri, manifest)


def test_a_shard_replaced_by_one_of_the_same_size_is_refused_when_read(tmp_path: Path) -> None:
    uri, other = str(tmp_path / "a"), str(tmp_path / "b")
    manifest = write(uri, lengths=[500, 300, 400, 700, 900])
    write(other, seed=1, lengths=[500, 300, 400, 700, 900])
    shard(uri, 0).write_bytes(shard(other, 0).read_bytes())
    check_corpus(uri, manifest)
    with pytest.raises(DataError, match=r"shards/text-00000\.parquet, row 0: its tokens are not those"):
        TokenReader(uri, manifest).read(0, 100)


def test_a_store_is_listed_once(s3_bucket: str, fault_proxy: Callable[..., FaultProxy]) -> None:
    manifest = write(f"{s3_bucket}/corpus")
    proxy = fault_proxy()
    check_corpus(f"{s3_bucket}/corpus", manifest)
    assert proxy.num_requests == 1 + len(manifest.tokenizer.files)
    storage.delete(f"{s3_bucket}/corpus/{manifest.shards[0].file}")
    with pytest.raises(DataError, match=r"text-00000\.parquet: named in the manifest, but missing"):
        check_corpus(f"{s3_bucket}/corpus", manifest)
