"""Every function on single objects, with the same expectations of this machine and of a store."""

import math
from pathlib import Path

import pytest

from longspan import storage
from longspan.errors import DataError, StorageError
from longspan.storage import NotFoundError, join

_DATA = bytes(range(256)) * 5


def test_bytes_come_back(root: str) -> None:
    uri = join(root, "new folder/a#b?c=d%20\u00e9+&.bin")
    for data in (b"", b"x", _DATA, bytearray(_DATA), memoryview(_DATA)[::1]):
        storage.write_bytes(uri, data)
        assert storage.read_bytes(uri) == bytes(data)
        assert storage.size(uri) == len(data)


def test_ranges_are_slices(root: str) -> None:
    uri = join(root, "a")
    storage.write_bytes(uri, _DATA)
    num = len(_DATA)
    for start in (None, 0, 1, 100, num - 1, num, num + 5):
        for end in (None, 0, 1, 100, num, num + 5):
            if end is None or end >= (start or 0):
                assert storage.read_bytes(uri, start, end) == _DATA[start:end], (start, end)


@pytest.mark.parametrize(("start", "end"), [(-1, None), (None, -1), (5, 4)])
def test_impossible_ranges(root: str, start: int | None, end: int | None) -> None:
    with pytest.raises(ValueError, match="0 <= start <= end"):
        storage.read_bytes(join(root, "a"), start, end)


def test_text_and_json_come_back(root: str) -> None:
    storage.write_text(join(root, "t"), "gr\u00f6\u00dfer\n")
    assert storage.read_text(join(root, "t")) == "gr\u00f6\u00dfer\n"
    assert storage.read_bytes(join(root, "t")) == "gr\u00f6\u00dfer\n".encode()
    value = {"b": [1, 2.5, None, True], "a": {"\u00e9": "x"}}
    storage.write_json(join(root, "j"), value)
    assert storage.read_json(join(root, "j")) == value
    text = storage.read_text(join(root, "j"))
    assert text.index('"a"') < text.index('"b"')
    assert text.endswith("}\n")


def test_what_is_not_text_or_json_is_named(root: str) -> None:
    uri = join(root, "a")
    for data in (b"\xff\xfe", b'{"a": 1', b"[" * 100_000):
        storage.write_bytes(uri, data)
        with pytest.raises(DataError, match=f"{uri}: not "):
            storage.read_json(uri)
    for value in ({"loss": math.nan}, [math.inf], {"a": {1, 2}}):
        with pytest.raises(DataError, match=f"{uri}: cannot be written as JSON"):
            storage.write_json(uri, value)
    assert storage.read_bytes(uri) == b"[" * 100_000, "nothing was written"


def test_a_missing_object_says_so(root: str, tmp_path: Path) -> None:
    storage.write_bytes(join(root, "folder/file"), b"x")
    for name in ("none", "folder/none", "folder/file/none"):
        uri = join(root, name)
        for read in (
            storage.read_bytes,
            lambda uri: storage.read_bytes(uri, 3, 3),
            storage.read_text,
            storage.read_json,
            storage.size,
            storage.open_input,
            storage.local_copy,
            lambda uri: storage.download_file(uri, tmp_path / "copy"),
        ):
            with pytest.raises(NotFoundError, match=f"cannot read {uri}: (it does not exist|a part of the path)"):
                read(uri)
        assert not storage.exists(uri)
        storage.delete(uri)
        storage.delete_tree(uri)
    assert not (tmp_path / "copy").exists()
    assert storage.read_bytes(join(root, "folder/file")) == b"x"


def test_exists_for_objects_and_folders_with_something_in_them(root: str) -> None:
    assert not storage.exists(root)
    storage.write_bytes(join(root, "a/b/c"), b"")
    assert storage.exists(root)
    assert storage.exists(join(root, "a"))
    assert storage.exists(join(root, "a/b/c"))
    assert not storage.exists(join(root, "a/b/x"))
    assert not storage.exists(join(root, "a/b/c/d"))


def test_listings_are_relative_sorted_and_fresh(root: str) -> None:
    assert storage.list_files(root) == storage.list_folders(root) == storage.list_files(root, recursive=False) == []
    for name in ("b", "a/x", "a.b", "a/y/z", "rooted"):
        storage.write_bytes(join(root, name), b"x")
    storage.write_bytes(root + "-sibling/no", b"x")
    assert storage.list_files(root) == ["a.b", "a/x", "a/y/z", "b", "rooted"]
    assert storage.list_files(root, recursive=False) == ["a.b", "b", "rooted"]
    assert storage.list_folders(root) == ["a"]
    assert storage.list_files(join(root, "a")) == ["x", "y/z"]
    assert storage.list_files(join(root, "b")) == []
    storage.delete(join(root, "a/x"))
    assert storage.list_files(join(root, "a")) == ["y/z"]


