"""Units: the same for the same files, no piece lost, and as large as asked for where a file can be divided."""

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from longspan.config.corpus import Corpus, InterleavedSource
from longspan.corpus.manifest import ShardInfo
from longspan.corpus.units import Piece, _groups, list_units, window_units
from longspan.errors import DataError


def corpus(source: dict[str, Any], unit_bytes: int) -> Corpus:
    needles = {"type": "needles", "name": "needles", "text_source": "a", "length": 100, "documents": 7}
    values = {"output": "x", "tokenizer": {"path": "x"}, "sources": [{"name": "a", **source}, needles]}
    return Corpus.model_validate({**values, "unit_bytes": unit_bytes})


def bounds(corpus: Corpus) -> list[list[tuple[str, int, int]]]:
    units = list_units(corpus)["a"]
    return [[(Path(piece.uri).name, piece.begin, piece.end) for piece in unit.pieces] for unit in units]


@given(sizes=st.lists(st.integers(0, 50)), limit=st.integers(1, 60))
def test_groups_keep_order_and_limit(sizes: list[int], limit: int) -> None:
    pieces = [Piece(str(number), size, 0, size, size) for number, size in enumerate(sizes)]
    groups = list(_groups(pieces, limit))
    assert [piece for group in groups for piece in group] == pieces
    totals = [sum(piece.num_bytes for piece in group) for group in groups]
    assert all(total <= limit or len(group) == 1 for total, group in zip(totals, groups, strict=True))
    assert all(total + group[0].num_bytes > limit for total, group in zip(totals[:-1], groups[1:], strict=True))


def test_small_files_share_a_unit(tmp_path: Path) -> None:
    for name, size in (("a", 40), ("b", 60), ("c", 0), ("d", 150), ("e", 1)):
        (tmp_path / name).write_text("x" * size)
    found = list_units(corpus({"paths": [str(tmp_path)]}, 100))["a"]
    assert [[Path(piece.uri).name for piece in unit.pieces] for unit in found] == [["a", "b", "c"], ["d"], ["e"]]
    assert [unit.num_bytes for unit in found] == [100, 150, 1]
    assert [unit.name for unit in found] == ["a-00000", "a-00001", "a-00002"]


def test_plain_lines_are_cut_and_archives_are_not(tmp_path: Path) -> None:
    for name, size in (("a.jsonl", 250), ("b.jsonl", 30), ("c.jsonl.gz", 250), ("d.jsonl.zst", 20)):
        (tmp_path / name).write_bytes(b"x" * size)
    assert bounds(corpus({"type": "jsonl", "paths": [str(tmp_path)]}, 100)) == [
        [("a.jsonl", 0, 100)],
        [("a.jsonl", 100, 200)],
        [("a.jsonl", 200, 250), ("b.jsonl", 0, 30)],
        [("c.jsonl.gz", 0, 250)],
        [("d.jsonl.zst", 0, 20)],
    ]


def test_parquet_is_cut_between_row_groups(tmp_path: Path) -> None:
    rows = pa.table({"text": [f"{number:03d}" * 100 for number in range(10)], "other": ["y" * 999] * 10})
    for name, size in (("a.parquet", 2), ("b.parquet", 10)):
        file = tmp_path / name
        pq.write_table(
            rows, file, row_group_size=size, use_dictionary=False, compression="gzip", write_statistics=False
        )
    source = {"type": "parquet", "paths": [str(tmp_path)]}
    # Two rows have 600 bytes of text and some of Parquet's own; the other column and the compression do not count.
    assert bounds(corpus(source, 1500)) == [
        [("a.parquet", 0, 2)],
        [("a.parquet", 2, 4)],
        [("a.parquet", 4, 5)],
        [("b.parquet", 0, 1)],
    ]
    assert bounds(corpus(source, 1)) == [[("a.parquet", n, n + 1)] for n in range(5)] + [[("b.parquet", 0, 1)]]
    assert bounds(corpus(source, 10**6)) == [[("a.parquet", 0, 5), ("b.parquet", 0, 1)]]


def test_synthetic_documents_are_cut_by_their_tokens(tmp_path: Path) -> None:
    (tmp_path / "a").write_text("x")
    for unit_bytes, expected in ((1, 7), (800, 4), (1199, 4), (1200, 3), (10**6, 1)):
        units = list_units(corpus({"paths": [str(tmp_path)]}, unit_bytes))["needles"]
        assert len(units) == expected
        numbers = [number for unit in units for number in range(*unit.documents)]
        assert numbers == list(range(7))
        assert sum(unit.num_bytes for unit in units) == 7 * 400


def test_tables_are_cut_by_their_mean_length_and_windows_come_later() -> None:
    tables = {"type": "synl", "name": "t", "documents": 7, "lengths": [100, 301]}
    windows = {"type": "interleaved", "name": "w", "text_source": "a", "window": 9}
    values = {"output": "x", "tokenizer": {"path": "x"}, "unit_bytes": 1608}
    sources = [tables, windows, {"name": "a", "paths": [__file__]}]
    units = list_units(Corpus.model_validate({**values, "sources": sources}))
    assert [unit.documents for unit in units["t"]] == [(0, 2), (2, 4), (4, 6), (6, 7)]
    assert units["w"] == []


def test_names_sort_as_numbers_however_many_units_there_are() -> None:
    values = {"output": "x", "tokenizer": {"path": "x"}, "unit_bytes": 1}
    needles = {"type": "needles", "name": "n", "text_source": "a", "length": 1, "documents": 100_001}
    config = Corpus.model_validate({**values, "sources": [{"name": "a", "paths": [__file__]}, needles]})
    names = [unit.name for unit in list_units(config)["n"]]
    assert (names[0], names[-1]) == ("n-000000", "n-100000")
    assert sorted(names) == names


@given(
    sizes=st.lists(st.tuples(st.integers(1, 9), st.integers(0, 40)), min_size=1),
    windows=st.lists(st.integers(1, 20)),
    num_bos=st.integers(0, 1),
    unit_bytes=st.integers(1, 300),
)
def test_windows_lie_in_the_shards_of_their_unit(
    sizes: list[tuple[int, int]], windows: list[int], num_bos: int, unit_bytes: int
) -> None:
    """Shards of some documents each, of one token of text and more."""
    shards = [
        ShardInfo(str(number), "a", documents, documents * (1 + num_bos) + more, 1, "", 0)
        for number, (documents, more) in enumerate(sizes)
    ]
    text = [documents + more for documents, more in sizes]
    source = InterleavedSource(type="interleaved", name="c", text_source="a", window=20)
    ends = np.cumsum(windows, dtype=np.int64)
    filled = np.array(windows, np.int64)[ends <= sum(text)]
    if not filled.size:
        with pytest.raises(DataError, match=rf"source c: text of a: {sum(text)} tokens do not fill a window"):
            window_units(source, shards, num_bos, filled, unit_bytes)
        return
    units = window_units(source, shards, num_bos, filled, unit_bytes)
    assert [number for unit in units for number in range(*unit.documents)] == list(range(filled.size))
    for unit in units:
        assert list(unit.windows) == filled[slice(*unit.documents)].tolist()
        numbers = [int(shard.file) for shard in unit.text]
        before = sum(text[: numbers[0]])
        begin, end = (int(filled[:number].sum()) for number in unit.documents)
        assert numbers == list(range(numbers[0], numbers[-1] + 1))
        assert before + unit.text_begin == begin < before + text[numbers[0]]
        assert before + sum(text[numbers[0] : numbers[-1]]) < end <= before + sum(text[n] for n in numbers)
        assert len(unit.windows) == 1 or unit.num_bytes <= unit_bytes
