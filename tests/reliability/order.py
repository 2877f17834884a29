"""Is a run's order of samples the same whatever the machines are: every topology, every cut, every epoch.

    python tests/reliability/order.py            (the whole bar, some minutes on 2 cores)
    python tests/reliability/order.py --quick    (a sample of it, below 20 s)

Compared are the micro-batches themselves, in order: sample numbers, tokens, positions, labels, weights and document
borders. Exit code 1 if one differs.
"""

# ruff: noqa: E402  (a script finds the package before it imports it)
import argparse
import sys
import tempfile
from collections.abc import Iterable, Iterator
from itertools import pairwise, product
from pathlib import Path
from typing import NamedTuple

import numpy as np
import xxhash
from rich.console import Console
from rich.table import Table

ROOT = Path(__file__).parents[2]
sys.path.insert(0, str(ROOT))
sys.path.insert(0, str(ROOT / "platform"))

from longspan.corpus.index import corpus_table
from longspan.corpus.manifest import Manifest
from longspan.corpus.plan_table import write_plan
from longspan.feed.batch import MicroBatch
from longspan.feed.local import local_feed
from longspan.feed.source import FeedSpec, Source, group_indices
from longspan.positions import LongRecipe
from longspan.sampling.plan import MixPoint, PlanSettings, Upsample, plan_parts
from longspan.sampling.table import CorpusTable
from longspan.topology import rank_slice
from tests.corpus_files import random_documents, write_corpus

SAMPLE_LENGTH = 64
BATCH = 8


class Outcome(NamedTuple):
    """What one part of the bar compared: how many comparisons (of how many samples), and how many differ."""

    name: str
    comparisons: int
    samples: int
    differences: int


