"""Faults of the network and the store: transient ones are survived, lasting ones end in one clear error."""

import os
import re
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import pytest

from longspan import storage
from longspan.errors import StorageError
from longspan.storage import RetryPolicy, join, use_policy
from tests.s3 import Fault, FaultProxy

_DATA = os.urandom(100_000)
_ANY_KIND = ("500", "503", "reset", "lost")
_BODY_KINDS = ("truncate", "stall", "slow")
_StartProxy = Callable[..., FaultProxy]


def _impatient(fast: RetryPolicy) -> RetryPolicy:
    """A stalled connection is cut after 0.3 s; a slow one after 1.8 s, which leaves time to make the client."""
    return replace(fast, read_timeout_s=0.3, connect_timeout_s=1.5)


@pytest.mark.parametrize("kind", _ANY_KIND)
def test_every_operation_survives_faults_in_a_row(
    kind: str, s3_bucket: str, tmp_path: Path, fault_proxy: _StartProxy
) -> None:
    """Each kind of request meets the fault six times; s3fs or pyarrow alone give up on most of these (storage.md)."""
    methods = ("PUT", "GET", "HEAD", "DELETE")
    proxy = fault_proxy(*(Fault(kind, times=6, method=method) for method in methods))
    uri = join(s3_bucket, "run/a")
    storage.write_bytes(uri, _DATA)
    assert storage.list_files(s3_bucket) == ["run/a"]
    assert storage.read_bytes(uri) == _DATA
    assert storage.size(uri) == len(_DATA)
    storage.delete(uri)
    assert not storage.exists(uri)
    assert proxy.struck == {kind: 24}


@pytest.mark.parametrize("kind", _BODY_KINDS)
def test_reads_survive_damaged_bodies(
    kind: str, s3_bucket: str, tmp_path: Path, fast: RetryPolicy, fault_proxy: _StartProxy
) -> None:
    uri = join(s3_bucket, "a")
    storage.write_bytes(uri, _DATA)
    times = {"truncate": 6, "stall": 2, "slow": 1}[kind]
    proxy = fault_proxy(Fault(kind, times=times))
    with use_policy(fast if kind == "truncate" else _impatient(fast)):
        assert storage.read_bytes(uri) == _DATA
    assert proxy.struck == {kind: times}


@pytest.mark.parametrize("kind", ["truncate", "stall"])
def test_listings_survive_damaged_bodies(
    kind: str, s3_bucket: str, fast: RetryPolicy, fault_proxy: _StartProxy
) -> None:
    storage.write_bytes(join(s3_bucket, "a"), b"x")
    proxy = fault_proxy(Fault(kind, times=2))
    with use_policy(_impatient(fast)):
        assert storage.list_files(s3_bucket) == ["a"]
    assert proxy.struck == {kind: 2}


def test_flipped_bits_are_found_by_the_digest(s3_bucket: str, tmp_path: Path, fault_proxy: _StartProxy) -> None:
    uri, digest = join(s3_bucket, "a"), storage.digest_bytes(_DATA)
    storage.write_bytes(uri, _DATA)
    proxy = fault_proxy(Fault("flip", times=2))
    assert storage.read_bytes(uri, digest=digest) == _DATA
    assert proxy.struck == {"flip": 2}
    proxy = fault_proxy(Fault("flip", times=2))
    storage.download_file(uri, tmp_path / "copy", digest=digest)
    assert (tmp_path / "copy").read_bytes() == _DATA
    assert proxy.struck == {"flip": 2}
    fault_proxy(Fault("flip"))
    with pytest.raises(StorageError, match=f"cannot read {uri}: its digest is .* after 3 fetches"):
        storage.read_bytes(uri, digest=digest)


