"""What a plan takes from a corpus, counted part by part in memory that does not grow with the plan.

`planner/` prints and plots the figures. Parts that were read back from a file count as well as fresh ones.
"""

from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from longspan.sampling.mix import Mixture, asked_mixture, shares_at
from longspan.sampling.plan import PlanPart
from longspan.sampling.settings import PlanSettings
from longspan.sampling.table import CorpusTable

MOST_TIME_BINS = 200
LENGTH_BUCKETS = 32
"""Bucket b holds documents of 2**b to 2**(b + 1) - 1 tokens."""

_MOST_EPOCHS = 64
"""Samples of later epochs are counted in the last place of `samples_by_epoch`."""

_SLICE_DOCUMENTS = 1 << 20


@dataclass
class PlanStatistics:
    """Counts over the parts of one plan, added in order; `open_statistics` makes an empty one.

    Attributes:
        table, settings: what the plan was built from.
        asked: the mix that the settings ask for.
        time_borders: int64 [num_bins + 1], samples at which the time bins begin, and the end of the run.
        samples: int64 [num_sources].
        tokens: int64 [num_sources], without padding.
        padding: int64 [num_sources], tokens.
        trained_by_time: int64 [num_bins, num_sources], tokens that are trained.
        asked_by_time: float64 [num_bins, num_sources], those of them that the mix asks for, before limits.
        drawn_by_length: int64 [num_sources, LENGTH_BUCKETS], tokens by the length of the document they are of.
        long_tokens: int64 [num_sources], tokens of documents of at least the source's upsampling threshold.
        samples_by_epoch: int64 [num_sources, num_epochs], by the epoch that a sample begins in.
        largest_epoch: int64 [num_sources], from 0; -1 without samples.
        num_spans: spans of all samples.
        squared_lengths: sum of the squares of the spans' lengths.
        neighbours: pairs of samples that follow each other.
        neighbours_in_chunk: those whose first documents begin in the same chunk.
        neighbour_distance: sum over those pairs of the distance of their first documents, in chunks.
        chunk_reads: int64 [num_chunks + 1], rises and falls of the number of spans that touch a chunk.
    """

    table: CorpusTable
    settings: PlanSettings
    asked: Mixture
    time_borders: NDArray[np.int64]
    samples: NDArray[np.int64]
    tokens: NDArray[np.int64]
    padding: NDArray[np.int64]
    trained_by_time: NDArray[np.int64]
    asked_by_time: NDArray[np.float64]
    drawn_by_length: NDArray[np.int64]
    long_tokens: NDArray[np.int64]
    samples_by_epoch: NDArray[np.int64]
    largest_epoch: NDArray[np.int64]
    chunk_reads: NDArray[np.int64]
    num_spans: int = 0
    squared_lengths: int = 0
    neighbours: int = 0
    neighbours_in_chunk: int = 0
    neighbour_distance: int = 0
    _last_chunk: int | None = field(default=None, repr=False)

    def add(self, part: PlanPart) -> None:
        """Counts one more part; parts come in the order of the plan."""
        num_sources = len(self.table.source_names)
        num_spans = np.diff(part.span_offsets)
        span_source = np.repeat(part.source, num_spans)
        length = part.length.astype(np.int64)
        used = np.add.reduceat(length, part.span_offsets[:-1])
        np.add.at(self.samples, part.source, 1)
        np.add.at(self.tokens, part.source, used)
        np.add.at(self.padding, part.source, self.settings.sample_length - used)
        at = np.arange(part.first_sample, part.first_sample + part.num_samples)
        time_bin = np.searchsorted(self.time_borders, at, side="right") - 1
        trained = np.minimum(used, self.settings.trained_length)
        np.add.at(self.trained_by_time, (time_bin, part.source), trained)
        np.add.at(self.asked_by_time, time_bin, trained[:, None] * shares_at(self.asked, at))
        whole = np.asarray(self.table.length[part.document])
        np.add.at(self.drawn_by_length, (span_source, length_bucket(whole)), length)
        is_long = whole >= _thresholds(self.table, self.settings)[span_source]
        np.add.at(self.long_tokens, span_source[is_long], length[is_long])
        np.add.at(self.samples_by_epoch, (part.source, np.minimum(part.epoch, _MOST_EPOCHS - 1)), 1)
        for number in range(num_sources):
            epochs = part.epoch[part.source == number]
            self.largest_epoch[number] = max(self.largest_epoch[number], int(epochs.max(initial=-1)))
        self.num_spans += int(num_spans.sum())
        self.squared_lengths += int((length**2).sum())
        self._add_chunks(part)

    def _add_chunks(self, part: PlanPart) -> None:
        # A sample's first document and its tokens are in the same chunk, but for a document longer than a chunk.
        first = np.searchsorted(self.table.chunk_offset, part.offset, side="right") - 1
        last = np.searchsorted(self.table.chunk_offset, part.offset + part.length - 1, side="right") - 1
        np.add.at(self.chunk_reads, first, 1)
        np.add.at(self.chunk_reads, last + 1, -1)
        units = self.table.units
        documents = part.document[part.span_offsets[:-1]]
        begins_in = units[np.searchsorted(self.table.chunk_document[units], documents, side="right") - 1]
        before = [] if self._last_chunk is None else [self._last_chunk]
        distance = np.abs(np.diff(np.concatenate([np.array(before, dtype=np.int64), begins_in])))
        self.neighbours += int(distance.size)
        self.neighbours_in_chunk += int((distance == 0).sum())
        self.neighbour_distance += int(distance.sum())
        self._last_chunk = int(begins_in[-1])


