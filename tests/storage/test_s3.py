"""What is special about a store: pages, parts, versions, buckets, placeholders, other processes and threads."""

import itertools
import multiprocessing
import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from longspan import storage
from longspan.errors import StorageError
from longspan.storage import NotFoundError, client, join, ranges, s3
from longspan.storage.client import Reply
from longspan.uri import parse
from tests.s3 import Fault, FaultProxy, raw_client

_PART = 5 << 20  # the smallest that S3 takes


def test_listings_page_over_more_than_a_thousand_keys(
    s3_bucket: str, moto_server: str, fault_proxy: Callable[..., FaultProxy]
) -> None:
    names = [f"{index:04d}" for index in range(1003)]
    raw, bucket = raw_client(moto_server), parse(s3_bucket).bucket
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda name: raw.put_object(Bucket=bucket, Key=f"many/{name}"), names))
    assert storage.list_files(join(s3_bucket, "many")) == names
    assert storage.list_files(join(s3_bucket, "many"), recursive=False) == names
    proxy = fault_proxy()
    assert storage.list_sizes(join(s3_bucket, "many")) == dict.fromkeys(names, 0)
    assert proxy.num_requests == 2, "one for each thousand, none for each key"


def test_large_objects_move_in_parts(s3_bucket: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(s3, "PART_BYTES", _PART)
    data = os.urandom(2 * _PART + 1)
    uri = join(s3_bucket, "large")
    storage.write_bytes(uri, data)
    entry = s3.head(parse(uri))
    assert entry is not None
    assert entry.etag.strip('"').endswith("-3"), "three parts"
    monkeypatch.setattr(s3, "PART_BYTES", 3 << 20)
    assert storage.read_bytes(uri) == data
    assert storage.read_bytes(uri, 5, len(data) - 7) == data[5:-7]
    storage.download_file(uri, tmp_path / "copy")
    assert (tmp_path / "copy").read_bytes() == data


def test_a_failed_upload_leaves_no_parts_behind(
    s3_bucket: str,
    tmp_path: Path,
    moto_server: str,
    fault_proxy: Callable[..., FaultProxy],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(s3, "PART_BYTES", _PART)
    uri = join(s3_bucket, "large")
    storage.write_bytes(uri, b"old")
    (tmp_path / "large").write_bytes(bytes(_PART + 1))
    proxy = fault_proxy(Fault("403", path="partNumber=2"))
    with pytest.raises(StorageError, match=f"cannot write {uri}: permission denied"):
        storage.upload_file(tmp_path / "large", uri)
    assert proxy.struck["403"] == 2, "once more with new credentials"
    assert "Uploads" not in raw_client(moto_server).list_multipart_uploads(Bucket=parse(uri).bucket)
    assert storage.read_bytes(uri) == b"old"


def test_an_upload_whose_confirmation_was_lost_is_done_again(
    s3_bucket: str, fault_proxy: Callable[..., FaultProxy], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The retry of a completion that did happen is answered with 404 NoSuchUpload."""
    monkeypatch.setattr(s3, "PART_BYTES", _PART)
    data = os.urandom(_PART + 1)
    proxy = fault_proxy(Fault("lost", times=1, method="POST", path="uploadId="))
    storage.write_bytes(join(s3_bucket, "large"), data)
    assert proxy.struck["lost"] == 1
    assert storage.read_bytes(join(s3_bucket, "large")) == data


def test_a_store_that_forgets_every_upload_is_named(s3_bucket: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(s3, "PART_BYTES", 4)
    request = client.request

    def forgetful(verb: str, location: Any, method: str, **fields: Any) -> Reply:
        return Reply(404) if method == "upload_part" else request(verb, location, method, **fields)

    monkeypatch.setattr(s3, "request", forgetful)
    with pytest.raises(StorageError, match="forgot the upload 3 times"):
        storage.write_bytes(join(s3_bucket, "large"), b"12345")


def test_a_file_that_shrinks_during_its_upload_is_named(
    s3_bucket: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_bytes(b"12345")
    monkeypatch.setattr(os, "pread", lambda descriptor, size, offset: b"123")
    with pytest.raises(StorageError, match="became shorter while being read"):
        storage.upload_file(tmp_path / "file", join(s3_bucket, "x"))
    assert not storage.exists(join(s3_bucket, "x"))


def test_ranges_are_of_one_version(s3_bucket: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The object is replaced between two of the requests: once it is read anew, at every time it is an error."""
    uri = join(s3_bucket, "a")
    storage.write_bytes(uri, b"0" * 10)
    request, left = client.request, [1]

    def interfering(verb: str, location: Any, method: str, **fields: Any) -> Reply:
        if method == "get_object" and fields["download"].start == 3 and left[0]:
            left[0] -= 1
            request("write", location, "put_object", Key=location.path, Body=b"%010d" % left[0])
        return request(verb, location, method, **fields)

    monkeypatch.setattr(ranges, "request", interfering)
    monkeypatch.setattr(s3, "in_parallel", lambda function, items, num_threads: [function(item) for item in items])
    assert storage.read_ranges(uri, [(7, 10), (3, 6)]) == [b"000", b"000"]
    assert left == [0]
    left[0] = 100
    with pytest.raises(StorageError, match=f"cannot read {uri}: it was replaced while being read"):
        storage.read_ranges(uri, [(7, 10), (3, 6)])


def _replace_while_read(uri: str, times: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Rewrite `uri` after the first part of each of the next reads."""
    monkeypatch.setattr(s3, "PART_BYTES", 4)
    request, left = client.request, [times]

    def interfering(verb: str, location: Any, method: str, **fields: Any) -> Reply:
        reply = request(verb, location, method, **fields)
        if method == "get_object" and fields["download"].start == 0 and left[0]:
            left[0] -= 1
            request("write", location, "put_object", Key=location.path, Body=b"%010d" % left[0])
        return reply

    monkeypatch.setattr(ranges, "request", interfering)


def test_two_versions_are_never_mixed(s3_bucket: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    uri = join(s3_bucket, "a")
    storage.write_bytes(uri, b"0123456789")
    _replace_while_read(uri, 1, monkeypatch)
    assert storage.read_bytes(uri) == b"0000000000"
    _replace_while_read(uri, 2, monkeypatch)
    storage.download_file(uri, tmp_path / "copy")
    assert (tmp_path / "copy").read_bytes() == b"0000000000"


def test_an_object_that_is_rewritten_all_the_time_is_named(
    s3_bucket: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    uri = join(s3_bucket, "a")
    storage.write_bytes(uri, b"0123456789")
    _replace_while_read(uri, 100, monkeypatch)
    with pytest.raises(StorageError, match=f"cannot read {uri}: it was replaced while being read"):
        storage.read_bytes(uri)
    with pytest.raises(StorageError, match=f"cannot read {uri}: it was replaced while being read"):
        storage.download_file(uri, tmp_path / "copy")
    assert not (tmp_path / "copy").exists()


def test_an_object_that_becomes_shorter_between_parts_is_read_again(
    s3_bucket: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also by a store that ignores If-Match: a part behind the new end is refused with 416."""
    uri = join(s3_bucket, "a")
    storage.write_bytes(uri, b"01234567")
    monkeypatch.setattr(s3, "PART_BYTES", 4)
    request, refused = client.request, [False]

    def shorter_once(verb: str, location: Any, method: str, **fields: Any) -> Reply:
        if method == "get_object" and fields["download"].start == 4 and not refused[0]:
            refused[0] = True
            return Reply(416)
        return request(verb, location, method, **fields)

    monkeypatch.setattr(ranges, "request", shorter_once)
    assert storage.read_bytes(uri) == b"01234567"
    assert refused == [True]


def test_what_a_broken_try_received_is_not_asked_for_again(
    s3_bucket: str, fault_proxy: Callable[..., FaultProxy]
) -> None:
    uri, data = join(s3_bucket, "a"), os.urandom(100_000)
    storage.write_bytes(uri, data)
    for start, end in ((0, None), (10, 90_000), (99_999, 100_000)):
        proxy = fault_proxy(Fault("truncate", times=12))
        assert storage.read_bytes(uri, start, end) == data[start:end]
        assert proxy.struck == {"truncate": 12}
        assert proxy.num_body_bytes <= 1.1 * len(data[start:end])


def test_the_rest_of_a_broken_try_is_of_the_same_version(
    s3_bucket: str, fault_proxy: Callable[..., FaultProxy], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also of a store that does not know If-Match."""
    uri, old, new = join(s3_bucket, "a"), b"0" * 50_000, b"1" * 50_000
    fields = client.Download.fields
    reads = (storage.read_bytes, lambda uri: b"".join(storage.read_ranges(uri, [(0, 20_000), (20_000, 50_000)])))
    for knows_if_match, read in itertools.product((True, False), reads):
        storage.write_bytes(uri, old)
        proxy = fault_proxy(Fault("truncate", times=1, method="GET"))

        def fields_after_a_change(download: client.Download, knows: bool = knows_if_match) -> dict[str, Any]:
            now = fields(download)
            if download.pieces:
                storage.write_bytes(uri, new)
            return now if knows else {"Range": now["Range"]}

        with monkeypatch.context() as patch:
            patch.setattr(client.Download, "fields", fields_after_a_change)
            assert read(uri) == new
        assert proxy.struck == {"truncate": 1}


def test_a_try_that_broke_off_at_its_last_byte_is_whole(s3_bucket: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """All bytes are there, but their end was not seen: the next range would be behind the object, or empty."""
    uri, data = join(s3_bucket, "a"), os.urandom(50_000)
    storage.write_bytes(uri, data)
    call, left = client._call, [0]

    async def breaking(*args: Any, **fields: Any) -> dict[str, Any]:
        answer = await call(*args, **fields)
        left[0] -= 1
        if left[0] >= 0:
            raise ConnectionResetError("after the last byte")
        return answer

    monkeypatch.setattr(client, "_call", breaking)
    for start, end in ((0, None), (0, 50_000), (40_000, 60_000), (7, 8)):
        left[0] = 3
        assert storage.read_bytes(uri, start, end) == data[start:end]
        assert left[0] < 3


def test_a_store_that_sends_less_than_it_says_is_named(s3_bucket: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ranges, "request", lambda *args, **fields: Reply(206, {"ContentRange": "bytes 0-9/10"}, b"123"))
    with pytest.raises(StorageError, match=r"of bytes \[0, 10\) it has 3 only"):
        storage.read_bytes(join(s3_bucket, "a"))


def test_a_store_without_ranges_is_refused(s3_bucket: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ranges, "request", lambda *args, **fields: Reply(200, {}, b"everything"))
    with pytest.raises(StorageError, match="does not serve byte ranges"):
        storage.read_bytes(join(s3_bucket, "a"), 2, 4)


def test_a_missing_bucket_is_named(moto_server: str, tmp_path: Path) -> None:
    uri = "s3://no-such-bucket/a"
    for use in (
        storage.read_bytes,
        lambda uri: storage.read_ranges(uri, [(0, 1)]),
        storage.size,
        storage.list_sizes,
        storage.list_files,
        storage.list_folders,
        storage.open_input,
        storage.delete,
        storage.delete_tree,
        storage.local_copy,
        storage.local_directory,
        lambda uri: storage.write_bytes(uri, b"x"),
        lambda uri: storage.download_tree(uri, tmp_path),
    ):
        with pytest.raises(NotFoundError, match="bucket 'no-such-bucket' does not exist at this endpoint"):
            use(uri)


def test_a_bucket_is_not_an_object(s3_bucket: str) -> None:
    for use in (
        storage.read_bytes,
        lambda uri: storage.read_ranges(uri, [(0, 1)]),
        storage.size,
        storage.delete,
        storage.open_input,
        storage.local_copy,
        lambda uri: storage.write_bytes(uri, b"x"),
    ):
        with pytest.raises(StorageError, match=f"{s3_bucket}: it names a bucket; write s3://bucket/key"):
            use(s3_bucket)
    with pytest.raises(StorageError, match="refusing to delete a whole bucket"):
        storage.delete_tree(s3_bucket)


def test_a_bucket_is_a_folder(s3_bucket: str, tmp_path: Path) -> None:
    assert not storage.exists(s3_bucket)
    storage.write_bytes(join(s3_bucket, "a/b"), b"x")
    assert storage.exists(s3_bucket)
    assert storage.list_files(s3_bucket) == ["a/b"]
    assert storage.list_folders(s3_bucket) == ["a"]
    assert storage.download_tree(s3_bucket, tmp_path) == ["a/b"]


def test_placeholders_of_folders_are_no_files(s3_bucket: str, moto_server: str) -> None:
    raw, bucket = raw_client(moto_server), parse(s3_bucket).bucket
    for key in ("run/", "run/empty/"):
        raw.put_object(Bucket=bucket, Key=key)
    uri = join(s3_bucket, "run")
    assert storage.list_files(uri) == storage.list_files(uri, recursive=False) == []
    assert storage.list_folders(uri) == ["empty"]
    storage.delete_tree(uri)
    assert "Contents" not in raw.list_objects_v2(Bucket=bucket)


def test_one_client_serves_all_threads(s3_bucket: str) -> None:
    def write_and_read(index: int) -> bool:
        uri = join(s3_bucket, str(index))
        storage.write_bytes(uri, b"%d" % index)
        return storage.read_bytes(uri) == b"%d" % index

    with ThreadPoolExecutor(16) as pool:
        assert all(pool.map(write_and_read, range(100)))
    assert len(storage.list_files(s3_bucket)) == 100


def test_a_forked_process_makes_its_own_client(s3_bucket: str) -> None:
    uri = join(s3_bucket, "a")
    storage.write_bytes(uri, b"before")
    with multiprocessing.get_context("fork").Pool(2) as pool:
        assert pool.map(storage.read_bytes, [uri] * 4) == [b"before"] * 4
    assert storage.read_bytes(uri) == b"before"


def test_the_first_error_ends_parallel_work() -> None:
    done: list[int] = []

    def work(index: int) -> int:
        if index == 0:
            raise ValueError("the first")
        done.append(index)
        return index

    with pytest.raises(ValueError, match="the first"):
        s3.in_parallel(work, range(10_000), 2)
    assert len(done) < 9_999
    assert s3.in_parallel(str, range(5), 2) == ["0", "1", "2", "3", "4"]
