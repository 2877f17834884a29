"""Folders copied to and from both kinds of places, and local copies of remote ones."""

import multiprocessing
import os
from collections.abc import Callable
from pathlib import Path

import pytest

from longspan import storage
from longspan.errors import StorageError
from longspan.storage import NotFoundError, cache, join, trees
from longspan.uri import parse
from tests.s3 import FaultProxy, raw_client

_FILES = {"a": b"1", "b/c": b"22", "b/d/e": b"", "z z/\u00e9": b"4444"}


def _make(folder: Path) -> Path:
    for name, data in _FILES.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(data)
    return folder


def _content(folder: Path) -> dict[str, bytes]:
    return {name: (folder / name).read_bytes() for name in storage.list_files(folder)}


def test_trees_come_back(root: str, tmp_path: Path) -> None:
    names = storage.upload_tree(_make(tmp_path / "source"), join(root, "tree"))
    assert names == sorted(_FILES) == storage.list_files(join(root, "tree"))
    assert storage.download_tree(join(root, "tree"), tmp_path / "back") == names
    assert _content(tmp_path / "back") == _FILES


def test_linked_files_are_copied_with_their_content(root: str, tmp_path: Path) -> None:
    """The snapshot folders of the Hugging Face cache hold links only."""
    (tmp_path / "blobs").mkdir()
    (tmp_path / "blobs" / "1").write_bytes(b"weights")
    (tmp_path / "snapshot").mkdir()
    os.symlink("../blobs/1", tmp_path / "snapshot" / "model.safetensors")
    storage.upload_tree(tmp_path / "snapshot", root)
    assert storage.read_bytes(join(root, "model.safetensors")) == b"weights"


def test_an_empty_folder_is_no_tree(root: str, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    for folder in ("empty", "none"):
        with pytest.raises(NotFoundError, match=f"cannot read {tmp_path}/{folder}: there is no file in it"):
            storage.upload_tree(tmp_path / folder, root)
    with pytest.raises(NotFoundError, match=f"cannot read {root}: there is no file in it"):
        storage.download_tree(root, tmp_path / "back")
    assert not (tmp_path / "back").exists()


def test_names_that_would_leave_the_folder_are_refused(s3_bucket: str, moto_server: str, tmp_path: Path) -> None:
    client, bucket = raw_client(moto_server), parse(s3_bucket).bucket
    for key in ("tree/a", "tree/b/../../../evil"):
        client.put_object(Bucket=bucket, Key=key, Body=b"x")
    with pytest.raises(StorageError, match="must stay inside its folder"):
        storage.download_tree(join(s3_bucket, "tree"), tmp_path / "deep" / "back")
    assert storage.list_files(tmp_path) == []


def test_local_files_and_folders_are_their_own_copy(tmp_path: Path) -> None:
    _make(tmp_path / "model")
    assert storage.local_directory(tmp_path / "model") == tmp_path / "model"
    assert storage.local_copy(tmp_path / "model" / "a") == tmp_path / "model" / "a"
    for uri in (tmp_path / "none", tmp_path / "model" / "a"):
        with pytest.raises(NotFoundError, match=f"cannot read {uri}: there is no such folder"):
            storage.local_directory(uri)
    with pytest.raises(NotFoundError, match="it does not exist"):
        storage.local_copy(tmp_path / "none")


def test_a_remote_folder_is_fetched_once_and_again_when_it_changes(
    s3_bucket: str, tmp_path: Path, fault_proxy: Callable[..., FaultProxy]
) -> None:
    uri = join(s3_bucket, "models/tiny")
    storage.upload_tree(_make(tmp_path / "source"), uri)
    first = storage.local_directory(uri, tmp_path / "cache")
    assert first.name == "tiny"
    assert _content(first) == _FILES
    proxy = fault_proxy()
    assert storage.local_directory(uri, tmp_path / "cache") == first
    assert proxy.num_requests == 1, "one listing and nothing else"
    storage.write_bytes(join(uri, "a"), b"2")
    second = storage.local_directory(uri, tmp_path / "cache")
    assert second != first
    assert (second / "a").read_bytes() == b"2"
    assert (first / "a").read_bytes() == b"1", "whoever still reads the old copy is not disturbed"


def test_a_remote_file_is_fetched_once_and_again_when_it_changes(s3_bucket: str, tmp_path: Path) -> None:
    uri = join(s3_bucket, "a/file.json")
    storage.write_bytes(uri, b"1")
    first = storage.local_copy(uri, tmp_path / "cache")
    assert (first.name, first.read_bytes()) == ("file.json", b"1")
    assert storage.local_copy(uri, tmp_path / "cache") == first
    storage.write_bytes(uri, b"2")
    assert storage.local_copy(uri, tmp_path / "cache").read_bytes() == b"2"


def test_the_cache_is_private_and_where_the_environment_says(
    s3_bucket: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    storage.write_bytes(join(s3_bucket, "a"), b"1")
    monkeypatch.setenv("LONGSPAN_CACHE", str(tmp_path / "cache"))
    assert storage.local_copy(join(s3_bucket, "a")).is_relative_to(tmp_path / "cache")
    assert (tmp_path / "cache").stat().st_mode & 0o777 == 0o700
    monkeypatch.delenv("LONGSPAN_CACHE")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert storage.local_copy(join(s3_bucket, "a")).is_relative_to(tmp_path / ".cache" / "longspan")


def test_a_download_that_was_killed_is_not_taken_for_a_copy(
    s3_bucket: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    uri = join(s3_bucket, "tree")
    storage.upload_tree(_make(tmp_path / "source"), uri)
    download_tree = trees.download_tree

    def killed_near_the_end(*args: str) -> None:
        download_tree(*args)
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(trees, "download_tree", killed_near_the_end)
        with pytest.raises(KeyboardInterrupt):
            storage.local_directory(uri, tmp_path / "cache")
    left_over = storage.list_files(tmp_path / "cache")
    assert any(".part/" in name for name in left_over), "the test needs a left-over"
    assert _content(storage.local_directory(uri, tmp_path / "cache")) == _FILES
    assert not any(".part/" in name for name in storage.list_files(tmp_path / "cache"))


def test_a_folder_that_changes_during_the_copy_is_named(
    s3_bucket: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    uri = join(s3_bucket, "tree")
    storage.upload_tree(_make(tmp_path / "source"), uri)
    make = cache._make

    def add_a_file_first(home: str, name: str, fetch: Callable[[str], None]) -> None:
        storage.write_bytes(join(uri, "new"), b"x")
        make(home, name, fetch)

    monkeypatch.setattr(cache, "_make", add_a_file_first)
    with pytest.raises(StorageError, match="files were added or removed while it was copied"):
        storage.local_directory(uri, tmp_path / "cache")


def test_several_processes_share_one_download(
    s3_bucket: str, tmp_path: Path, fault_proxy: Callable[..., FaultProxy]
) -> None:
    uri = join(s3_bucket, "tree")
    storage.upload_tree(_make(tmp_path / "source"), uri)
    proxy = fault_proxy()
    with multiprocessing.get_context("fork").Pool(4) as pool:
        paths = pool.starmap(storage.local_directory, [(uri, str(tmp_path / "cache"))] * 4, chunksize=1)
    assert len(set(paths)) == 1
    assert _content(paths[0]) == _FILES
    assert proxy.num_body_bytes < 10_000
    assert proxy.num_requests <= 4 + 1 + 2 * len(_FILES), "four listings, and one download"