def open_statistics(table: CorpusTable, settings: PlanSettings) -> PlanStatistics:
    """Empty counts for a plan of `settings` over `table`."""
    num_sources, num_bins = len(table.source_names), min(MOST_TIME_BINS, settings.steps)
    # Bins of whole steps.
    steps = np.linspace(0, settings.steps, num_bins + 1).round().astype(np.int64)
    by_source = [np.zeros(num_sources, dtype=np.int64) for _ in range(5)]
    return PlanStatistics(
        table=table,
        settings=settings,
        asked=asked_mixture(settings, table.source_names, table.source_tokens),
        time_borders=steps * settings.global_batch_size,
        samples=by_source[0],
        tokens=by_source[1],
        padding=by_source[2],
        trained_by_time=np.zeros((num_bins, num_sources), dtype=np.int64),
        asked_by_time=np.zeros((num_bins, num_sources)),
        drawn_by_length=np.zeros((num_sources, LENGTH_BUCKETS), dtype=np.int64),
        long_tokens=by_source[3],
        samples_by_epoch=np.zeros((num_sources, _MOST_EPOCHS), dtype=np.int64),
        largest_epoch=by_source[4] - 1,
        chunk_reads=np.zeros(table.num_chunks + 1, dtype=np.int64),
    )


def corpus_lengths(table: CorpusTable, settings: PlanSettings) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """What `drawn_by_length` and `long_tokens` are when every document comes once: the corpus before upsampling.

    Returns:
        int64 [num_sources, LENGTH_BUCKETS] and int64 [num_sources], tokens. Reads all lengths, a slice at a time.
    """
    num_sources = len(table.source_names)
    by_length = np.zeros((num_sources, LENGTH_BUCKETS), dtype=np.int64)
    long_tokens = np.zeros(num_sources, dtype=np.int64)
    thresholds = _thresholds(table, settings)
    for begin in range(0, table.num_documents, _SLICE_DOCUMENTS):
        length = np.asarray(table.length[begin : begin + _SLICE_DOCUMENTS]).astype(np.int64)
        unit = (
            np.searchsorted(table.chunk_document[table.units], np.arange(begin, begin + length.size), side="right") - 1
        )
        source = table.chunk_source[table.units[unit]]
        np.add.at(by_length, (source, length_bucket(length)), length)
        is_long = length >= thresholds[source]
        np.add.at(long_tokens, source[is_long], length[is_long])
    return by_length, long_tokens


def length_bucket(length: NDArray[np.integer[Any]]) -> NDArray[np.int64]:
    """int64, the power of two at or below each length (at least 1)."""
    return (np.frexp(length.astype(np.float64))[1] - 1).astype(np.int64)


def figures(statistics: PlanStatistics) -> dict[str, Any]:
    """The counts and what follows from them, ready for JSON.

    Returns:
        samples, tokens, padding_tokens, padding_share: of the whole plan.
        spans_per_sample: mean.
        mean_attended_length: tokens of the document piece that a token stands in, mean over tokens.
        sources: by name: samples, tokens, padding_tokens, share_of_samples, share_of_tokens (those trained),
            asked_share (of these, before limits), epochs (tokens drawn by the expected tokens of an epoch, copies
            included), max_epochs (None: no limit),
            largest_epoch (that a sample begins in, from 0; -1 without samples), samples_by_epoch (from epoch 0),
            long_tokens (of documents of at least the upsampling threshold; 0 where there is none), long_share,
            upsample_asked and upsample_achieved (how many times as often a token of a long document is drawn as one of
            a short; None where there is no upsampling, or not both kinds), documents, corpus_tokens,
            corpus_long_tokens, corpus_long_share, tokens_by_length and corpus_tokens_by_length ({lower border of a
            power-of-two bucket: tokens}).
        mix_over_time: first_step of each bin, and by source the asked and the achieved share of its trained tokens.
        shuffle: neighbours_in_same_chunk (share of the pairs of neighbouring samples), mean_neighbour_distance
            (chunks), chunks, chunks_touched.
    """
    s = statistics
    num_samples = max(1, int(s.samples.sum()))
    tokens, padding = int(s.tokens.sum()), int(s.padding.sum())
    pairs = max(1, s.neighbours)
    return {
        "samples": int(s.samples.sum()),
        "tokens": tokens,
        "padding_tokens": padding,
        "padding_share": padding / max(1, tokens + padding),
        "spans_per_sample": s.num_spans / num_samples,
        "mean_attended_length": s.squared_lengths / max(1, tokens),
        "sources": _source_figures(s),
        "mix_over_time": _mix_over_time(s),
        "shuffle": {
            "neighbours_in_same_chunk": s.neighbours_in_chunk / pairs,
            "mean_neighbour_distance": s.neighbour_distance / pairs,
            "chunks": s.table.num_chunks,
            "chunks_touched": int((np.cumsum(s.chunk_reads)[:-1] > 0).sum()),
        },
    }