def plan_settings(steps: int, seed: int, shuffle: bool, packing: str = "best_fit") -> PlanSettings:
    return PlanSettings(
        mix=(MixPoint(0, {"web": 0.7, "books": 0.3}, ramp=True), MixPoint(steps // 2, {"web": 0.2, "books": 0.8})),
        steps=steps,
        global_batch_size=BATCH,
        sample_length=SAMPLE_LENGTH,
        trained_length=SAMPLE_LENGTH,
        packing=packing,  # type: ignore[arg-type]
        shuffle=shuffle,
        shuffle_tokens=20_000,
        upsample={"books": Upsample(200, 2.5)},
        max_epochs={},
        on_limit="refuse",
        seed=seed,
    )


def make_run(folder: Path, manifest: Manifest, steps: int, seed: int, shuffle: bool) -> FeedSpec:
    """A planned run over the corpus in FOLDER/data."""
    data, plan = str(folder / "data"), str(folder / f"plan-{seed}-{shuffle}-{steps}")
    settings = plan_settings(steps, seed, shuffle)
    parts = plan_parts(corpus_table(data, manifest), settings, part_samples=1000)
    metadata = {"manifest": manifest.fingerprint}
    info = write_plan(plan, parts, manifest.source_names, SAMPLE_LENGTH, settings.num_samples, metadata)
    return FeedSpec(
        plan_uri=plan,
        plan_fingerprint=info.fingerprint,
        manifest_uri=data,
        manifest_fingerprint=manifest.fingerprint,
        sample_length=SAMPLE_LENGTH,
        micro_batch_size=1,
        global_batch_size=BATCH,
        target_length=1024,
        document_mask=True,
        method=LongRecipe(),
        seed=seed,
        shard_cache_bytes=1 << 30,
    )


def mark(batch: MicroBatch, sequence_parallel: int = 1) -> bytes:
    """Digest of a micro-batch, put together again from the slices of its ranks."""
    state = xxhash.xxh3_128(batch.first_sample.to_bytes(8, "little"))
    slices = [rank_slice(batch.num_tokens, sequence_parallel, rank) for rank in range(sequence_parallel)]
    for array in (batch.input_ids, batch.positions, batch.labels, batch.loss_weight):
        state.update(np.concatenate([array[part] for part in slices]).tobytes())
    state.update(batch.cu_seqlens.tobytes())
    return state.digest()


def trained(spec: FeedSpec, first_step: int, end: int, groups: int, sequence_parallel: int) -> Iterator[bytes]:
    """Marks of the steps' samples in order, each data-parallel group with a source of its own."""
    sources = [Source(spec) for _ in range(groups)]
    for step in range(first_step, end):
        for group, source in enumerate(sources):
            for batch in source.micro_batches(list(group_indices(spec, step, group, groups))):
                yield mark(batch, sequence_parallel)


def count_differences(found: Iterable[bytes], expected: list[bytes]) -> int:
    marks = list(found)
    return abs(len(marks) - len(expected)) + sum(a != b for a, b in zip(marks, expected, strict=False))


def topologies(folder: Path, manifest: Manifest, quick: bool) -> Outcome:
    """A1: data-parallel {1, 2, 4, 8} x sequence-parallel {1, 2, 4} x shuffle x 5 seeds, 10,000 samples each."""
    steps = 25 if quick else 1250
    groups, degrees, seeds = ((1, 4), (1, 2), (0,)) if quick else ((1, 2, 4, 8), (1, 2, 4), range(5))
    comparisons = differences = 0
    for seed, shuffle in product(seeds, (False, True)):
        spec = make_run(folder, manifest, steps, seed, shuffle)
        expected = list(trained(spec, 0, steps, 1, 1))
        for group_count, degree in product(groups, degrees):
            differences += count_differences(trained(spec, 0, steps, group_count, degree), expected)
            comparisons += 1
    return Outcome("A1 topologies", comparisons, comparisons * steps * BATCH, differences)


def resumes(folder: Path, manifest: Manifest, quick: bool) -> Outcome:
    """A2: 117 steps, cut after each of them and gone on, shuffled and not, with 1, 2 and 4 groups; order unsorted."""
    steps = 117
    cuts = range(0, steps, 23) if quick else range(steps)
    comparisons = samples = differences = 0
    for shuffle, groups in product((False, True), (1, 2, 4)):
        spec = make_run(folder, manifest, steps, 7, shuffle)
        expected = list(trained(spec, 0, steps, 1, 1))
        for cut in cuts:
            if groups == 1:
                rest: Iterable[bytes] = (mark(batch) for batch in local_feed(spec, cut, steps, 4))
            else:
                rest = trained(spec, cut, steps, groups, 1)
            differences += count_differences(rest, expected[cut * BATCH :])
            comparisons, samples = comparisons + 1, samples + (steps - cut) * BATCH
    return Outcome("A2 a cut at every step", comparisons, samples, differences)


def resizes(folder: Path, manifest: Manifest, quick: bool) -> Outcome:
    """A3: 8 -> 4 -> 2 -> 8 groups in one run is the uninterrupted run."""
    steps = 40 if quick else 400
    spec = make_run(folder, manifest, steps, 3, True)
    expected = list(trained(spec, 0, steps, 1, 1))
    borders = [0, steps // 4, steps // 2, 3 * steps // 4, steps]
    chain = (
        one
        for groups, (begin, end) in zip((8, 4, 2, 8), pairwise(borders), strict=True)
        for one in trained(spec, begin, end, groups, 2)
    )
    return Outcome("A3 resized in mid-run", 1, steps * BATCH, count_differences(chain, expected))


def epochs(quick: bool) -> Outcome:
    """A6: corpora of 50 random sizes: no token comes again before all of its epoch have come, none is dropped.

    What is left of an epoch stands in one sample, which both packings fill up with the next epoch.
    """
    comparisons = samples = differences = 0
    for number, packing in product(range(5 if quick else 50), ("sequential", "best_fit")):
        rng = np.random.default_rng([9, number])
        lengths = rng.integers(1, 4 * SAMPLE_LENGTH, rng.integers(1, 400)).astype(np.int32)
        table = CorpusTable.from_lengths(np.zeros(lengths.size, np.int16), lengths, ("web",), chunk_tokens=500)
        steps = 4 * int(lengths.sum()) // (SAMPLE_LENGTH * BATCH) + 2
        settings = plan_settings(steps, number, True, packing)
        settings = PlanSettings(**{**vars(settings), "mix": (MixPoint(0, {"web": 1.0}),), "upsample": {}})
        seen = np.zeros(int(lengths.sum()) + 1, np.int64)
        for part in plan_parts(table, settings):
            np.add.at(seen, part.offset, 1)
            np.add.at(seen, part.offset + part.length, -1)
            samples += part.num_samples
        times = np.cumsum(seen)[:-1]
        differences += int(times.max() - times.min() > 1)
        differences += int(packing == "sequential" and times.sum() != steps * BATCH * SAMPLE_LENGTH)
        comparisons += 1
    return Outcome("A6 every token once an epoch", comparisons, samples, differences)


def prefetches(folder: Path, manifest: Manifest, quick: bool) -> Outcome:
    """A8: a run closed after any number of samples goes on at the next, whatever was made ahead."""
    steps = 20
    spec = make_run(folder, manifest, steps, 5, True)
    expected = list(trained(spec, 0, steps, 1, 1))
    comparisons = differences = 0
    for prefetch, stop in product((0, 1, 4, 16), (1, 7) if quick else range(1, steps)):
        first = local_feed(spec, 0, steps, prefetch)
        found = [mark(next(first)) for _ in range(stop * BATCH)]
        first.close()  # type: ignore[attr-defined]
        found += [mark(batch) for batch in local_feed(spec, stop, steps, prefetch)]
        differences += count_differences(found, expected)
        comparisons += 1
    return Outcome("A8 prefetch does not leak", comparisons, comparisons * steps * BATCH, differences)


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--quick", action="store_true", help="a sample of the bar")
    quick = parser.parse_args(arguments).quick
    table = Table(title="Order of samples")
    for column in ("what", "comparisons", "samples", "differences"):
        table.add_column(column, justify="left" if column == "what" else "right")
    failed = False
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        rng = np.random.default_rng(1)
        sources = {
            source: random_documents(seed, np.minimum(rng.lognormal(4, 1, 300).astype(int) + 2, 3000))
            for seed, source in enumerate(("web", "books"))
        }
        manifest = write_corpus(str(folder / "data"), sources)
        for part in (topologies, resumes, resizes, prefetches):
            outcome = part(folder, manifest, quick)
            table.add_row(*(f"{value:,}" if isinstance(value, int) else value for value in outcome))
            failed |= outcome.differences > 0 or outcome.comparisons == 0
        outcome = epochs(quick)
        table.add_row(*(f"{value:,}" if isinstance(value, int) else value for value in outcome))
        failed |= outcome.differences > 0
    Console().print(table)
    return int(failed)


if __name__ == "__main__":
    sys.exit(main())
