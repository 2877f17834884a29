"""The stored plan: any slice of it is what was planned, and reading it touches no more than it must."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from longspan import storage
from longspan.corpus import plan_table
from longspan.corpus.plan_table import PlanRow, read_plan_metadata, read_plan_rows, write_plan
from longspan.errors import DataError
from longspan.sampling.plan import Plan, build_plan
from tests.s3 import Fault


def make_plan(steps: int = 1000, seed: int = 0) -> Plan:
    length = np.random.default_rng(1).integers(1, 90, 60).astype(np.int32)
    return build_plan(
        np.repeat(np.arange(2, dtype=np.int16), 30),
        length,
        ["books", "code"],
        mix=[(0, {"books": 0.7, "code": 0.3})],
        steps=steps,
        global_batch_size=10,
        sample_length=64,
        upsample=None,
        seed=seed,
    )


PLAN = make_plan()


@pytest.fixture(scope="module")
def stored(tmp_path_factory: pytest.TempPathFactory) -> str:
    uri = str(tmp_path_factory.mktemp("run") / "plan.parquet")
    write_plan(uri, PLAN, {"recipe": "abc"})
    return uri


def assert_rows(rows: list[PlanRow], plan: Plan, start: int, stop: int) -> None:
    assert [row.sample for row in rows] == list(range(start, stop))
    for row in rows:
        spans = slice(plan.span_offsets[row.sample], plan.span_offsets[row.sample + 1])
        assert row.source == plan.source_names[plan.source[row.sample]]
        for found, column in (
            (row.documents, plan.span_document),
            (row.starts, plan.span_start),
            (row.lengths, plan.span_length),
        ):
            assert found.dtype == np.int32
            assert found.tolist() == column[spans].tolist()


@pytest.mark.parametrize(
    ("start", "stop"),
    [(0, 1), (0, 0), (4096, 4096), (4090, 4100), (4096, 4097), (4000, 8200), (9999, 10_000), (0, 10_000)],
)
def test_any_slice_is_what_was_planned(stored: str, start: int, stop: int) -> None:
    assert_rows(read_plan_rows(stored, start, stop), PLAN, start, stop)


def test_metadata_is_kept_with_the_fingerprint(stored: str) -> None:
    assert read_plan_metadata(stored) == {"recipe": "abc", "fingerprint": PLAN.fingerprint, "num_samples": "10000"}


def test_is_plain_parquet(stored: str) -> None:
    table = pq.read_table(stored)
    assert table.column_names == ["sample", "source", "documents", "starts", "lengths"]
    assert pq.read_metadata(stored).row_group(0).num_rows == 4096


def test_the_same_plan_gives_the_same_bytes(stored: str, tmp_path: Path) -> None:
    write_plan(str(tmp_path / "again.parquet"), make_plan(), {"recipe": "abc"})
    assert (tmp_path / "again.parquet").read_bytes() == Path(stored).read_bytes()


def test_row_groups_are_fetched_alone_and_once(s3_bucket: str, fault_proxy: Callable[..., Any]) -> None:
    uri = f"{s3_bucket}/run/plan.parquet"
    write_plan(uri, PLAN, {})
    total = storage.size(uri)
    proxy = fault_proxy()
    read_plan_rows(uri, 0, 0)  # Fetches the footer, with what else lies in the last 64 KiB.
    footer = proxy.num_body_bytes
    assert_rows(read_plan_rows(uri, 5000, 5010), PLAN, 5000, 5010)
    assert 0 < proxy.num_body_bytes - footer < 0.5 * total
    requests = proxy.num_requests
    assert_rows(read_plan_rows(uri, 5020, 5030), PLAN, 5020, 5030)
    assert proxy.num_requests == requests
    read_plan_rows(uri, 0, 5)
    assert proxy.num_requests > requests


def test_no_more_row_groups_are_kept_than_allowed(stored: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(plan_table, "_CACHED_ROW_GROUPS", 2)
    read_plan_rows(stored, 0, 10_000)
    assert len(plan_table._row_groups) == 2


def test_a_rewritten_plan_is_not_read_from_the_cache(tmp_path: Path) -> None:
    uri = str(tmp_path / "plan.parquet")
    for seed in (0, 1):
        plan = make_plan(steps=5, seed=seed)
        write_plan(uri, plan, {})
        assert_rows(read_plan_rows(uri, 0, 50), plan, 0, 50)


@pytest.mark.parametrize(("start", "stop"), [(-1, 3), (5, 4), (9_990, 10_001)])
def test_rejects_rows_outside_the_plan(stored: str, start: int, stop: int) -> None:
    with pytest.raises(DataError, match=f"rows {start} to {stop} asked for, but the plan has 10000 samples"):
        read_plan_rows(stored, start, stop)


def test_rejects_a_missing_plan_or_another_file(tmp_path: Path) -> None:
    uri = str(tmp_path / "plan.parquet")
    with pytest.raises(DataError, match=r"plan\.parquet: there is no sample plan"):
        read_plan_rows(uri, 0, 1)
    Path(uri).write_bytes(b"something")
    with pytest.raises(DataError, match="not a readable Parquet file"):
        read_plan_metadata(uri)
    pq.write_table(pa.table({"a": [1]}), uri)
    with pytest.raises(DataError, match=r"columns .*, not those of a sample plan"):
        read_plan_rows(uri, 0, 1)


def rewrite(stored: str, uri: str, edit: Callable[[list[dict[str, Any]]], Any], rows: int = 4096) -> None:
    table = pq.read_table(stored)
    values = table.to_pylist()
    edit(values)
    pq.write_table(pa.Table.from_pylist(values, schema=table.schema), uri, row_group_size=rows)


def test_rejects_rows_out_of_place(stored: str, tmp_path: Path) -> None:
    uri = str(tmp_path / "a.parquet")
    rewrite(stored, uri, lambda rows: rows.insert(0, rows.pop(1)))
    with pytest.raises(DataError, match="rows 0 to 2 do not hold these samples"):
        read_plan_rows(uri, 0, 2)
    uri = str(tmp_path / "b.parquet")
    rewrite(stored, uri, lambda rows: rows[1]["starts"].append(3))
    with pytest.raises(DataError, match="a sample has lists of unequal length"):
        read_plan_rows(uri, 0, 2)
    uri = str(tmp_path / "c.parquet")
    rewrite(stored, uri, lambda rows: None, rows=1000)
    with pytest.raises(DataError, match=r"row groups of \[1000\] rows, not of 4096"):
        read_plan_rows(uri, 0, 2)


def test_a_damaged_or_vanished_row_group_is_named(stored: str, tmp_path: Path) -> None:
    uri = str(tmp_path / "plan.parquet")
    data = bytearray(Path(stored).read_bytes())
    data[pq.read_metadata(stored).row_group(1).column(2).data_page_offset + 200] ^= 1
    Path(uri).write_bytes(data)
    assert_rows(read_plan_rows(uri, 0, 5), PLAN, 0, 5)
    with pytest.raises(DataError, match=r"plan\.parquet: row group 1 is damaged"):
        read_plan_rows(uri, 5000, 5005)
    Path(uri).unlink()
    with pytest.raises(DataError, match=r"plan\.parquet: the sample plan is gone"):
        read_plan_rows(uri, 9000, 9005)


def test_survives_a_store_that_answers_with_errors(s3_bucket: str, fault_proxy: Callable[..., Any]) -> None:
    uri = f"{s3_bucket}/plan.parquet"
    write_plan(uri, PLAN, {})
    proxy = fault_proxy(Fault("503", times=2), Fault("truncate", times=1, method="GET"))
    assert_rows(read_plan_rows(uri, 100, 110), PLAN, 100, 110)
    assert proxy.struck == {"503": 2, "truncate": 1}
