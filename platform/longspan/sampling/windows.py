"""The endless stream of one source's documents, epoch after epoch, in windows that are shuffled one at a time.

An epoch is a permutation of chunks cut into windows of about `shuffle_tokens` tokens; inside a window the documents are
permuted. So reads stay near each other, and what is held is by chunks and by the window, never by all documents.
`plan` runs one stream a source and hands its windows to `packing`.
"""

import hashlib
import itertools
import math
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from longspan.sampling.settings import PlanSettings, Upsample
from longspan.sampling.table import CorpusTable

STREAM = 12
"""Tag that keeps the streams of the sources apart from the mix, which draws from the same seed."""

_ORDER, _WINDOW, _COPIES = 1, 2, 3
"""Tags of the chunk order, the document order and the fractional copies of an epoch."""

_SLICE_DOCUMENTS = 1 << 20


@dataclass(frozen=True)
class Window:
    """Documents in stream order.

    Attributes:
        document: int64 [num_drawn], document numbers in the corpus.
        offset: int64 [num_drawn], first token of each in the global token stream.
        length: int32 [num_drawn], tokens.
        epoch: the source's epoch, from 0.
        number: place of the window in its epoch, from 0.
    """

    document: NDArray[np.int64]
    offset: NDArray[np.int64]
    length: NDArray[np.int32]
    epoch: int
    number: int


@dataclass(frozen=True)
class Source:
    """One source of a corpus, as its stream needs it.

    Attributes:
        table: the corpus.
        key: entropy of the source's streams: the seed and its name, so that a source added to the corpus leaves the
            others' streams as they are.
        units: int64 [num_units], its chunks in which documents begin: what the epoch's order permutes.
        tokens: int64 [num_units], tokens of each unit's documents, whole.
        long_tokens: int64 [num_units], tokens of its documents of at least the threshold; zeros without upsampling.
        upsample: None where every document comes once an epoch.
    """

    table: CorpusTable
    key: tuple[int, ...]
    units: NDArray[np.int64]
    tokens: NDArray[np.int64]
    long_tokens: NDArray[np.int64]
    upsample: Upsample | None

    @property
    def epoch_tokens(self) -> float:
        """Tokens of an epoch; with a fractional ratio, those expected."""
        ratio = 1.0 if self.upsample is None else self.upsample.ratio
        return float(self.tokens.sum()) + (ratio - 1.0) * float(self.long_tokens.sum())


def open_source(table: CorpusTable, number: int, settings: PlanSettings) -> Source:
    """The source at place `number` of `table.source_names`; reads all its lengths once if it is upsampled."""
    name = table.source_names[number]
    chunks = np.flatnonzero(table.chunk_source == number)
    units = table.units[table.chunk_source[table.units] == number]
    # The continuation of a long document belongs to the unit in which it begins.
    of_unit = np.searchsorted(units, chunks, side="right") - 1
    tokens = np.zeros(units.size, dtype=np.int64)
    np.add.at(tokens, of_unit, table.chunk_tokens[chunks])
    upsample = settings.upsample.get(name)
    if upsample is not None and upsample.ratio <= 1.0:
        upsample = None
    digest = int.from_bytes(hashlib.sha256(name.encode()).digest()[:8], "little")
    return Source(
        table=table,
        key=(settings.seed, STREAM, digest),
        units=units,
        tokens=tokens,
        long_tokens=np.zeros_like(tokens) if upsample is None else _long_tokens(table, units, upsample.threshold),
        upsample=upsample,
    )


def _long_tokens(table: CorpusTable, units: NDArray[np.int64], threshold: int) -> NDArray[np.int64]:
    first = table.chunk_document[units]
    ends = first + table.chunk_documents[units]
    total = np.zeros(units.size, dtype=np.int64)
    begin = 0
    while begin < units.size:
        stop = max(begin + 1, int(np.searchsorted(ends, first[begin] + _SLICE_DOCUMENTS, side="right")))
        lengths = np.asarray(table.length[int(first[begin]) : int(ends[stop - 1])])
        long_lengths = np.where(lengths >= threshold, lengths, 0).astype(np.int64)
        total[begin:stop] = np.add.reduceat(long_lengths, first[begin:stop] - first[begin])
        begin = stop
    return total


def stream_windows(
    source: Source, shuffle: bool, shuffle_tokens: int, num_epochs: int | None = None
) -> Iterator[Window]:
    """All windows of `num_epochs` epochs, or without end; none is empty.

    A document never follows itself unless no order of its window avoids it, not even over the border of two windows.
    """
    previous: int | None = None
    for epoch in itertools.count() if num_epochs is None else range(num_epochs):
        for number, (units, copies) in enumerate(_epoch_windows(source, epoch, shuffle, shuffle_tokens)):
            rng = np.random.default_rng([*source.key, epoch, _WINDOW, number])
            document, offset = _documents_of(source, units, copies, epoch)
            if document.size == 0:
                continue
            if shuffle:
                order = _copies_spread(document, rng)
                document, offset = document[order], offset[order]
            apart = without_neighbours(document, previous, rng)
            document, offset = document[apart], offset[apart]
            previous = int(document[-1])
            yield Window(document, offset, np.asarray(source.table.length[document]), epoch, number)