def _source_figures(s: PlanStatistics) -> dict[str, dict[str, Any]]:
    corpus_by_length, corpus_long = corpus_lengths(s.table, s.settings)
    trained, asked = s.trained_by_time.sum(axis=0), s.asked_by_time.sum(axis=0)
    all_trained = max(1, int(trained.sum()))
    result: dict[str, dict[str, Any]] = {}
    for number, name in enumerate(s.table.source_names):
        tokens, corpus_tokens = int(s.tokens[number]), int(s.table.source_tokens[number])
        long_tokens, long_corpus = int(s.long_tokens[number]), int(corpus_long[number])
        upsample = s.settings.upsample.get(name)
        epoch_tokens = corpus_tokens if upsample is None else corpus_tokens + (upsample.ratio - 1) * long_corpus
        result[name] = {
            "samples": int(s.samples[number]),
            "tokens": tokens,
            "padding_tokens": int(s.padding[number]),
            "share_of_samples": int(s.samples[number]) / max(1, int(s.samples.sum())),
            "share_of_tokens": int(trained[number]) / all_trained,
            "asked_share": float(asked[number]) / all_trained,
            "epochs": tokens / max(1, epoch_tokens),
            "max_epochs": s.settings.max_epochs.get(name),
            "largest_epoch": int(s.largest_epoch[number]),
            "samples_by_epoch": s.samples_by_epoch[number, : int(s.largest_epoch[number]) + 1].tolist(),
            "long_tokens": long_tokens,
            "long_share": long_tokens / max(1, tokens),
            "upsample_asked": None if upsample is None else upsample.ratio,
            "upsample_achieved": _upsampled(long_tokens, tokens, long_corpus, corpus_tokens),
            "documents": int(s.table.source_documents[number]),
            "corpus_tokens": corpus_tokens,
            "corpus_long_tokens": long_corpus,
            "corpus_long_share": long_corpus / max(1, corpus_tokens),
            "tokens_by_length": _by_border(s.drawn_by_length[number]),
            "corpus_tokens_by_length": _by_border(corpus_by_length[number]),
        }
    return result


def _upsampled(long_tokens: int, tokens: int, long_corpus: int, corpus_tokens: int) -> float | None:
    short_tokens, short_corpus = tokens - long_tokens, corpus_tokens - long_corpus
    if long_corpus == 0 or short_corpus == 0 or short_tokens == 0:
        return None
    return (long_tokens / long_corpus) / (short_tokens / short_corpus)


def _mix_over_time(s: PlanStatistics) -> dict[str, Any]:
    trained = np.maximum(s.trained_by_time.sum(axis=1, keepdims=True), 1)
    asked_share, achieved = s.asked_by_time / trained, s.trained_by_time / trained
    names = s.table.source_names
    return {
        "first_step": (s.time_borders[:-1] // s.settings.global_batch_size).tolist(),
        "asked": {name: asked_share[:, number].tolist() for number, name in enumerate(names)},
        "achieved": {name: achieved[:, number].tolist() for number, name in enumerate(names)},
    }


def _by_border(tokens: NDArray[np.int64]) -> dict[str, int]:
    return {str(1 << bucket): int(tokens[bucket]) for bucket in np.flatnonzero(tokens).tolist()}


def _thresholds(table: CorpusTable, settings: PlanSettings) -> NDArray[np.int64]:
    """int64 [num_sources], tokens from which a document counts as long; sources not upsampled have no long ones."""
    never = np.iinfo(np.int64).max
    return np.array(
        [settings.upsample[name].threshold if name in settings.upsample else never for name in table.source_names],
        dtype=np.int64,
    )
