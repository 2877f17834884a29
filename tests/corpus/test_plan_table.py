"""The stored plan: any slice of it is what was planned, and reading it touches no more than it must."""

import dataclasses
import json
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest

from longspan import storage
from longspan.corpus import plan_table
from longspan.corpus.plan_table import PlanInfo, PlanReader, PlanRow, part_name, read_plan_info, write_plan
from longspan.errors import DataError
from longspan.sampling.plan import PlanPart
from tests.s3 import Fault

NAMES = ("books", "code")
PART = 100


def make_part(first: int, samples: int, seed: int = 0) -> PlanPart:
    """Samples of 1 to 5 spans, drawn by the number of the part's first sample."""
    rng = np.random.default_rng([seed, first])
    counts = rng.integers(1, 6, samples)
    spans = int(counts.sum())
    return PlanPart(
        first_sample=first,
        source=rng.integers(0, 2, samples).astype(np.int16),
        span_offsets=np.concatenate([[0], np.cumsum(counts)]).astype(np.int64),
        document=rng.integers(0, 2**40, spans),
        offset=rng.integers(0, 2**45, spans),
        length=rng.integers(1, 13, spans).astype(np.int32),
        epoch=rng.integers(0, 3, samples).astype(np.int32),
    )


def parts(num_samples: int, seed: int = 0) -> Iterator[PlanPart]:
    for first in range(0, num_samples, PART):
        yield make_part(first, min(PART, num_samples - first), seed)


def write(uri: str, num_samples: int = 1050, seed: int = 0, **changes: Any) -> PlanInfo:
    values = {"sample_length": 64, "num_samples": num_samples, "metadata": {"manifest": "abc"}, **changes}
    return write_plan(uri, parts(num_samples, seed), NAMES, **values)


@pytest.fixture(scope="module")
def stored(tmp_path_factory: pytest.TempPathFactory) -> str:
    uri = str(tmp_path_factory.mktemp("run") / "plan")
    write(uri)
    return uri


