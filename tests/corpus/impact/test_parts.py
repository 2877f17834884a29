import tempfile
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from longspan.corpus.impact.parts import PartInfo, Unit, read_part, read_record, record_name, write_part, write_record
from longspan.errors import DataError

UNIT = Unit(number=2, first_document=5, offset=70, length=np.array([3, 1, 2], np.int32))
SCORES = np.array([0, 1.5, -2, 0, 1e-9, 1e6], np.float32)


@given(st.lists(st.floats(-1000, 1000, width=32), min_size=6, max_size=6))
def test_a_part_gives_back_its_scores_to_half_precision(values: list[float]) -> None:
    with tempfile.TemporaryDirectory() as folder:
        info = write_part(folder, UNIT, np.array(values, np.float32))
        part = read_part(folder, info)
    assert part.length.tolist() == [3, 1, 2]
    np.testing.assert_allclose(part.scores.astype(np.float64), values, rtol=1e-3, atol=1e-7)
    assert (info.first_document, info.documents, info.offset, info.tokens) == (5, 3, 70, 6)


def test_a_part_is_a_parquet_file_and_the_same_for_the_same_scores(tmp_path: Path) -> None:
    info = write_part(str(tmp_path / "a"), UNIT, SCORES)
    assert write_part(str(tmp_path / "b"), UNIT, SCORES) == info
    rows = pq.read_table(tmp_path / "a" / info.file).to_pylist()
    assert [(row["document"], row["length"], len(row["scores"])) for row in rows] == [(5, 3, 3), (6, 1, 1), (7, 2, 2)]
    assert rows[2]["scores"] == [0, 65504]  # what half precision cannot hold is held to its largest value
    negative = write_part(str(tmp_path / "c"), UNIT, np.where(SCORES == 0, -np.float32(0), SCORES))
    assert negative.digest == info.digest


def test_scores_that_are_no_numbers_are_refused(tmp_path: Path) -> None:
    scores = SCORES.copy()
    scores[3] = np.nan
    with pytest.raises(DataError, match=r"^document 6: token 0 has the score nan; .* try dtype float32"):
        write_part(str(tmp_path), UNIT, scores)


def test_a_damaged_part_is_found(tmp_path: Path) -> None:
    info = write_part(str(tmp_path), UNIT, SCORES)
    path = tmp_path / info.file
    data = path.read_bytes()
    path.write_bytes(data[:60] + bytes([data[60] ^ 1]) + data[61:])
    with pytest.raises(DataError, match=r"part-000002\.parquet: not the file that was prepared"):
        read_part(str(tmp_path), info)
    path.write_bytes(data)
    other = PartInfo(**{**info.__dict__, "first_document": 4})
    with pytest.raises(DataError, match="not the documents and tokens that the manifest says"):
        read_part(str(tmp_path), other)
    path.unlink()
    with pytest.raises(DataError, match="missing"):
        read_part(str(tmp_path), info)


def test_a_record_says_what_the_part_is_or_nothing(tmp_path: Path) -> None:
    info = write_part(str(tmp_path), UNIT, SCORES)
    write_record(str(tmp_path), 2, "f" * 32, info)
    path = tmp_path / record_name(2, "f" * 32)
    assert read_record(str(path)) == info
    for damaged in (b"", b"{", b"[]", path.read_bytes().replace(b"tokens", b"token")):
        path.write_bytes(damaged)
        assert read_record(str(path)) is None
