"""How long a start takes, and how many requests it makes, at different places of a plan.

    python -m tests.benchmarks.resume [--tiny] [--output DIR] [--peer-python PYTHON]

A start is everything from nothing to the first micro-batch: manifest, chunk table, plan, the sample's tokens. Of the
peer it is everything from a new StreamingDataset with a loaded state to its first sample. A proxy counts the requests
in a round of its own that is not timed; caches are empty at every start.
"""

import os
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import numpy as np
import pytest

from longspan.corpus.chunks import chunk_table
from longspan.corpus.manifest import load_manifest
from longspan.corpus.plan_table import PlanReader
from longspan.feed.source import Source
from longspan.positions import LongRecipe
from tests.benchmarks.feed import empty_cache, put_folder, spec_of, write_mds
from tests.benchmarks.harness import Row, arguments, report, spread
from tests.benchmarks.material import Corpus, make_corpus
from tests.benchmarks.peer import MISSING, Peer, open_peer
from tests.s3 import FaultProxy, clean_environment, new_bucket, serve_moto

PLACES = {"0": 0.0, "1 %": 0.01, "50 %": 0.5, "99 %": 0.99}
COLUMNS = ("store", "contender", "place", "seconds", "ratio_to_0", "chunks", "requests", "body_bytes")


def start(corpus: Corpus, sample: int) -> tuple[float, int]:
    """Seconds to the micro-batch of `sample`, and the sum of its tokens."""
    with empty_cache():
        spec = spec_of(corpus, LongRecipe())
        started = time.perf_counter()
        batch = Source(spec).micro_batch(sample)
        return time.perf_counter() - started, int(batch.input_ids.sum(dtype=np.int64))


def peer_start(peer: Peer, local: str, remote: str | None, sample: int) -> tuple[float, int]:
    answer = peer.ask("resume", local=local, remote=remote, sample=sample)
    return answer["seconds"], answer["token_sum"]


def measure(
    store: str,
    starts: dict[str, Callable[[int], tuple[float, int]]],
    num_samples: int,
    repeats: int,
    chunks: dict[str, int],
    requests: dict[str, dict[str, tuple[int, int]]],
) -> list[Row]:
    """All places and contenders in turns, after one round that is not counted."""
    samples = {place: min(num_samples - 1, round(share * num_samples)) for place, share in PLACES.items()}
    seconds: dict[str, dict[str, list[float]]] = {name: {place: [] for place in samples} for name in starts}
    sums: dict[tuple[str, str], int] = {}
    for turn in range(repeats + 1):
        for place, sample in samples.items():
            for name, begin in starts.items():
                taken, sums[name, place] = begin(sample)
                if turn > 0:
                    seconds[name][place].append(taken)
    rows = []
    for name, by_place in seconds.items():
        for place, values in by_place.items():
            base = by_place["0"]
            counted = requests.get(name, {}).get(place, (None, None))
            rows.append(
                {
                    "store": store,
                    "contender": name,
                    "place": place,
                    "sample": samples[place],
                    "seconds": spread(values),
                    "ratio_to_0": spread([value / first for value, first in zip(values, base, strict=True)]),
                    "chunks": chunks[place] if name == "feed" else None,
                    "requests": counted[0],
                    "body_bytes": counted[1],
                    "token_sum": sums[name, place],
                }
            )
    return rows


def first_chunks(corpus: Corpus) -> dict[str, int]:
    """Chunks that the sample at each place takes tokens from: the one thing in which starts differ."""
    table, plan = chunk_table(corpus.uri, load_manifest(corpus.uri)), PlanReader(corpus.plan_uri)
    found = {}
    for place, share in PLACES.items():
        sample = min(corpus.num_samples - 1, round(share * corpus.num_samples))
        (row,) = plan.rows(sample, sample + 1)
        first = np.searchsorted(table.offset, row.offsets, side="right") - 1
        last = np.searchsorted(table.offset, row.offsets + row.lengths - 1, side="right") - 1
        found[place] = len({chunk for a, b in zip(first, last, strict=True) for chunk in range(a, b + 1)})
    return found


