"""What is special about files on this machine: crashes in mid-write, links, and the errors of the operating system."""

import errno
import os
from pathlib import Path

import pytest

from longspan import storage
from longspan.errors import StorageError
from longspan.storage import NotFoundError, local


def _fail(error: OSError) -> object:
    def raise_it(*args: object, **kwargs: object) -> None:
        raise error

    return raise_it


def _record(name: str, calls: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """Note each call of `os.<name>` in `calls`."""
    function = getattr(os, name)

    def recorded(*args: object) -> None:
        calls.append(name)
        function(*args)

    monkeypatch.setattr(os, name, recorded)


@pytest.mark.parametrize("function", ["replace", "fsync"])
def test_a_crash_before_the_replacement_leaves_the_old_content(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, function: str
) -> None:
    path = tmp_path / "file"
    storage.write_text(path, "old")
    monkeypatch.setattr(os, function, _fail(OSError(errno.EIO, "Input/output error")))
    with pytest.raises(StorageError, match=f"cannot write {path}: Input/output error"):
        storage.write_text(path, "new")
    assert storage.read_text(path) == "old"
    assert os.listdir(tmp_path) == ["file"]


def test_a_process_killed_in_mid_write_leaves_nothing_that_is_listed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "replace", _fail(OSError(errno.EIO, "Input/output error")))
    monkeypatch.setattr(os, "unlink", _fail(OSError(errno.EIO, "Input/output error")))
    with pytest.raises(StorageError):
        storage.write_text(tmp_path / "a" / "file", "new")
    assert len(os.listdir(tmp_path / "a")) == 1, "the test needs a left-over"
    assert storage.list_files(tmp_path) == []
    assert storage.list_files(tmp_path / "a", recursive=False) == []
    assert storage.list_sizes(tmp_path) == storage.list_sizes(tmp_path / "a", recursive=False) == {}
    assert not storage.exists(tmp_path)


def test_a_file_removed_while_it_is_listed_has_no_size(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("a", "b"):
        storage.write_text(tmp_path / name, name)
    scan = local._scan

    def scan_and_remove(path: str) -> list[os.DirEntry[str]]:
        entries = scan(path)
        for entry in entries:
            entry.is_file()
        os.unlink(tmp_path / "a")
        return entries

    monkeypatch.setattr(local, "_scan", scan_and_remove)
    assert storage.list_sizes(tmp_path) == {"b": 1}


def test_content_reaches_the_disk_before_its_name_does(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[str] = []
    for name in ("fsync", "replace"):
        _record(name, calls, monkeypatch)
    storage.write_text(tmp_path / "file", "new")
    assert calls == ["fsync", "replace", "fsync"]


def test_a_file_system_that_cannot_flush_a_folder_is_good_enough(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "fsync", _fail(OSError(errno.EINVAL, "Invalid argument")))
    storage.write_text(tmp_path / "file", "new")
    assert storage.read_text(tmp_path / "file") == "new"


def test_the_mode_of_a_new_file_follows_the_umask(tmp_path: Path) -> None:
    before = os.umask(0o027)
    try:
        storage.write_text(tmp_path / "file", "x")
    finally:
        os.umask(before)
    assert (tmp_path / "file").stat().st_mode & 0o777 == 0o640


@pytest.mark.parametrize(
    ("error", "text"),
    [
        (PermissionError(errno.EACCES, "Permission denied"), "permission denied for user id"),
        (OSError(errno.ENOSPC, "No space left on device"), "No space left on device; free some space or choose"),
        (OSError(errno.EDQUOT, "Disk quota exceeded"), "Disk quota exceeded; free some space or choose"),
        (OSError(errno.EIO, "Input/output error"), "Input/output error$"),
        (OSError("no number"), "no number$"),
    ],
)
def test_errors_of_the_system_name_the_path(error: OSError, text: str) -> None:
    with pytest.raises(StorageError, match=f"^cannot write /a/b: {text}"), local.local_errors("write", "/a/b"):
        raise error


def test_a_folder_is_not_a_file_and_the_other_way_round(tmp_path: Path) -> None:
    storage.write_text(tmp_path / "file", "x")
    for read in (storage.read_bytes, storage.size, storage.digest_file, storage.open_input):
        with pytest.raises(StorageError, match=f"cannot read {tmp_path}: it is a folder, not a file"):
            read(tmp_path)
    with pytest.raises(StorageError, match="it is a folder"):
        storage.write_text(tmp_path, "x")
    with pytest.raises(StorageError, match=r"cannot delete .*: it is a folder"):
        storage.delete(tmp_path)
    with pytest.raises(StorageError, match="a part of the path is a file, not a folder"):
        storage.write_text(tmp_path / "file" / "x", "x")
    with pytest.raises(NotFoundError, match="a part of the path is a file, not a folder"):
        storage.read_bytes(tmp_path / "file" / "x")
    assert storage.list_files(tmp_path / "file") == []


def test_links_are_followed_once(tmp_path: Path) -> None:
    storage.write_text(tmp_path / "elsewhere" / "deep" / "b", "b")
    storage.write_text(tmp_path / "root" / "a", "a")
    os.symlink("a", tmp_path / "root" / "link")
    os.symlink(tmp_path / "elsewhere", tmp_path / "root" / "folder")
    os.symlink(tmp_path / "root", tmp_path / "elsewhere" / "deep" / "loop")
    assert storage.list_files(tmp_path / "root") == ["a", "folder/deep/b", "link"]
    os.symlink("nowhere", tmp_path / "root" / "broken")
    with pytest.raises(StorageError, match="broken is a link to nothing"):
        storage.list_files(tmp_path / "root")


def test_other_kinds_of_entries_are_not_files(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    assert storage.list_files(tmp_path) == []


def test_the_root_and_the_home_folder_are_not_deleted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    os.symlink("/", tmp_path / "link")
    for uri in ("/", "~", tmp_path, tmp_path / "link"):
        with pytest.raises(StorageError, match="refusing to delete"):
            storage.delete_tree(uri)
    assert tmp_path.exists()


def test_deleting_a_tree_leaves_what_its_links_point_to(tmp_path: Path) -> None:
    storage.write_text(tmp_path / "elsewhere" / "b", "b")
    os.makedirs(tmp_path / "root")
    os.symlink(tmp_path / "elsewhere", tmp_path / "root" / "folder")
    storage.delete_tree(tmp_path / "root")
    assert storage.list_files(tmp_path) == ["elsewhere/b"]


def test_halves_of_files_that_a_killed_writer_left_are_cleared(tmp_path: Path) -> None:
    folder = tmp_path / "run" / "plots"
    local.write(str(folder / "kept.png"), b"whole")
    killed = os.fork()
    if killed == 0:
        with local.replacing(str(folder / "lost.png")) as temporary:
            Path(temporary).write_bytes(b"ha")
            os._exit(9)
    os.waitpid(killed, 0)
    assert len(list(folder.iterdir())) == 2
    storage.clear_unfinished(tmp_path / "run")
    assert [path.name for path in folder.iterdir()] == ["kept.png"]
    storage.clear_unfinished(tmp_path / "nowhere")