def _epoch_windows(
    source: Source, epoch: int, shuffle: bool, shuffle_tokens: int
) -> Iterator[tuple[NDArray[np.int64], NDArray[np.int64]]]:
    """Places in `source.units`, and which copy of each (0: all documents; 1...: the long ones again), by window."""
    units, tokens = np.arange(source.units.size), source.tokens.astype(np.float64)
    copies = np.zeros_like(units)
    if source.upsample is not None:
        again = np.flatnonzero(source.long_tokens)
        for copy in range(1, math.ceil(source.upsample.ratio)):
            drawn = source.long_tokens[again] * min(1.0, source.upsample.ratio - copy)
            units, tokens = np.concatenate([units, again]), np.concatenate([tokens, drawn])
            copies = np.concatenate([copies, np.full_like(again, copy)])
    if shuffle:
        order = _copies_spread(units, np.random.default_rng([*source.key, epoch, _ORDER]))
    else:
        order = np.argsort(units, kind="stable")
    units, copies, tokens = units[order], copies[order], tokens[order]
    begins = np.cumsum(tokens) - tokens
    # Windows of equal size rather than full ones and a rest: a small last window would be shuffled with nothing.
    num_windows = max(1, round(float(tokens.sum()) / shuffle_tokens))
    window = np.floor(begins * (num_windows / max(float(tokens.sum()), 1.0))).astype(np.int64)
    cuts = np.flatnonzero(np.diff(window, prepend=-1, append=num_windows + 1))
    for begin, stop in zip(cuts[:-1].tolist(), cuts[1:].tolist(), strict=True):
        yield units[begin:stop], copies[begin:stop]


def _documents_of(
    source: Source, units: NDArray[np.int64], copies: NDArray[np.int64], epoch: int
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Documents (and the first token of each) that these occurrences of units bring, in their order."""
    table, chunks = source.table, source.units[units]
    first, count = table.chunk_document[chunks], table.chunk_documents[chunks].astype(np.int64)
    ends = np.cumsum(count)
    document = np.arange(ends[-1]) + np.repeat(first - (ends - count), count)
    length = np.asarray(table.length[document], dtype=np.int64)
    before = np.cumsum(length) - length
    offset = before + np.repeat(table.chunk_offset[chunks] - before[ends - count], count)
    if source.upsample is None:
        return document, offset
    copy = np.repeat(copies, count)
    chance = source.upsample.ratio - copy
    relative = document - table.chunk_document[source.units[0]]
    again = (length >= source.upsample.threshold) & (uniform([*source.key, epoch, _COPIES], relative) < chance)
    taken = (copy == 0) | again
    return document[taken], offset[taken]


def _copies_spread(line: NDArray[np.int64], rng: np.random.Generator) -> NDArray[np.int64]:
    """A random order of `line` (places in it) in which the copies of an entry stand evenly apart.

    So any stretch of an epoch holds of every upsampled document about as many copies as the ratio wants.
    """
    _, entry, copies = np.unique(line, return_inverse=True, return_counts=True)
    if copies.size == line.size:
        return rng.permutation(line.size)
    copy = np.empty(line.size, dtype=np.int64)
    copy[np.argsort(entry, kind="stable")] = np.arange(line.size) - np.repeat(np.cumsum(copies) - copies, copies)
    return np.argsort((rng.random(copies.size)[entry] + copy / copies[entry]) % 1.0, kind="stable")


def uniform(key: list[int], number: NDArray[np.int64]) -> NDArray[np.float64]:
    """float64 in [0, 1) for each number, the same wherever and whenever it is asked for.

    The SplitMix64 generator's output function (Steele, Lea and Flood, "Fast splittable pseudorandom number generators",
    2014) as a hash.
    """
    bits = number.astype(np.uint64) * np.uint64(0x9E3779B97F4A7C15) + np.random.SeedSequence(key).generate_state(
        1, np.uint64
    )
    bits = (bits ^ (bits >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    bits = (bits ^ (bits >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return ((bits ^ (bits >> np.uint64(31))) >> np.uint64(11)).astype(np.float64) * 2.0**-53


def without_neighbours(line: NDArray[np.int64], previous: int | None, rng: np.random.Generator) -> NDArray[np.int64]:
    """Order of `line` in which no document follows itself, as far as that is possible; most stay in their order.

    Runs are shortened to one, then each entry taken out goes into a random gap between two others: one between two
    copies of another document, if there is one, so that they are kept apart too. Where no gap is left, every gap
    touches that document already, and it has to wait for others to be put between its copies.

    Args:
        line: int64 [num_drawn], document numbers, none negative.
        previous: the document before them.
        rng: draws the gaps.

    Returns:
        int64 [num_drawn], places in `line`.
    """
    # The document before stands in front as a guard; nothing is put before it. -1 is no document.
    line = np.concatenate([[-1 if previous is None else previous], line])
    repeats = np.flatnonzero(line[1:] == line[:-1]) + 1
    places = np.delete(np.arange(line.size) - 1, repeats)
    moved, line = list(zip(line[repeats].tolist(), (repeats - 1).tolist(), strict=True)), np.delete(line, repeats)
    for document, place in moved:
        free = line != document
        gaps = np.flatnonzero(free & np.append(free[1:], True)) + 1
        between_copies = gaps[np.append(line, -2)[gaps] == line[gaps - 1]]
        gaps = between_copies if between_copies.size else gaps
        gap = rng.choice(gaps) if gaps.size else line.size
        line, places = np.insert(line, gap, document), np.insert(places, gap, place)
    return places[1:]