@pytest.mark.parametrize("seed", [0, 1])
def test_a_storm_of_mixed_faults_damages_nothing(
    seed: int, s3_bucket: str, tmp_path: Path, fast: RetryPolicy, fault_proxy: _StartProxy
) -> None:
    kinds = ("500", "503", "reset", "lost", "truncate")
    proxy = fault_proxy(*(Fault(kind, probability=0.15, seed=10 * seed + i) for i, kind in enumerate(kinds)))
    for index in range(20):
        (tmp_path / "out" / str(index % 3)).mkdir(parents=True, exist_ok=True)
        (tmp_path / "out" / str(index % 3) / str(index)).write_bytes(_DATA[index * 1000 :])
    names = storage.upload_tree(tmp_path / "out", join(s3_bucket, "tree"))
    assert storage.list_files(join(s3_bucket, "tree")) == names
    assert storage.download_tree(join(s3_bucket, "tree"), tmp_path / "back") == names
    for name in names:
        assert (tmp_path / "back" / name).read_bytes() == (tmp_path / "out" / name).read_bytes()
    assert set(proxy.struck) == set(kinds)


@pytest.mark.parametrize("kind", ["500", "503", "reset", "truncate", "stall"])
def test_a_lasting_fault_ends_in_one_error_when_the_budget_is_spent(
    kind: str, s3_bucket: str, fast: RetryPolicy, fault_proxy: _StartProxy
) -> None:
    uri = join(s3_bucket, "victim")
    storage.write_bytes(uri, _DATA)
    proxy = fault_proxy(Fault(kind, path="victim"))
    # Of the others, a busy machine's answers may take longer than that, and then no fault has struck.
    patience = replace(fast, read_timeout_s=0.2) if kind == "stall" else fast
    with use_policy(replace(patience, budget_s=0.0)), suppress(StorageError):
        storage.exists(join(s3_bucket, "another"))  # makes the client, which takes longer than the budget
    with use_policy(replace(patience, budget_s=0.8)), pytest.raises(StorageError) as caught:
        storage.read_bytes(uri)
    text = str(caught.value)
    story = re.match(rf"cannot read {uri}: gave up after (\d+) tries in \d+\.\d s; last cause: ", text)
    assert story is not None, text
    assert proxy.struck[kind] in (int(story[1]), 2 * int(story[1])), (
        "aiohttp repeats a request on its own after a reset"
    )
    expected = {"500": "500 InternalError: We enc", "503": "503 SlowDown: Please reduce your request rate."}
    assert f"last cause: {expected.get(kind, '')}" in text
    assert not text.rstrip().endswith(("cause:", "Error:"))
    assert proxy.struck[kind] > 1
    assert "\n" not in text


def test_a_store_that_is_not_there_ends_in_one_error(monkeypatch: pytest.MonkeyPatch, fast: RetryPolicy) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL_S3", "http://127.0.0.1:9")
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "mock-key-id")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "mock-secret-key")
    with use_policy(replace(fast, budget_s=0.2)), pytest.raises(StorageError, match=r"127\.0\.0\.1:9"):
        storage.exists("s3://bucket/a")


def test_a_wrong_endpoint_is_named_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL_S3", "me:hunter22@minio:9000")
    for use in (storage.exists, storage.arrow_filesystem):
        with pytest.raises(
            StorageError, match=r"AWS_ENDPOINT_URL_S3=.* is not an endpoint; write http\(s\)://host:port"
        ):
            use("s3://bucket/a")


def test_permission_denied_is_said_after_one_new_login_and_shows_no_credentials(
    s3_bucket: str, tmp_path: Path, fault_proxy: _StartProxy
) -> None:
    proxy = fault_proxy(Fault("403"))
    uri = join(s3_bucket, "a")
    uses: dict[str, Callable[[], object]] = {
        "s3:GetObject": lambda: storage.read_bytes(uri),
        "s3:PutObject": lambda: storage.write_bytes(uri, b"x"),
        "s3:ListBucket": lambda: storage.list_files(uri),
        "s3:DeleteObject": lambda: storage.delete(uri),
        "permission denied (403);": lambda: storage.size(uri),
    }
    for text, use in uses.items():
        with pytest.raises(StorageError) as caught:
            use()
        assert text in str(caught.value)
        assert uri in str(caught.value)
        assert "AWS_PROFILE" in str(caught.value)
        assert "mock-secret-key" not in str(caught.value)
        assert "mock-key-id" not in str(caught.value)
    assert proxy.struck["403"] == proxy.num_requests == 2 * len(uses)