def count_requests(
    proxy: FaultProxy, starts: dict[str, Callable[[int], tuple[float, int]]], num_samples: int
) -> dict[str, dict[str, tuple[int, int]]]:
    """(requests, bytes of their bodies) of one start each."""
    found: dict[str, dict[str, tuple[int, int]]] = {}
    for name, begin in starts.items():
        found[name] = {}
        for place, share in PLACES.items():
            proxy.set_faults()
            begin(min(num_samples - 1, round(share * num_samples)))
            found[name][place] = (proxy.num_requests, proxy.num_body_bytes)
    return found


def contenders(
    corpus: Corpus, peer: Peer | None, mds: str, remote: str | None
) -> dict[str, Callable[[int], tuple[float, int]]]:
    found: dict[str, Callable[[int], tuple[float, int]]] = {"feed": partial(start, corpus)}
    if peer is not None:
        found["mosaicml"] = partial(peer_start, peer, mds, remote)
    return found


def measure_local(num_samples: int, sample_length: int, repeats: int, python: str | None) -> list[Row]:
    with tempfile.TemporaryDirectory() as folder, open_peer(python, os.environ) as peer:
        corpus = make_corpus(folder, num_samples * sample_length, sample_length)
        if peer is not None:
            write_mds(corpus, peer, f"{folder}/mds", 1 << 26)
        return measure(
            "local", contenders(corpus, peer, f"{folder}/mds", None), num_samples, repeats, first_chunks(corpus), {}
        )


def measure_s3(num_samples: int, sample_length: int, repeats: int, python: str | None) -> list[Row]:
    """Straight to moto for the time; through the proxy for the requests."""
    with serve_moto() as url, tempfile.TemporaryDirectory() as folder, pytest.MonkeyPatch.context() as patch:
        clean_environment(patch, url)
        bucket = new_bucket(url)
        corpus = make_corpus(bucket, num_samples * sample_length, sample_length, shard_tokens=2_000_000)
        with empty_cache(), open_peer(python, os.environ) as peer:
            if peer is not None:
                write_mds(corpus, peer, f"{folder}/mds", 8 << 20)
                put_folder(url, bucket, Path(folder, "mds"))
        with counting_proxy(url) as proxy:
            patch.setenv("AWS_ENDPOINT_URL_S3", proxy.url)
            with open_peer(python, {**os.environ, "S3_ENDPOINT_URL": proxy.url}) as peer:
                starts = contenders(corpus, peer, f"{folder}/mds", f"{bucket}/mds")
                requests = count_requests(proxy, starts, num_samples)
        patch.setenv("AWS_ENDPOINT_URL_S3", url)
        with open_peer(python, {**os.environ, "S3_ENDPOINT_URL": url}) as peer:
            starts = contenders(corpus, peer, f"{folder}/mds", f"{bucket}/mds")
            return measure("s3", starts, num_samples, repeats, first_chunks(corpus), requests)


@contextmanager
def counting_proxy(url: str) -> Iterator[FaultProxy]:
    proxy = FaultProxy(url)
    proxy.start()
    try:
        yield proxy
    finally:
        proxy.stop()


def run(tiny: bool, repeats: int, python: str | None, output: Path | None) -> list[Row]:
    sample_length, sizes = (256, (200, 200)) if tiny else (8192, (4880, 1220))
    rows = measure_local(sizes[0], sample_length, repeats, python)
    rows += measure_s3(sizes[1], sample_length, repeats, python)
    remarks = [
        "aim: the same at 1 % and at 99 %. A start fetches the chunks that its own first sample lies in.",
        *([MISSING] if python is None else []),
    ]
    report("resume", rows, COLUMNS, output, remarks)
    return rows


def main() -> None:
    given = arguments(__doc__, peer=True)
    run(given.tiny, given.repeats, given.peer_python, given.output)


if __name__ == "__main__":
    main()
