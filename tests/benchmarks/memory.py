"""Peak memory of planning and of a feed worker against the size of the plan and of the corpus.

    python -m tests.benchmarks.memory [--tiny] [--output DIR]

Every figure is of a process of its own, once with each size. Planning: a synthetic corpus of long documents, lengths in
a mapped file, packed best-fit and written as a plan. Feed worker: a corpus on disk, every micro-batch made once in the
order of its plan. "peak_mib" is the largest resident set, "peak_anon_mib" of it what is no mapped file (sampled).
"""

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from tests.benchmarks.harness import Row, report

DOCUMENTS_A_CHUNK = 32
SAMPLE_LENGTH = 8192
COLUMNS = ("what", "size", "times", "peak_mib", "growth", "peak_anon_mib", "anon_growth", "seconds")


def plan_memory(num_samples: int, folder: str) -> None:
    """Plan and write `num_samples` samples out of about as many tokens."""
    from longspan.corpus.plan_table import write_plan
    from longspan.sampling.plan import plan_parts
    from longspan.sampling.table import CorpusTable
    from tests.benchmarks.material import plan_settings

    rng = np.random.default_rng(0)
    num_chunks = max(1, num_samples // DOCUMENTS_A_CHUNK)
    documents = np.memmap(f"{folder}/length", np.int32, "w+", shape=(num_chunks * DOCUMENTS_A_CHUNK,))
    tokens = np.empty(num_chunks, np.int64)
    step = 1 << 14
    for begin in range(0, num_chunks, step):
        shape = (min(step, num_chunks - begin), DOCUMENTS_A_CHUNK)
        lengths = np.clip(rng.lognormal(8.5, 1.0, shape), 16, 1 << 17).astype(np.int32)
        documents[begin * DOCUMENTS_A_CHUNK : (begin + shape[0]) * DOCUMENTS_A_CHUNK] = lengths.reshape(-1)
        tokens[begin : begin + shape[0]] = lengths.sum(axis=1, dtype=np.int64)
    table = CorpusTable(
        source_names=("long",),
        chunk_source=np.zeros(num_chunks, np.int16),
        chunk_document=np.arange(num_chunks, dtype=np.int64) * DOCUMENTS_A_CHUNK,
        chunk_documents=np.full(num_chunks, DOCUMENTS_A_CHUNK, np.int32),
        chunk_offset=np.cumsum(tokens) - tokens,
        length=documents,
    )
    parts = plan_parts(table, plan_settings("long", num_samples, SAMPLE_LENGTH, "best_fit"))
    write_plan(f"{folder}/plan", parts, table.source_names, SAMPLE_LENGTH, num_samples, {})


def write_corpus(num_tokens: int, folder: str) -> None:
    from tests.benchmarks.material import make_corpus

    make_corpus(folder, num_tokens, SAMPLE_LENGTH)


def feed_memory(num_tokens: int, folder: str) -> None:
    """Every micro-batch of the corpus in the folder, once."""
    from longspan.feed.source import Source
    from longspan.positions import LongRecipe
    from tests.benchmarks.feed import SAMPLES_AT_ONCE, spec_of
    from tests.benchmarks.material import Corpus

    corpus = Corpus(f"{folder}/corpus", f"{folder}/plan", num_tokens, SAMPLE_LENGTH)
    source = Source(spec_of(corpus, LongRecipe()))
    for begin in range(0, corpus.num_samples, SAMPLES_AT_ONCE):
        source.micro_batches(range(begin, min(begin + SAMPLES_AT_ONCE, corpus.num_samples)))


WORKS: dict[str, Callable[[int, str], None]] = {
    "planning": plan_memory,
    "corpus": write_corpus,
    "feed worker": feed_memory,
}


def work(what: str, size: int, folder: str) -> dict[str, Any]:
    """Do it in this process, and say what it took."""
    peak = [0]
    done = threading.Event()

    def sample() -> None:
        while not done.wait(0.02):
            peak[0] = max(peak[0], _anonymous_kib())

    thread = threading.Thread(target=sample, daemon=True)
    thread.start()
    started = time.perf_counter()
    WORKS[what](size, folder)
    seconds = time.perf_counter() - started
    done.set()
    thread.join()
    rss = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return {"peak_mib": rss / 1024, "peak_anon_mib": max(peak[0], _anonymous_kib()) / 1024, "seconds": seconds}


def _anonymous_kib() -> int:
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("RssAnon:"):
            return int(line.split()[1])
    return 0


def in_own_process(what: str, size: int, folder: str) -> dict[str, Any]:
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(path for path in sys.path if path)}
    command = [sys.executable, "-m", "tests.benchmarks.memory", "--work", what, str(size), folder]
    done = subprocess.run(command, check=True, capture_output=True, text=True, env=environment)
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


def measure(what: str, sizes: list[int], prepare: str | None) -> list[Row]:
    """A row a size; growth against the first."""
    rows: list[Row] = []
    for size in sizes:
        with tempfile.TemporaryDirectory() as folder:
            if prepare is not None:
                in_own_process(prepare, size, folder)
            found = in_own_process(what, size, folder)
        first = rows[0] if rows else found
        rows.append(
            {
                "what": what,
                "size": size,
                "times": size / sizes[0],
                **found,
                "growth": found["peak_mib"] / first["peak_mib"],
                "anon_growth": found["peak_anon_mib"] / first["peak_anon_mib"],
            }
        )
    return rows


def run(tiny: bool, output: Path | None) -> list[Row]:
    samples = [500, 1000] if tiny else [100_000, 1_000_000, 10_000_000]
    tokens = [SAMPLE_LENGTH * n for n in ((32,) if tiny else (1220, 4880, 19520, 39040))]
    rows = [*measure("planning", samples, None), *measure("feed worker", tokens, "corpus")]
    remarks = [
        "sizes: samples of the plan; tokens of the corpus. Aim: flat.",
        "A feed worker keeps proven chunks up to corpus.reader.MEMORY_BYTES (256 MiB): its memory grows until the"
        " corpus has filled them, and not beyond.",
    ]
    report("memory", rows, COLUMNS, output, remarks)
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tiny", action="store_true", help="small sizes: a check of the script, no figures")
    parser.add_argument("--output", type=Path, help="directory for the figures as JSON")
    parser.add_argument("--work", nargs=3, metavar=("WHAT", "SIZE", "FOLDER"), help="for the script's own processes")
    given = parser.parse_args()
    if given.work is not None:
        what, size, folder = given.work
        print(json.dumps(work(what, int(size), folder)))
    else:
        run(given.tiny, given.output)


if __name__ == "__main__":
    main()