def test_sizes_come_with_the_listing(root: str) -> None:
    assert storage.list_sizes(root) == {}
    for name, num_bytes in (("b", 0), ("a/x", 7), ("a.b", 3), ("a/y/z", len(_DATA))):
        storage.write_bytes(join(root, name), _DATA[:num_bytes])
    assert list(storage.list_sizes(root).items()) == [("a.b", 3), ("a/x", 7), ("a/y/z", len(_DATA)), ("b", 0)]
    assert list(storage.list_sizes(root, recursive=False).items()) == [("a.b", 3), ("b", 0)]
    assert storage.list_sizes(join(root, "a")) == {"x": 7, "y/z": len(_DATA)}
    assert storage.list_sizes(join(root, "b")) == {}
    assert list(storage.list_sizes(root)) == storage.list_files(root)


def test_several_ranges_are_slices_in_their_order(root: str) -> None:
    uri = join(root, "a")
    storage.write_bytes(uri, _DATA)
    num = len(_DATA)
    spans = [(100, 103), (0, num), (7, 7), (num - 1, num), (0, 1), (100, 103), (num + 9, num + 9)]
    assert storage.read_ranges(uri, spans) == [_DATA[start:end] for start, end in spans]
    assert storage.read_ranges(uri, []) == []
    many = [(index, index + 3) for index in range(0, 300, 7)]
    assert storage.read_ranges(uri, many) == [_DATA[start:end] for start, end in many]


def test_a_range_that_is_not_all_there_is_named(root: str) -> None:
    uri = join(root, "a")
    storage.write_bytes(uri, _DATA)
    num = len(_DATA)
    for start, end, found in ((num - 5, num + 1, 5), (num, num + 1, 0), (num + 3, num + 5, 0)):
        with pytest.raises(StorageError, match=rf"cannot read {uri}: of bytes \[{start}, {end}\) it has {found} only"):
            storage.read_ranges(uri, [(0, 3), (start, end)])
    for start, end in ((-1, 3), (5, 4)):
        with pytest.raises(ValueError, match="0 <= start <= end"):
            storage.read_ranges(uri, [(0, 3), (start, end)])
    for name in ("none", "none/none"):
        with pytest.raises(NotFoundError, match=f"cannot read {join(root, name)}: it does not exist"):
            storage.read_ranges(join(root, name), [(0, 3), (4, 5)])


def test_delete_tree_takes_the_folder_and_nothing_else(root: str) -> None:
    for name in ("step-1/a", "step-1/b/c", "step-10/a", "step-1.json"):
        storage.write_bytes(join(root, name), b"x")
    storage.delete_tree(join(root, "step-1"))
    assert storage.list_files(root) == ["step-1.json", "step-10/a"]
    storage.delete_tree(join(root, "step-1.json"))
    assert storage.list_files(root) == ["step-1.json", "step-10/a"], "an object is not a folder"


def test_files_are_copied_both_ways(root: str, tmp_path: Path) -> None:
    (tmp_path / "source").write_bytes(_DATA)
    storage.upload_file(tmp_path / "source", join(root, "deep/copy"))
    assert storage.read_bytes(join(root, "deep/copy")) == _DATA
    storage.download_file(join(root, "deep/copy"), tmp_path / "new" / "back")
    assert (tmp_path / "new" / "back").read_bytes() == _DATA
    assert storage.list_files(tmp_path / "new") == ["back"]
    with pytest.raises(NotFoundError, match=f"cannot read {tmp_path}/none: it does not exist"):
        storage.upload_file(tmp_path / "none", join(root, "x"))
    with pytest.raises(StorageError, match=f"cannot read {tmp_path}/new: it is a folder"):
        storage.upload_file(tmp_path / "new", join(root, "x"))
    assert not storage.exists(join(root, "x"))


def test_the_local_end_of_a_copy_is_local() -> None:
    for upload in (storage.upload_file, storage.upload_tree):
        with pytest.raises(StorageError, match="s3://bucket/a is remote; this end"):
            upload("s3://bucket/a", "here")
    for download in (storage.download_file, storage.download_tree):
        with pytest.raises(StorageError, match="s3://bucket/a is remote; this end"):
            download("here", "s3://bucket/a")


def test_digests_prove_what_was_read(root: str, tmp_path: Path) -> None:
    uri, target = join(root, "a"), tmp_path / "copy"
    storage.write_bytes(uri, _DATA)
    digest = storage.digest_bytes(_DATA)
    assert storage.read_bytes(uri, digest=digest) == _DATA
    assert storage.read_bytes(uri, 2, 9, digest=storage.digest_bytes(_DATA[2:9])) == _DATA[2:9]
    storage.download_file(uri, target, digest=digest)
    storage.write_bytes(uri, _DATA[:-1] + b"!")
    with pytest.raises(
        StorageError, match=f"cannot read {uri}: its digest is xxh3-128:.*, not {digest}, after 3 fetches"
    ):
        storage.read_bytes(uri, digest=digest)
    with pytest.raises(
        StorageError, match=f"cannot read {uri}: its digest is xxh3-128:.*, not {digest}, after 3 fetches"
    ):
        storage.download_file(uri, target, digest=digest)
    assert target.read_bytes() == _DATA, "a damaged download does not replace what was there"
