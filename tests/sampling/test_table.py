"""The corpus table: chunks of whole documents, long documents in chunks of their own."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from longspan.errors import DataError
from longspan.sampling.table import CorpusTable
from tests.sampling.corpora import table_of


def test_chunks_hold_whole_documents_and_long_ones_have_their_own() -> None:
    table = table_of([30, 30, 10, 150, 5], [7])
    assert table.chunk_documents.tolist() == [2, 1, 1, 0, 0, 1, 1]
    assert table.chunk_document.tolist() == [0, 2, 3, 4, 4, 4, 5]
    assert table.chunk_offset.tolist() == [0, 60, 70, 134, 198, 220, 225]
    assert table.chunk_tokens.tolist() == [60, 10, 64, 64, 22, 5, 7]
    assert table.chunk_source.tolist() == [0] * 6 + [1]
    assert table.units.tolist() == [0, 1, 2, 5, 6]
    assert (table.num_documents, table.num_chunks, table.num_tokens) == (6, 7, 232)
    assert table.source_tokens.tolist() == [225, 7]
    assert table.source_documents.tolist() == [5, 1]


@given(lengths=st.lists(st.lists(st.integers(1, 200), max_size=20), min_size=1, max_size=3))
def test_tables_add_up(lengths: list[list[int]]) -> None:
    table = table_of(*lengths)
    assert table.source_tokens.tolist() == [sum(source) for source in lengths]
    assert table.source_documents.tolist() == [len(source) for source in lengths]
    assert table.chunk_tokens.sum() == table.num_tokens
    assert (table.chunk_tokens <= 64).all()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"chunk_offset": np.zeros(1, np.int64)}, "columns of"),
        ({"chunk_source": np.array([0, 1, 0], np.int16)}, "not neighbours"),
        ({"chunk_documents": np.array([1, 1, 2], np.int32)}, "do not fit together"),
        ({"chunk_document": np.array([0, 2, 2], np.int64)}, "do not fit together"),
    ],
)
def test_refuses_columns_that_do_not_fit(changes: dict[str, Any], message: str) -> None:
    table = table_of([60, 60, 60])
    with pytest.raises(DataError, match=message):
        replace(table, **changes)


def test_lengths_may_be_a_mapped_file(tmp_path: Path) -> None:
    table = table_of([60, 70, 5])
    table.length.tofile(tmp_path / "length")
    mapped = CorpusTable(
        table.source_names, table.chunk_source, table.chunk_document, table.chunk_documents, table.chunk_offset,
        np.memmap(tmp_path / "length", dtype=np.int32, mode="r"),
    )  # fmt: skip
    assert mapped.num_tokens == 135
