"""Tokens/s of the feed, by the clock and by CPU second, beside a plain Parquet read and MosaicML Streaming.

    python -m tests.benchmarks.feed [--tiny] [--output DIR] [--peer-python PYTHON]

Everybody delivers the same tokens once, in this run, in turns; opening is not counted (`resume` measures it).
- "pyarrow": `read_table` of the tokens column, shard by shard, nothing else: no order, no samples.
- "pyarrow, zstd": the same of the same column compressed, as tokenised corpora are often stored.
- "reader": TokenReader over the rows of the plan: samples in their order, every chunk proven by its digest.
- "feed": micro-batches (tokens, positions, labels, weights, cu_seqlens) in this process; one a kind of positions.
- "feed, Ray Data": the same as a stream out of Ray Data, as the trainer gets it, from the start of its execution on
  (first_batch_s in the JSON); CPU seconds of all of Ray's processes.
- "mosaicml": StreamingDataset over the same samples (py1e shuffle), in one process of its own: tokens and nothing else.
- "mosaicml + arrays": with what a training loop needs beside them: int32 ids, shifted labels, positions, boundaries.
Over S3 readers start with empty caches. With moto's server (one Python process on the same machine) its own speed is
the limit of the clock, so CPU seconds of the client are what can be compared; `--ceph` starts a real store instead.
"""

import logging
import os
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from itertools import chain, count
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pyarrow as pa
import pyarrow.fs
import pyarrow.parquet as pq
import pytest

from longspan import storage
from longspan.corpus.manifest import load_manifest
from longspan.corpus.plan_table import PlanReader, read_plan_info
from longspan.corpus.reader import TokenReader
from longspan.feed.batch import MicroBatch
from longspan.feed.source import FeedSpec, Source
from longspan.positions import Contiguous, LongRecipe, PositionMethod
from tests.benchmarks.harness import Contender, Measured, Row, arguments, in_turns, rates, report, timed
from tests.benchmarks.material import Corpus, make_corpus
from tests.benchmarks.peer import MISSING, Peer, open_peer
from tests.reliability import real_store
from tests.s3 import clean_environment, new_bucket, raw_client, serve_moto

TARGET = 131_072
SAMPLES_AT_ONCE = 128
"""Micro-batches asked for together, by reader and feed alike: the size of a feed task."""
COLUMNS = ("store", "contender", "tokens_per_s", "ratio", "tokens_per_cpu_s", "cpu_ratio", "mosaicml_ratio")


@dataclass(frozen=True)
class Bench:
    """What is read: the corpus, the same shards compressed (a folder or None), the same samples as MDS, the peer."""

    store: str
    corpus: Corpus
    compressed: str | None
    mds: str
    remote_mds: str | None
    peer: Peer | None


def spec_of(corpus: Corpus, method: PositionMethod) -> FeedSpec:
    info = read_plan_info(corpus.plan_uri)
    return FeedSpec(
        plan_uri=corpus.plan_uri,
        plan_fingerprint=info.fingerprint,
        manifest_uri=corpus.uri,
        manifest_fingerprint=info.metadata["manifest"],
        sample_length=corpus.sample_length,
        micro_batch_size=1,
        global_batch_size=1,
        target_length=TARGET,
        document_mask=False,
        method=method,
        seed=0,
        shard_cache_bytes=16 << 30,
    )


@contextmanager
def empty_cache() -> Iterator[None]:
    """A new folder for the chunks that are kept on disk, gone afterwards."""
    with tempfile.TemporaryDirectory() as folder, pytest.MonkeyPatch.context() as patch:
        patch.setenv("LONGSPAN_CACHE", folder)
        yield


def _sum(tokens: np.ndarray[Any, Any], check: bool) -> int:
    return int(tokens.sum(dtype=np.int64)) if check else -1


def plain_read(files: list[str], filesystem: Any, check: bool) -> Measured:
    def work() -> tuple[int, int]:
        tokens = total = 0
        for file in files:
            column = pq.read_table(file, columns=["tokens"], filesystem=filesystem)["tokens"]
            values = [chunk.flatten() for chunk in column.chunks]
            tokens += sum(len(value) for value in values)
            total += sum(_sum(value.to_numpy(), check) for value in values)
        return tokens, total if check else -1

    return timed(work)


def reader_tokens(corpus: Corpus) -> Iterator[np.ndarray[Any, np.dtype[np.uint32]]]:
    """The tokens of the plan's samples, in order."""
    plan, reader = PlanReader(corpus.plan_uri), TokenReader(corpus.uri, load_manifest(corpus.uri))
    for begin in range(0, corpus.num_samples, SAMPLES_AT_ONCE):
        rows = plan.rows(begin, min(begin + SAMPLES_AT_ONCE, corpus.num_samples))
        offsets, lengths = np.concatenate([r.offsets for r in rows]), np.concatenate([r.lengths for r in rows])
        yield reader.gather(offsets, lengths)[0]