def assert_rows(rows: list[PlanRow], start: int, stop: int, seed: int = 0) -> None:
    assert [row.sample for row in rows] == list(range(start, stop))
    made = {first: make_part(first, PART, seed) for first in {row.sample // PART * PART for row in rows}}
    for row in rows:
        part = made[row.sample // PART * PART]
        own = row.sample - part.first_sample
        spans = slice(part.span_offsets[own], part.span_offsets[own + 1])
        assert row.source == NAMES[part.source[own]]
        assert row.epoch == part.epoch[own]
        for found, column in (
            (row.documents, part.document),
            (row.offsets, part.offset),
            (row.lengths, part.length),
        ):
            assert found.dtype == column.dtype
            assert found.tolist() == column[spans].tolist()


@pytest.mark.parametrize(("start", "stop"), [(0, 1), (0, 0), (100, 100), (90, 110), (99, 101), (50, 350), (999, 1000)])
def test_any_slice_is_what_was_planned(stored: str, start: int, stop: int) -> None:
    assert_rows(PlanReader(stored).rows(start, stop), start, stop)


def test_the_last_part_may_be_short(stored: str) -> None:
    rows = PlanReader(stored).rows(1049, 1050)
    part = make_part(1000, 50)
    assert rows[0].documents.tolist() == part.document[part.span_offsets[49] :].tolist()


def test_the_info_says_what_was_written(stored: str, tmp_path: Path) -> None:
    info = read_plan_info(stored)
    assert (info.num_samples, info.part_samples, info.sample_length, info.num_parts) == (1050, PART, 64, 11)
    assert (info.source_names, info.metadata) == (NAMES, {"manifest": "abc"})
    sizes = storage.list_sizes(stored)
    assert [sizes[part_name(number)] for number in range(11)] == info.part_bytes.tolist()
    written = write(str(tmp_path / "again"))
    assert written.fingerprint == info.fingerprint
    others = [
        write(str(tmp_path / "other"), seed=1),
        write(str(tmp_path / "other"), sample_length=65),
        write(str(tmp_path / "other"), metadata={"manifest": "abd"}),
    ]
    assert len({info.fingerprint, *(other.fingerprint for other in others)}) == 4


def test_is_plain_parquet(stored: str) -> None:
    table = pq.read_table(Path(stored, "part-00000003.parquet"))
    assert table.column_names == ["sample", "source", "epoch", "documents", "offsets", "lengths"]
    assert table["sample"].to_pylist() == list(range(300, 400))


def test_the_same_plan_gives_the_same_bytes(stored: str, tmp_path: Path) -> None:
    write(str(tmp_path))
    for name in storage.list_files(stored):
        assert (tmp_path / name).read_bytes() == Path(stored, name).read_bytes()


def test_parts_are_streamed(tmp_path: Path) -> None:
    """When a part is asked for, all but the one before it are stored."""

    def watched() -> Iterator[PlanPart]:
        for number, part in enumerate(parts(500)):
            assert all((tmp_path / part_name(before)).exists() for before in range(number - 1))
            assert not (tmp_path / "plan.json").exists()
            yield part

    assert write_plan(str(tmp_path), watched(), NAMES, 64, 500, {}).num_parts == 5


def test_an_interrupted_rewrite_leaves_no_plan(tmp_path: Path) -> None:
    write(str(tmp_path))

    def broken() -> Iterator[PlanPart]:
        yield make_part(0, PART, seed=1)
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_plan(str(tmp_path), broken(), NAMES, 64, 1050, {})
    with pytest.raises(DataError, match=r"plan\.json: there is no sample plan"):
        PlanReader(str(tmp_path))
    write(str(tmp_path), seed=1)
    assert_rows(PlanReader(str(tmp_path)).rows(0, 300), 0, 300, seed=1)


@pytest.mark.parametrize(
    "wrong",
    [
        [],
        [make_part(0, PART)],
        [make_part(0, PART), make_part(PART, 99), make_part(199, 51)],
        [make_part(0, PART), make_part(200, PART)],
        [make_part(0, PART), make_part(PART, 150)],
    ],
)
def test_refuses_parts_that_do_not_add_up(tmp_path: Path, wrong: list[PlanPart]) -> None:
    with pytest.raises(DataError, match=r"a part of \d+ samples|the parts hold \d+ samples, not 250"):
        write_plan(str(tmp_path), wrong, NAMES, 64, 250, {})
    assert not (tmp_path / "plan.json").exists()


def test_a_row_costs_its_own_part_only_and_once(s3_bucket: str, fault_proxy: Callable[..., Any]) -> None:
    uri = f"{s3_bucket}/run/plan"
    info = write(uri)
    proxy = fault_proxy()
    reader = PlanReader(uri)
    assert (proxy.num_requests, proxy.num_body_bytes) == (1, storage.size(f"{uri}/plan.json"))
    for first in (700, 0, 950):
        proxy.set_faults()
        assert_rows(reader.rows(first, first + 10), first, first + 10)
        assert (proxy.num_requests, proxy.num_body_bytes) == (1, info.part_bytes[first // PART])
        assert_rows(reader.rows(first + 20, first + 30), first + 20, first + 30)
        assert proxy.num_requests == 1


def test_threads_share_one_fetch(s3_bucket: str, fault_proxy: Callable[..., Any]) -> None:
    write(s3_bucket)
    reader = PlanReader(s3_bucket)
    proxy = fault_proxy()
    with ThreadPoolExecutor(8) as pool:
        found = list(pool.map(lambda i: reader.rows(i, i + 1), range(150, 250)))
    assert_rows([row for rows in found for row in rows], 150, 250)
    assert proxy.num_requests == 2


def test_sample_a_billion_costs_as_much_as_sample_0(s3_bucket: str, fault_proxy: Callable[..., Any]) -> None:
    """A plan of 2 * 10^9 samples of which only two parts are there."""
    part_samples, number = 16384, 10**9 // 16384
    sizes, digests = [1000] * 122_071, ["ab" * 16] * 122_071
    for i in (0, number):
        part = dataclasses.replace(make_part(i * part_samples, part_samples), first_sample=i * part_samples)
        data = plan_table._part_bytes(part, NAMES)
        storage.write_bytes(f"{s3_bucket}/{part_name(i)}", data)
        sizes[i], digests[i] = len(data), storage.digest_bytes(data).partition(":")[2]
    values = {
        "version": 3,
        "num_samples": 2 * 10**9,
        "part_samples": part_samples,
        "sample_length": 64,
        "source_names": list(NAMES),
        "metadata": {},
        "part_bytes": sizes,
        "part_digests": "".join(digests),
    }
    storage.write_bytes(f"{s3_bucket}/plan.json", plan_table._info_bytes(values))
    costs = []
    for sample in (0, 10**9):
        proxy = fault_proxy()
        (row,) = PlanReader(s3_bucket).rows(sample, sample + 1)
        assert row.sample == sample
        costs.append(proxy.num_requests)
    assert costs == [2, 2], "plan.json and one part"
    with pytest.raises(DataError, match=r"part-00000001\.parquet: named in plan\.json, but missing"):
        PlanReader(s3_bucket).rows(part_samples, part_samples + 1)


def test_no_more_parts_are_kept_than_a_few(stored: str) -> None:
    reader = PlanReader(stored)
    reader.rows(0, 1050)
    assert list(reader._kept) == [7, 8, 9, 10]


@pytest.mark.parametrize(("start", "stop"), [(-1, 3), (5, 4), (1040, 1051)])
def test_rejects_rows_outside_the_plan(stored: str, start: int, stop: int) -> None:
    with pytest.raises(DataError, match=f"rows {start} to {stop} asked for, but the plan has 1050 samples"):
        PlanReader(stored).rows(start, stop)


def test_rejects_a_missing_or_damaged_info(stored: str, tmp_path: Path) -> None:
    path = tmp_path / "plan.json"
    with pytest.raises(DataError, match=r"plan\.json: there is no sample plan"):
        read_plan_info(str(tmp_path))
    text = Path(stored, "plan.json").read_text()
    for damage, message in (
        (text[:-50], "not valid JSON"),
        ("[1]", "not a sample plan"),
        (text.replace('"version": 3', '"version": "x"'), "not a sample plan"),
        (text.replace('"version": 3', '"version": 2'), "version 2, made by another longspan; this one makes version 3"),
        (text.replace('"num_samples": 1050', '"num_samples": 1051'), "does not have its fingerprint"),
        (text.replace('"manifest": "abc"', '"manifest": "abd"'), "does not have its fingerprint"),
        (json.dumps({"version": 3}), "does not have its fingerprint"),
    ):
        path.write_text(damage)
        with pytest.raises(DataError, match=rf"plan\.json: .*{message}"):
            read_plan_info(str(tmp_path))


def test_every_flipped_byte_of_a_part_is_found(tmp_path: Path) -> None:
    write(str(tmp_path), 150)
    path = tmp_path / part_name(1)
    data = path.read_bytes()
    for at in np.random.default_rng(0).integers(0, len(data), 60):
        damaged = bytearray(data)
        damaged[at] ^= 1 << int(at) % 8
        path.write_bytes(damaged)
        with pytest.raises(DataError, match=r"part-00000001\.parquet: not the part that was written: expected"):
            PlanReader(str(tmp_path)).rows(100, 101)
    assert_rows(PlanReader(str(tmp_path)).rows(0, 100), 0, 100)


def test_a_missing_part_or_one_of_another_place_is_named(tmp_path: Path) -> None:
    write(str(tmp_path))
    (tmp_path / part_name(3)).write_bytes((tmp_path / part_name(2)).read_bytes())
    with pytest.raises(DataError, match=r"part-00000003\.parquet: not the part that was written"):
        PlanReader(str(tmp_path)).rows(300, 301)
    (tmp_path / part_name(3)).unlink()
    with pytest.raises(DataError, match=r"part-00000003\.parquet: named in plan\.json, but missing"):
        PlanReader(str(tmp_path)).rows(300, 301)


def test_survives_a_store_that_answers_with_errors(s3_bucket: str, fault_proxy: Callable[..., Any]) -> None:
    proxy = fault_proxy(Fault("503", times=2), Fault("truncate", times=1, method="GET"), Fault("flip", times=2))
    write(s3_bucket)
    assert_rows(PlanReader(s3_bucket).rows(100, 110), 100, 110)
    assert proxy.struck["503"] == 2
    assert proxy.struck["truncate"] == 1
