"""Records of units come back as they were written, or are refused."""

from pathlib import Path

import numpy as np
import pytest

from longspan import storage
from longspan.corpus.bad_rows import Tally
from longspan.corpus.records import UnitRecord, read_record, record_name, write_record
from longspan.corpus.writer import Document, write_shards
from longspan.errors import DataError

TALLY = Tally(rows=9, left_out={"short": 2, "not JSON": 1}, first=["a.jsonl, line 3: not valid JSON"])


def record(folder: Path, *lengths: int) -> UnitRecord:
    documents = [Document(np.arange(length, dtype=np.uint32)) for length in lengths]
    shards = list(write_shards(str(folder), "a", "a-00000", documents, 100, 40))
    return UnitRecord(shards, TALLY, np.array([0, 7]), np.array([2**40, 1]))


@pytest.mark.parametrize("lengths", [(), (30,), (30, 90, 20, 5, 100)])
def test_comes_back_as_it_was(tmp_path: Path, lengths: tuple[int, ...]) -> None:
    written = record(tmp_path, *lengths)
    name = record_name("a-00000", "0f")
    assert name == "units/a-00000.0f.npz"
    write_record(str(tmp_path), name, written)
    found = read_record(str(tmp_path), name)
    assert found.tally == TALLY
    assert (found.token_ids.tolist(), found.token_counts.tolist()) == ([0, 7], [2**40, 1])
    assert len(found.shards) == len(written.shards)
    for one, two in zip(found.shards, written.shards, strict=True):
        assert one.info == two.info
        assert one.length.tolist() == two.length.tolist()
        for field in one.chunks._fields:
            left, right = getattr(one.chunks, field), getattr(two.chunks, field)
            assert left.dtype == right.dtype
            assert left.tolist() == right.tolist()


def test_a_damaged_one_is_refused(tmp_path: Path) -> None:
    write_record(str(tmp_path), "units/a.npz", record(tmp_path, 30, 90))
    data = (tmp_path / "units" / "a.npz").read_bytes()
    middle = data.index(b"length.npy") + 60
    for damaged in (b"", data[:-1], data[:200], data[:middle] + bytes([data[middle] ^ 1]) + data[middle + 1 :]):
        (tmp_path / "units" / "a.npz").write_bytes(damaged)
        with pytest.raises(DataError, match=r"units/a\.npz: damaged \(.*\); delete it and run the same command again"):
            read_record(str(tmp_path), "units/a.npz")
    with pytest.raises(storage.NotFoundError):
        read_record(str(tmp_path), "units/b.npz")
