"""The feed benchmark: all contenders deliver the same tokens, and every figure is there.

MosaicML Streaming cannot be installed beside longspan, so the suite runs without it, as the script does then. Ray Data
is left to the script: tests/cluster runs the feed on it.
"""

from functools import partial
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

from tests.benchmarks.feed import reader_tokens, run
from tests.benchmarks.harness import Measured, in_turns, rates
from tests.benchmarks.material import make_corpus


def test_all_contenders_deliver_the_same_tokens(tmp_path: Path) -> None:
    rows = run(tiny=True, repeats=1, python=None, with_ray=False, output=tmp_path)
    local = [row for row in rows if row["store"] == "local"]
    remote = [row for row in rows if row["store"] == "s3"]
    assert {row["contender"] for row in local} == {
        "pyarrow",
        "pyarrow, zstd",
        "reader",
        "feed, contiguous",
        "feed, longrecipe",
    }
    assert {row["contender"] for row in remote} == {
        "pyarrow",
        "s3fs",
        "reader",
        "feed, contiguous",
        "feed, longrecipe",
    }
    for group in (local, remote):
        assert len({(row["tokens"], row["token_sum"]) for row in group}) == 1
        assert group[0]["token_sum"] > 0
    assert (tmp_path / "feed.json").read_text().count("MosaicML Streaming is missing") == 1


def test_the_plan_of_a_corpus_reads_every_token_once_in_another_order(tmp_path: Path) -> None:
    corpus = make_corpus(str(tmp_path), 64 * 256, 256, chunk_tokens=2048, shard_tokens=8192)
    samples = np.concatenate(list(reader_tokens(corpus)))
    shards = [pq.read_table(file)["tokens"] for file in sorted((tmp_path / "corpus" / "shards").iterdir())]
    stored = np.concatenate([shard.combine_chunks().flatten().to_numpy() for shard in shards])
    assert np.array_equal(np.sort(samples), np.sort(stored))
    assert not np.array_equal(samples, stored)


def test_ratios_are_taken_round_by_round() -> None:
    seconds = {"one": iter([9.0, 1.0, 2.0, 4.0]), "two": iter([9.0, 2.0, 4.0, 8.0])}

    def contender(name: str, check: bool) -> Measured:
        return Measured(10, next(seconds[name]), 1.0, 7 if check else -1)

    found = in_turns({name: partial(contender, name) for name in seconds}, 3)
    one, two = rates(found, "one")
    assert one["ratio"] == pytest.approx({"median": 1, "q1": 1, "q3": 1, "min": 1, "max": 1})
    assert two["ratio"] == pytest.approx({"median": 0.5, "q1": 0.5, "q3": 0.5, "min": 0.5, "max": 0.5})
    assert two["tokens_per_s"]["median"] == 2.5
    assert two["token_sum"] == 7
