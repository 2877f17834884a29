"""Padding, cut documents, shuffle quality and reads of sample plans over realistic length mixes.

    python -m tests.benchmarks.packing [--tiny] [--output DIR]

Nothing is timed but the planning itself. "cut": documents that fit into a sample and yet lie in several. "neighbours":
pairs of samples that follow each other and begin in the same chunk. "read": bytes that a feed fetches for every byte it
needs, when it keeps the chunks that its memory has room for and fetches whole ones.
"""

import time
from collections import OrderedDict
from collections.abc import Iterable
from pathlib import Path

import numpy as np

from longspan.corpus.reader import MEMORY_BYTES
from longspan.sampling.plan import MixPoint, PlanPart, PlanSettings, plan_parts
from longspan.sampling.statistics import open_statistics
from longspan.sampling.table import CorpusTable
from tests.benchmarks.harness import Row, arguments, report
from tests.benchmarks.mixes import MIXES, document_lengths

CHUNK_TOKENS = 1 << 18
CACHED_CHUNKS = MEMORY_BYTES // (4 * CHUNK_TOKENS)
PACKING_COLUMNS = ("mix", "sample_length", "packing", "samples", "padding_percent", "cut_percent", "spans_per_sample",
                   "samples_per_s")  # fmt: skip
SHUFFLE_COLUMNS = ("mix", "shuffle_tokens", "neighbours_percent", "neighbour_distance", "chunks_per_sample",
                   "read_per_needed", "fetches_per_sample")  # fmt: skip


def settings_of(
    table: CorpusTable, sample_length: int, packing: str, shuffle_tokens: int, seed: int = 0
) -> PlanSettings:
    """One epoch of the corpus, more or less."""
    return PlanSettings(
        mix=(MixPoint(0, dict.fromkeys(table.source_names, 1.0)),),
        steps=max(1, table.num_tokens // sample_length // 8),
        global_batch_size=8,
        sample_length=sample_length,
        trained_length=sample_length,
        packing="best_fit" if packing == "best_fit" else "sequential",
        shuffle=shuffle_tokens > 0,
        shuffle_tokens=max(1, shuffle_tokens),
        upsample={},
        max_epochs={},
        on_limit="refuse",
        seed=seed,
    )


def table_of(mix: str, num_tokens: int) -> CorpusTable:
    lengths = document_lengths(mix, num_tokens)
    return CorpusTable.from_lengths(np.zeros(lengths.size, np.int16), lengths, [mix], CHUNK_TOKENS)


def cut_share(table: CorpusTable, parts: Iterable[PlanPart], sample_length: int) -> float:
    """Share of the documents drawn that fit into one sample and lie in more than one."""
    pieces = np.zeros(table.num_documents, np.int64)
    tokens = np.zeros(table.num_documents, np.int64)
    for part in parts:
        np.add.at(pieces, part.document, 1)
        np.add.at(tokens, part.document, part.length)
    # Of documents that came once and whole: those of the plan's borders are cut by its end, not by the packing.
    fits = (np.asarray(table.length) <= sample_length) & (tokens == table.length)
    return float((pieces[fits] > 1).mean()) if fits.any() else 0.0


def reads(table: CorpusTable, parts: Iterable[PlanPart]) -> tuple[float, float, float]:
    """Chunks that a sample touches, tokens fetched by tokens needed, and fetches a sample, with a cache of chunks."""
    cached: OrderedDict[int, None] = OrderedDict()
    touched = fetched = needed = fetches = samples = 0
    for part in parts:
        first = np.searchsorted(table.chunk_offset, part.offset, side="right") - 1
        last = np.searchsorted(table.chunk_offset, part.offset + part.length - 1, side="right") - 1
        for begin, stop in zip(part.span_offsets[:-1].tolist(), part.span_offsets[1:].tolist(), strict=True):
            spans = zip(first[begin:stop].tolist(), last[begin:stop].tolist(), strict=True)
            chunks = sorted({chunk for a, b in spans for chunk in range(a, b + 1)})
            touched += len(chunks)
            for chunk in chunks:
                if chunk in cached:
                    cached.move_to_end(chunk)
                    continue
                cached[chunk] = None
                fetched += int(table.chunk_tokens[chunk])
                fetches += 1
                if len(cached) > CACHED_CHUNKS:
                    cached.popitem(last=False)
        needed += int(part.length.sum())
        samples += part.num_samples
    return touched / samples, fetched / needed, fetches / samples


def packing_row(mix: str, table: CorpusTable, sample_length: int, packing: str) -> Row:
    settings = settings_of(table, sample_length, packing, 1 << 26)
    statistics = open_statistics(table, settings)
    started = time.perf_counter()
    parts = list(plan_parts(table, settings))
    seconds = time.perf_counter() - started
    for part in parts:
        statistics.add(part)
    tokens, padding = int(statistics.tokens.sum()), int(statistics.padding.sum())
    return {
        "mix": mix,
        "sample_length": sample_length,
        "packing": packing,
        "samples": settings.num_samples,
        "padding_percent": 100 * padding / (tokens + padding),
        "cut_percent": 100 * cut_share(table, parts, sample_length),
        "spans_per_sample": statistics.num_spans / settings.num_samples,
        "samples_per_s": settings.num_samples / seconds,
    }


def shuffle_row(mix: str, table: CorpusTable, sample_length: int, shuffle_tokens: int) -> Row:
    settings = settings_of(table, sample_length, "best_fit", shuffle_tokens)
    statistics = open_statistics(table, settings)
    parts = list(plan_parts(table, settings))
    for part in parts:
        statistics.add(part)
    touched, amplification, fetches = reads(table, parts)
    return {
        "mix": mix,
        "shuffle_tokens": shuffle_tokens,
        "sample_length": sample_length,
        "chunks": table.num_chunks,
        "neighbours_percent": 100 * statistics.neighbours_in_chunk / max(1, statistics.neighbours),
        "neighbour_distance": statistics.neighbour_distance / max(1, statistics.neighbours),
        "chunks_per_sample": touched,
        "read_per_needed": amplification,
        "fetches_per_sample": fetches,
    }


def run(tiny: bool, output: Path | None) -> tuple[list[Row], list[Row]]:
    num_tokens = 1 << 20 if tiny else 1 << 28
    tables = {mix: table_of(mix, num_tokens) for mix in MIXES}
    sizes = (4096,) if tiny else (4096, 8192, 32768)
    packed = [
        packing_row(mix, table, sample_length, packing)
        for mix, table in tables.items()
        for sample_length in sizes
        for packing in ("best_fit", "sequential")
    ]
    windows = (0, 1 << 18) if tiny else (0, 1 << 20, 1 << 22, 1 << 24, 32_000_000, 1 << 26, 1 << 28)
    shuffled = [shuffle_row(mix, tables[mix], 4096 if tiny else 8192, window) for mix in MIXES for window in windows]
    report("packing", packed, PACKING_COLUMNS, output, [f"corpora of {num_tokens:,} tokens; aim: padding under 1 %."])
    remark = f"chunks of {CHUNK_TOKENS:,} tokens, {CACHED_CHUNKS} kept; shuffle_tokens 0: not shuffled."
    report("shuffle", shuffled, SHUFFLE_COLUMNS, output, [remark])
    return packed, shuffled


def main() -> None:
    given = arguments(__doc__)
    run(given.tiny, given.output)


if __name__ == "__main__":
    main()
