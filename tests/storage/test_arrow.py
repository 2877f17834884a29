"""Parquet through Arrow's own S3 client and through ours."""

import io
import os
from collections.abc import Callable
from typing import BinaryIO, cast

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from longspan import storage
from longspan.errors import StorageError
from longspan.storage import NotFoundError, join
from tests.s3 import Fault, FaultProxy

_TABLE = pa.table({"ids": np.arange(50_000), "other": np.random.default_rng(0).random(50_000)})


def _write(uri: str) -> None:
    sink = io.BytesIO()
    pq.write_table(_TABLE, sink, row_group_size=5_000)
    storage.write_bytes(uri, sink.getvalue())


def test_arrow_reads_row_groups(root: str) -> None:
    uri = join(root, "shards/a.parquet")
    _write(uri)
    filesystem, path = storage.arrow_filesystem(uri)
    group = pq.ParquetFile(path, filesystem=filesystem).read_row_group(3, columns=["ids"])
    assert group.column("ids").to_pylist() == list(range(15_000, 20_000))


def test_arrow_survives_what_its_default_does_not(s3_bucket: str, fault_proxy: Callable[..., FaultProxy]) -> None:
    """Three tries are Arrow's default; so three failures in a row need ours."""
    uri = join(s3_bucket, "a")
    storage.write_bytes(uri, b"data")
    proxy = fault_proxy(Fault("503", times=3))
    filesystem, path = storage.arrow_filesystem(uri)
    with filesystem.open_input_file(path) as file:
        assert file.read() == b"data"
    assert proxy.struck == {"503": 3}


def test_arrow_is_told_region_scheme_and_endpoint(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("AWS_ENDPOINT_URL_S3", raising=False)
    monkeypatch.delenv("AWS_REGION", raising=False)
    monkeypatch.delenv("AWS_CA_BUNDLE", raising=False)
    monkeypatch.setenv("AWS_DEFAULT_REGION", "eu-north-1")
    filesystem, path = storage.arrow_filesystem("s3://bucket/a/b")
    options = filesystem.__reduce__()[1][0]
    assert (path, filesystem.region) == ("bucket/a/b", "eu-north-1")
    assert (options["scheme"], options["endpoint_override"]) == ("https", "")
    monkeypatch.setenv("AWS_REGION", "eu-west-1")
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://store:9000")
    filesystem, _ = storage.arrow_filesystem("s3://bucket")
    options = filesystem.__reduce__()[1][0]
    assert filesystem.region == "eu-west-1"
    assert (options["scheme"], options["endpoint_override"]) == ("http", "store:9000")
    assert options["access_key"] is None, "no credentials are handed over, so none are pickled"


@pytest.mark.parametrize("kind", ["503", "reset", "truncate"])
def test_parquet_through_open_input_survives_faults(
    kind: str, s3_bucket: str, fault_proxy: Callable[..., FaultProxy]
) -> None:
    uri = join(s3_bucket, "a.parquet")
    _write(uri)
    proxy = fault_proxy(Fault(kind, times=12))
    with storage.open_input(uri) as file:
        group = pq.ParquetFile(file, pre_buffer=True).read_row_group(3, columns=["ids"])
    assert group.column("ids").to_pylist() == list(range(15_000, 20_000))
    assert proxy.struck == {kind: 12}
    assert proxy.num_body_bytes < storage.size(uri), "only the footer and one column of one row group"


def test_errors_cross_arrow_unchanged(s3_bucket: str, fault_proxy: Callable[..., FaultProxy]) -> None:
    uri = join(s3_bucket, "a.parquet")
    _write(uri)
    with storage.open_input(uri) as file:
        parquet = pq.ParquetFile(file)
        fault_proxy(Fault("403"))
        with pytest.raises(StorageError, match=f"cannot read {uri}: permission denied"):
            parquet.read_row_group(3)


def test_an_open_file_stays_the_version_that_was_opened(s3_bucket: str) -> None:
    uri = join(s3_bucket, "a")
    storage.write_bytes(uri, b"0123456789")
    with storage.open_input(uri) as file:
        assert file.read(3) == b"012"
        storage.write_bytes(uri, b"abcdefghij")
        with pytest.raises(StorageError, match="it was replaced while being read"):
            file.read(3)


def test_a_missing_file_is_not_opened(root: str) -> None:
    with pytest.raises(NotFoundError, match="does not exist"):
        storage.open_input(join(root, "none"))


_MOVES = st.one_of(
    st.tuples(st.just("read"), st.integers(-1, 30)),
    st.tuples(st.just("readinto"), st.integers(0, 30)),
    st.tuples(st.just("set"), st.integers(0, 30)),
    st.tuples(st.just("cur"), st.integers(-5, 5)),
    st.tuples(st.just("end"), st.integers(-20, 5)),
)


def _play(file: BinaryIO, moves: list[tuple[str, int]]) -> list[object]:
    """What a file answers to these moves."""
    answers: list[object] = []
    for kind, number in moves:
        if kind == "read":
            answers.append(file.read(number))
        elif kind == "readinto":
            buffer = bytearray(number)
            answers.append((cast(io.RawIOBase, file).readinto(buffer), bytes(buffer)))
        else:
            whence = {"set": os.SEEK_SET, "cur": os.SEEK_CUR, "end": os.SEEK_END}[kind]
            target = {"set": 0, "cur": file.tell(), "end": 20}[kind] + number
            answers.append(file.seek(number, whence) if target >= 0 else "before the start")
        answers.append(file.tell())
    return answers


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(_MOVES, max_size=8))
def test_an_open_file_behaves_like_bytes_in_memory(s3_bucket: str, moves: list[tuple[str, int]]) -> None:
    data = bytes(range(20))
    uri = join(s3_bucket, "a")
    if not storage.exists(uri):
        storage.write_bytes(uri, data)
    with storage.open_input(uri) as file:
        assert file.readable()
        assert file.seekable()
        assert _play(file, moves) == _play(io.BytesIO(data), moves)


def test_seeking_before_the_start_is_an_error(s3_bucket: str) -> None:
    storage.write_bytes(join(s3_bucket, "a"), b"123")
    with storage.open_input(join(s3_bucket, "a")) as file, pytest.raises(ValueError, match="cannot seek to -1"):
        file.seek(-1)
