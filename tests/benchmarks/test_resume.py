"""The resume benchmark: the requests of a start do not depend on its place, and its sample is the right one."""

from pathlib import Path

from tests.benchmarks.resume import PLACES, run


def test_a_start_makes_as_many_requests_at_every_place(tmp_path: Path) -> None:
    rows = run(tiny=True, repeats=1, python=None, output=tmp_path)
    assert [row["place"] for row in rows] == 2 * list(PLACES)
    remote = [row for row in rows if row["store"] == "s3"]
    assert len({row["requests"] for row in remote}) == 1
    assert remote[0]["requests"] > 0
    assert all(row["seconds"]["median"] > 0 for row in rows)
    assert len({row["token_sum"] for row in remote}) == len(PLACES)
