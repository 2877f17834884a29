"""Public buckets: read without credentials, by the same functions, and never written to."""

import json
import uuid
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from longspan import storage
from longspan.config.corpus import Corpus
from longspan.corpus.manifest import load_manifest
from longspan.corpus.prepare import prepare
from longspan.errors import ConfigError, StorageError
from longspan.storage.writable import check_output
from longspan.uri import check_uri, hide_credentials, parse
from tests.s3 import raw_client


@pytest.fixture
def public(s3_bucket: str, monkeypatch: pytest.MonkeyPatch) -> str:
    """A bucket as its signed URI, in an environment without any credentials."""
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    monkeypatch.delenv("AWS_SECRET_ACCESS_KEY")
    return s3_bucket


def put(moto_server: str, bucket: str, key: str, data: bytes) -> None:
    raw_client(moto_server).put_object(Bucket=bucket.removeprefix("s3://"), Key=key, Body=data, ACL="public-read")


def test_everything_is_read_without_credentials(moto_server: str, s3_bucket: str, public: str, tmp_path: Path) -> None:
    sink = pa.BufferOutputStream()
    pq.write_table(pa.table({"text": ["a", "b"]}), sink)
    data = sink.getvalue().to_pybytes()
    put(moto_server, public, "d/a.parquet", data)
    with pytest.raises(StorageError, match=rf"no usable credentials .*, or write s3://anonymous@{public[5:]} if it is"):
        storage.read_bytes(f"{public}/d/a.parquet")
    uri = storage.anonymous(public)
    assert uri == f"s3://anonymous@{public[5:]}"
    file = storage.join(uri, "d/a.parquet")
    assert storage.read_bytes(file) == data
    assert storage.list_sizes(uri) == {"d/a.parquet": len(data)}
    assert storage.exists(file)
    with storage.open_input(file) as stream:
        assert pq.read_table(stream)["text"].to_pylist() == ["a", "b"]
    filesystem, path = storage.arrow_filesystem(file)
    assert filesystem.get_file_info(path).size == len(data)
    storage.download_tree(uri, tmp_path / "copy")
    assert (tmp_path / "copy" / "d" / "a.parquet").read_bytes() == data
    with pytest.raises(storage.NotFoundError, match=r"anonymous@.*/gone"):
        storage.read_bytes(storage.join(uri, "gone"))


def test_a_public_bucket_is_not_written_to(s3_bucket: str) -> None:
    uri = storage.anonymous(s3_bucket)
    for write in (storage.write_text, lambda where, _: storage.delete(where)):
        with pytest.raises(StorageError, match=r"cannot (write|delete) s3://anonymous@.*: anonymous@ is for reading"):
            write(f"{uri}/a", "x")
    with pytest.raises(ConfigError, match=r"^output: s3://anonymous@.*: anonymous@ is for reading; give the bucket"):
        check_output(uri, "output")


def test_the_uri_keeps_its_form_and_is_no_secret() -> None:
    location = parse("s3://anonymous@bucket/a/b/")
    assert (location.bucket, location.path, location.is_anonymous) == ("bucket", "a/b", True)
    assert storage.join("s3://anonymous@bucket/a", "c") == "s3://anonymous@bucket/a/c"
    assert storage.signed("s3://anonymous@bucket/a") == storage.signed("s3://bucket/a") == "s3://bucket/a"
    assert check_uri("s3://anonymous@bucket") == "s3://anonymous@bucket"
    assert hide_credentials("s3://anonymous@b/x http://user:pw@h") == "s3://anonymous@b/x http://***@h"
    for text in ("s3://me@bucket/a", "s3://anonymous@me@bucket/a", "s3://anonymous:x@bucket"):
        with pytest.raises(StorageError, match=r"or write s3://anonymous@bucket for a public bucket"):
            parse(text)


def corpus(output: str, **source: object) -> Corpus:
    sources = [{"type": "jsonl", "name": "a", "on_bad": "skip", **source}]
    return Corpus.model_validate({"output": output, "tokenizer": {"train_vocab_size": 270}, "sources": sources})


def test_sources_and_a_corpus_in_public_buckets(moto_server: str, public: str, tmp_path: Path) -> None:
    lines = "".join(
        json.dumps({"text": f"line {number} of the corpus, {uuid.uuid5(uuid.NAMESPACE_DNS, str(number))}"}) + "\n"
        for number in range(200)
    )
    put(moto_server, public, "in/a.jsonl", lines.encode())
    put(moto_server, public, "in/b.jsonl", lines.encode())
    output = str(tmp_path / "out")
    manifest = prepare(corpus(output, paths=[f"{public}/in"], anonymous=True))
    assert manifest.sources["a"].documents == 400
    assert prepare(corpus(output, paths=[f"{public}/in"])) == manifest  # how it is read does not make it another corpus
    for path in Path(output).rglob("*"):
        if path.is_file():
            put(moto_server, public, f"corpus/{path.relative_to(output)}", path.read_bytes())
    assert load_manifest(f"{storage.anonymous(public)}/corpus") == manifest
    twice = corpus(
        str(tmp_path / "b"), paths=[f"{storage.anonymous(public)}/in", f"{public}/in/a.jsonl"], anonymous=True
    )
    with pytest.raises(ConfigError, match="is reached twice"):
        prepare(twice)
    with pytest.raises(ValueError, match=r"'anonymous' is for s3:// only, and /data is a local path; leave it out"):
        corpus(output, paths=["/data"], anonymous=True)