def read_alone(corpus: Corpus, check: bool) -> Measured:
    with empty_cache():
        tokens = reader_tokens(corpus)
        return timed(lambda: _drained(tokens, check))


def _drained(arrays: Iterator[np.ndarray[Any, Any]], check: bool) -> tuple[int, int]:
    tokens = total = 0
    for array in arrays:
        tokens += array.size
        total += _sum(array, check)
    return tokens, total if check else -1


def feed_alone(corpus: Corpus, method: PositionMethod, check: bool) -> Measured:
    with empty_cache():
        source = Source(spec_of(corpus, method))
        begins = range(0, corpus.num_samples, SAMPLES_AT_ONCE)
        batches = (
            batch.input_ids
            for begin in begins
            for batch in source.micro_batches(range(begin, min(begin + SAMPLES_AT_ONCE, corpus.num_samples)))
        )
        return timed(lambda: _drained(batches, check))


def feed_ray(corpus: Corpus, method: PositionMethod, seeds: Iterator[int], check: bool) -> Measured:
    """The feed's stream out of Ray Data; Ray must have been started by this process."""
    from longspan.feed.ray_data import group_dataset, stream

    with empty_cache():
        # A seed of its own: a worker keeps the sources it has opened, with the chunks that they hold.
        dataset = group_dataset(replace(spec_of(corpus, method), seed=next(seeds)), 0, corpus.num_samples, 0, 1)
        dataset.context.execution_options.preserve_order = True
        dataset.context.enable_progress_bars = False
        cpu, started = cpu_of_all(), time.perf_counter()
        batches: Iterator[MicroBatch] = stream(dataset.iterator(), 4)
        first = next(batches)
        first_s = time.perf_counter() - started
        tokens, total = _drained((batch.input_ids for batch in chain([first], batches)), check)
        seconds = time.perf_counter() - started
        return Measured(tokens, seconds, cpu_of_all() - cpu, total, {"first_batch_s": first_s})


def cpu_of_all() -> float:
    """CPU seconds so far of this process and all that it started, ended ones included; the peer's do not change."""
    me = psutil.Process()
    total = 0.0
    for process in [me, *me.children(recursive=True)]:
        try:
            total += sum(process.cpu_times()[:4])  # user, system, and those of its children that have ended
        except psutil.NoSuchProcess:
            continue
    return total


def mosaic(bench: Bench, arrays: bool, check: bool) -> Measured:
    assert bench.peer is not None
    answer = bench.peer.ask("read", local=bench.mds, remote=bench.remote_mds, arrays=arrays, check=check)
    return Measured(**answer)


def contenders(bench: Bench, with_ray: bool) -> dict[str, Contender]:
    manifest = load_manifest(bench.corpus.uri)
    filesystem, root = storage.arrow_filesystem(bench.corpus.uri)
    files = [f"{root}/{shard.file}" for shard in manifest.shards]
    found: dict[str, Contender] = {"pyarrow": partial(plain_read, files, filesystem)}
    if bench.compressed is not None:
        compressed = [f"{bench.compressed}/{Path(file).name}" for file in files]
        found["pyarrow, zstd"] = partial(plain_read, compressed, pyarrow.fs.LocalFileSystem())
    if storage.is_remote(bench.corpus.uri):
        found["s3fs"] = partial(s3fs_read, files)
    found["reader"] = partial(read_alone, bench.corpus)
    methods: dict[str, PositionMethod] = {"contiguous": Contiguous(), "longrecipe": LongRecipe()}
    for name, method in methods.items():
        found[f"feed, {name}"] = partial(feed_alone, bench.corpus, method)
    if with_ray:
        found["feed, Ray Data, longrecipe"] = partial(feed_ray, bench.corpus, methods["longrecipe"], count(1))
    if bench.peer is not None:
        found["mosaicml"] = partial(mosaic, bench, False)
        found["mosaicml + arrays"] = partial(mosaic, bench, True)
    return found


def s3fs_read(files: list[str], check: bool) -> Measured:
    import s3fs

    filesystem = s3fs.S3FileSystem(endpoint_url=os.environ["AWS_ENDPOINT_URL_S3"], skip_instance_cache=True)
    return plain_read(files, filesystem, check)


def measure(bench: Bench, repeats: int, with_ray: bool) -> list[Row]:
    found = in_turns(contenders(bench, with_ray), repeats)
    rows = [{"store": bench.store, **row} for row in rates(found, "pyarrow")]
    if len({(row["tokens"], row["token_sum"]) for row in rows}) != 1:
        raise SystemExit(f"{bench.store}: not all delivered the same tokens: {rows}")
    if "mosaicml" in found:
        for row, other in zip(rows, rates(found, "mosaicml"), strict=True):
            row["mosaicml_ratio"], row["mosaicml_cpu_ratio"] = other["ratio"], other["cpu_ratio"]
    return rows