def test_a_missing_object_stays_missing_for_those_who_may_not_list(s3_bucket: str, fault_proxy: _StartProxy) -> None:
    fault_proxy(Fault("403", path="list-type"))
    with pytest.raises(storage.NotFoundError, match=r"cannot read .*: it does not exist"):
        storage.size(join(s3_bucket, "none"))


def test_expired_credentials_are_read_anew_once(s3_bucket: str, fault_proxy: _StartProxy) -> None:
    uri = join(s3_bucket, "a")
    storage.write_bytes(uri, b"x")
    for kind in ("expired", "403"):
        proxy = fault_proxy(Fault(kind, times=1))
        assert storage.read_bytes(uri) == b"x"
        assert proxy.struck == {kind: 1}
    proxy = fault_proxy(Fault("expired"))
    with pytest.raises(StorageError, match=r"refused the credentials \(400 ExpiredToken\); renew them"):
        storage.read_bytes(uri)
    assert proxy.struck == {"expired": 2}


def test_missing_credentials_are_said_at_once(s3_bucket: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    monkeypatch.delenv("AWS_SECRET_ACCESS_KEY")
    with pytest.raises(StorageError, match="no usable credentials"):
        storage.read_bytes(join(s3_bucket, "a"))


def test_a_read_fetches_no_byte_twice(
    s3_bucket: str, fault_proxy: _StartProxy, monkeypatch: pytest.MonkeyPatch
) -> None:
    uri = join(s3_bucket, "a")
    storage.write_bytes(uri, _DATA)
    proxy = fault_proxy()
    assert storage.read_bytes(uri) == _DATA
    assert (proxy.num_requests, proxy.num_body_bytes) == (1, len(_DATA))
    assert storage.read_bytes(uri, 10, 30) == _DATA[10:30]
    assert (proxy.num_requests, proxy.num_body_bytes) == (2, len(_DATA) + 20)
    monkeypatch.setattr(storage.s3, "PART_BYTES", 30_000)
    assert storage.read_bytes(uri) == _DATA
    assert (proxy.num_requests, proxy.num_body_bytes) == (6, 2 * len(_DATA) + 20)


def test_ranges_cost_one_request_each_and_their_bytes(s3_bucket: str, fault_proxy: _StartProxy) -> None:
    uri = join(s3_bucket, "a")
    storage.write_bytes(uri, _DATA)
    proxy = fault_proxy()
    assert storage.read_bytes(uri, 99_000, 99_064) == _DATA[99_000:99_064]
    assert (proxy.num_requests, proxy.num_body_bytes) == (1, 64), "no HEAD first, and no second look"
    proxy.set_faults()
    spans = [(index * 9000, index * 9000 + 50) for index in range(11)]
    assert storage.read_ranges(uri, [*spans, (5, 5)]) == [*(_DATA[start:end] for start, end in spans), b""]
    assert (proxy.num_requests, proxy.num_body_bytes) == (11, 550)


@pytest.mark.parametrize("kind", [*_ANY_KIND, "truncate"])
def test_ranges_and_sizes_survive_faults_in_a_row(kind: str, s3_bucket: str, fault_proxy: _StartProxy) -> None:
    uri = join(s3_bucket, "a")
    storage.write_bytes(uri, _DATA)
    proxy = fault_proxy(Fault(kind, times=24))
    spans = [(index * 9000, index * 9000 + 50) for index in range(11)]
    assert storage.read_ranges(uri, spans) == [_DATA[start:end] for start, end in spans]
    assert proxy.struck == {kind: 24}
    proxy = fault_proxy(Fault(kind, times=6))
    assert storage.list_sizes(s3_bucket) == {"a": len(_DATA)}
    assert proxy.struck == {kind: 6}
