"""Which URIs are understood, which are refused, and that a joined name never leaves its folder."""

import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from longspan.errors import StorageError
from longspan.storage import absolute, is_remote, join, relative_name
from longspan.uri import Location, check_uri, hide_credentials, parse


def test_local_forms_mean_the_same_absolute_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))
    for uri in ("a b/c", "./a b/x/../c", tmp_path / "a b" / "c", "~/a b/c", f"{tmp_path}/a b/c/"):
        assert absolute(uri) == f"{tmp_path}/a b/c"
    for uri in (f"file://{tmp_path}/a%20b/c", f"FILE://localhost{tmp_path}/a b/c", (tmp_path / "a b/c").as_uri()):
        assert absolute(uri) == f"{tmp_path}/a b/c"
    assert not is_remote("a")


def test_s3_forms() -> None:
    assert parse("s3://bucket/a/b") == Location("bucket", "a/b")
    assert parse("s3://bucket/a/b/") == Location("bucket", "a/b")
    assert parse("S3://bucket") == parse("s3://bucket/") == Location("bucket", "")
    assert parse("s3://bucket/a?versionId=1#b%20c@d").path == "a?versionId=1#b%20c@d"
    assert absolute("s3://bucket/") == "s3://bucket"
    assert is_remote("s3://bucket/a")


@pytest.mark.parametrize(
    ("uri", "text"),
    [
        ("", "is not a URI"),
        ("a\0b", "is not a URI"),
        ("gs://bucket/a", "scheme gs:// is not supported"),
        ("s3a://bucket/a", "scheme s3a:// is not supported"),
        ("https://name:hunter22@host/a", "scheme https:// is not supported"),
        ("file://host/a", "a file URI has no host"),
        ("file://a", "a file URI has no host"),
        ("s3://", "not a bucket name"),
        ("s3:///key", "not a bucket name"),
        ("s3://b/key", "not a bucket name"),
        ("s3://name:hunter22@bucket/a", "credentials do not belong in a URI"),
        ("s3://bucket//a", "must stay inside"),
        ("s3://bucket/a//b", "must stay inside"),
        ("s3://bucket/a/../b", "must stay inside"),
        ("s3://bucket/./a", "must stay inside"),
        ("s3:/bucket/a", "a scheme ends in '://'; write s3://bucket/key, or ./s3:/bucket/a for a local path"),
        ("s3:bucket/a", "a scheme ends in '://'"),
        ("S3:/bucket", "a scheme ends in '://'"),
        ("gs:/bucket/a", "a scheme ends in '://'"),
        ("C:/data", "a scheme ends in '://'"),
        ("runs/s3://bucket/a", "'://' stands in the middle"),
    ],
)
def test_refused_uris_say_why_and_show_no_password(uri: str, text: str) -> None:
    with pytest.raises(StorageError, match=text) as caught:
        parse(uri)
    assert "hunter22" not in str(caught.value)


def test_a_path_with_a_colon_is_a_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("./s3:/bucket", "12:30", "a:b/c", "runs/s3:/x"):
        assert absolute(name) == os.path.normpath(f"{tmp_path}/{name}")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "'' is not a URI"),
        ("  ", "'  ' begins or ends with a blank"),
        (" s3://bucket/a", "begins or ends with a blank; give a local path or s3://bucket/key"),
        ("gs://bucket/a", "gs://bucket/a: scheme gs:// is not supported"),
    ],
)
def test_what_no_field_may_hold(text: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        check_uri(text)
    assert check_uri("s3://bucket/a b") == "s3://bucket/a b"


def test_join_puts_names_below_the_uri() -> None:
    assert join("s3://bucket/run", "step-10/", "a/b.json") == "s3://bucket/run/step-10/a/b.json"
    assert join("s3://bucket", "a") == "s3://bucket/a"
    assert join("/", "a") == "/a"
    assert join("runs", "a") == os.path.abspath("runs/a")


@pytest.mark.parametrize("name", ["", "/", "/etc/passwd", "../a", "a/../../b", "a//b", "./a", "s3://other/a", "a\0b"])
def test_unsafe_names_are_refused(name: str) -> None:
    with pytest.raises(StorageError, match="must stay inside"):
        relative_name(name)
    with pytest.raises(StorageError, match="must stay inside"):
        join("s3://bucket/run", name)


@given(st.sampled_from(["/data/run", "s3://bucket/run"]), st.text(alphabet="a./\\~:\u00e9 ", max_size=8))
def test_a_joined_name_is_refused_or_stays_inside(base: str, name: str) -> None:
    try:
        joined = join(base, name)
    except StorageError:
        return
    assert joined.startswith(base + "/")
    assert parse(joined).uri == joined
    assert os.path.normpath(joined.removeprefix(base + "/")) == name.rstrip("/")


def test_credentials_are_hidden(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "wJalrXUtnFEMI")
    monkeypatch.setenv("AWS_SESSION_TOKEN", "FwoGZXIvYXdzEBY")
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "test")
    text = "https://me:pw@host/b?X-Amz-Signature=abc&x-amz-credential=def wJalrXUtnFEMI FwoGZXIvYXdzEBY test"
    assert hide_credentials(text) == "https://***@host/b?X-Amz-Signature=***&x-amz-credential=*** *** *** test"
