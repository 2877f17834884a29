"""What travels between feed workers and training workers: micro-batches as rows, errors as themselves."""

from pathlib import Path

import pyarrow as pa
import pytest

from longspan.errors import DataError, StorageError
from longspan.feed.batch import MicroBatch
from longspan.feed.ray_data import make_table, read_table
from longspan.feed.source import FeedSpec, feed_spec
from tests.feed.comparing import assert_same
from tests.feed.conftest import make_corpus, staged


def test_micro_batches_come_back_from_their_rows(spec: FeedSpec, batches: list[MicroBatch]) -> None:
    order = [3, 0, 7]
    table = make_table(order, spec)
    assert all(column.num_chunks == 1 for column in table.columns)
    for found, index in zip(read_table(table), order, strict=True):
        assert_same(found, batches[index])
    for found, index in zip(read_table(table.slice(1)), order[1:], strict=True):
        assert_same(found, batches[index])


def test_an_error_travels_as_a_row_after_the_good_ones(tmp_path: Path) -> None:
    recipe = staged(str(tmp_path / "run"), make_corpus(str(tmp_path / "corpus")), part_samples=8)
    spec = feed_spec(recipe)
    Path(spec.plan_uri, "part-00000001.parquet").unlink()
    table = make_table([2, 3, 4, 8], spec)
    stream = read_table(table)
    assert [next(stream).first_sample for _ in range(2)] == [4, 6]
    with pytest.raises(DataError, match=r"part-00000001\.parquet: named in plan\.json, but missing"):
        next(stream)
    assert [batch.first_sample for batch in read_table(table.slice(3))] == [16]


def test_an_error_is_of_the_class_that_it_was(spec: FeedSpec) -> None:
    table = make_table([0], spec)
    error = pa.array(["StorageError: the store is away: try again"])
    with pytest.raises(StorageError, match=r"^the store is away: try again$"):
        next(read_table(table.set_column(table.column_names.index("error"), "error", error)))