def write_compressed(corpus: Corpus, folder: str) -> None:
    """Every shard again, with its list column in Arrow's default layout under zstd."""
    os.makedirs(folder)
    for shard in load_manifest(corpus.uri).shards:
        table = pq.read_table(f"{corpus.uri}/{shard.file}")
        pq.write_table(table, f"{folder}/{Path(shard.file).name}", compression="zstd")


def write_mds(corpus: Corpus, peer: Peer, folder: str, size_limit: int) -> None:
    """The plan's samples as the peer's shards."""
    samples = np.concatenate(list(reader_tokens(corpus))).reshape(corpus.num_samples, corpus.sample_length)
    np.save(f"{folder}.npy", samples)
    peer.ask("write", samples=f"{folder}.npy", out=folder, size_limit=size_limit)
    os.remove(f"{folder}.npy")


def put_folder(url: str, bucket: str, folder: Path) -> None:
    """Move the files of a local folder to the bucket, below the folder's name."""
    client: Any = raw_client(url)
    for path in sorted(folder.iterdir()):
        key = f"{folder.name}/{path.name}"
        client.put_object(Bucket=bucket.removeprefix("s3://"), Key=key, Body=path.read_bytes())
    shutil.rmtree(folder)


@contextmanager
def local_bench(num_tokens: int, sample_length: int, python: str | None) -> Iterator[Bench]:
    """Everything in a temporary folder, written just now: it is read from the page cache."""
    with tempfile.TemporaryDirectory() as folder, open_peer(python, os.environ) as peer:
        corpus = make_corpus(folder, num_tokens, sample_length)
        write_compressed(corpus, f"{folder}/compressed")
        if peer is not None:
            write_mds(corpus, peer, f"{folder}/mds", 1 << 26)
        yield Bench("local", corpus, f"{folder}/compressed", f"{folder}/mds", None, peer)


@contextmanager
def object_store(ceph: Path | None) -> Iterator[tuple[str, str]]:
    """URL of a store and a new bucket in it: moto's, or a real one; the environment points to it."""
    if ceph is not None:
        with tempfile.TemporaryDirectory() as work, real_store.running(ceph.absolute(), Path(work), 7480) as store:
            yield f"http://127.0.0.1:{store.port}", store.bucket
        return
    with serve_moto() as url, pytest.MonkeyPatch.context() as patch:
        clean_environment(patch, url)
        yield url, new_bucket(url)


@contextmanager
def s3_bench(num_tokens: int, sample_length: int, python: str | None, ceph: Path | None = None) -> Iterator[Bench]:
    """The same in a bucket, in objects of 8 MB at most: moto copies a whole object for every range of it."""
    with object_store(ceph) as (url, bucket), tempfile.TemporaryDirectory() as folder:
        environment = {**os.environ, "S3_ENDPOINT_URL": url}
        corpus = make_corpus(bucket, num_tokens, sample_length, shard_tokens=2_000_000)
        with open_peer(python, environment) as peer, empty_cache():
            if peer is not None:
                write_mds(corpus, peer, f"{folder}/mds", 8 << 20)
                put_folder(url, bucket, Path(folder, "mds"))
            yield Bench("s3", corpus, None, f"{folder}/mds", f"{bucket}/mds", peer)


@contextmanager
def local_ray() -> Iterator[None]:
    import ray

    logging.getLogger("ray.data").setLevel(logging.ERROR)
    ray.init(num_cpus=os.cpu_count(), include_dashboard=False, log_to_driver=False, logging_level=logging.ERROR)
    try:
        yield
    finally:
        ray.shutdown()


def run(
    tiny: bool, repeats: int, python: str | None, with_ray: bool, output: Path | None, ceph: Path | None = None
) -> list[Row]:
    sample_length = 256 if tiny else 8192
    sizes = {"local": sample_length * (64 if tiny else 4880), "s3": sample_length * (64 if tiny else 1220)}
    benches: dict[str, Callable[..., Any]] = {"local": local_bench, "s3": partial(s3_bench, ceph=ceph)}
    rows: list[Row] = []
    for store, make in benches.items():
        with make(sizes[store], sample_length, python) as bench:
            if with_ray and store == "local":
                with local_ray():
                    rows += measure(bench, repeats, with_ray=True)
            else:
                rows += measure(bench, repeats, with_ray=False)
    remarks = [
        f"samples of {sample_length:,} tokens; local {sizes['local']:,} tokens, s3 {sizes['s3']:,}.",
        "ratio, cpu_ratio: to pyarrow's plain read (aim 0.9 by CPU); mosaicml_ratio: by the clock (aim 1.0).",
        *([MISSING] if python is None else []),
    ]
    report("feed", rows, COLUMNS, output, remarks)
    return rows


def main() -> None:
    pa.set_io_thread_count(os.cpu_count() or 1)
    given = arguments(__doc__, peer=True, store=True)
    run(given.tiny, given.repeats, given.peer_python, True, given.output, given.ceph)


if __name__ == "__main__":
    main()
