"""Documents of a source's windows packed into samples, best-fit or end to end.

Both packers are generators over windows: what does not fill a sample yet is carried over into the next window's
packing, so that a window's border costs no padding. An epoch ends with a seam: the one sample that holds all that is
left of it and is filled up with the next epoch. So no document comes again before all have come, however small the
source. `deal` draws the samples by the mix.
"""

from bisect import bisect_left, insort
from collections.abc import Collection, Iterator
from dataclasses import dataclass, replace
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from longspan.sampling.windows import Window

_GROUP_DOCUMENTS = 1 << 16
_GROUP_SAMPLES = 1 << 12
"""What is fitted at once: enough for hardly any padding, little enough for quick list operations."""

_LEAST_SAMPLES = 16
"""Windows of an epoch are put together until they hold so many samples."""

_FULL_ENOUGH = 0.998
_CARRIED_BINS, _CARRIED_SHARE = 4, 0.05
_LONGEST_WAIT = 512
"""Bins below `_FULL_ENOUGH` wait for the next group's documents: the worst filled ones, at most so many or that share
of all, and a document until so many samples have gone before it."""

_SEAM_PADDING = 0.01
"""Padding of a seam, as a share of the tokens at hand, for which copies of a document are kept apart in it."""

_FEW_SAMPLES = 256
"""Of so many, one sample with the shortest documents for the epoch's end would be missed before."""

_BIN_BITS = 24
_BIN_MASK = (1 << _BIN_BITS) - 1


@dataclass(frozen=True)
class Pieces:
    """Pieces of documents, none longer than a sample.

    Attributes:
        document: int64 [num_pieces], document numbers in the corpus.
        offset: int64 [num_pieces], first token of each in the global token stream.
        length: int32 [num_pieces], tokens, at least 1.
        epoch: int32 [num_pieces], the source's epoch that drew it.
        waited: int32 [num_pieces], samples of its epoch that went while the piece waited.
    """

    document: NDArray[np.int64]
    offset: NDArray[np.int64]
    length: NDArray[np.int32]
    epoch: NDArray[np.int32]
    waited: NDArray[np.int32]

    def take(self, index: NDArray[np.int64] | NDArray[np.bool_] | slice) -> "Pieces":
        return Pieces(
            self.document[index], self.offset[index], self.length[index], self.epoch[index], self.waited[index]
        )


@dataclass(frozen=True)
class Samples:
    """Samples of one source in stream order; sample i has the spans span_offsets[i] to span_offsets[i + 1].

    Attributes:
        span_offsets: int64 [num_samples + 1], from 0.
        document: int64 [num_spans], document numbers in the corpus.
        offset: int64 [num_spans], first token of each span in the global token stream.
        length: int32 [num_spans], tokens.
        epoch: int32 [num_samples], the source's epoch that the sample's first span comes from.
    """

    span_offsets: NDArray[np.int64]
    document: NDArray[np.int64]
    offset: NDArray[np.int64]
    length: NDArray[np.int32]
    epoch: NDArray[np.int32]

    @property
    def num_samples(self) -> int:
        return int(self.epoch.size)

    @property
    def tokens(self) -> NDArray[np.int64]:
        """int64 [num_samples], tokens of each sample."""
        ends = np.concatenate([[0], np.cumsum(self.length, dtype=np.int64)])
        return np.diff(ends[self.span_offsets])

    def between(self, begin: int, stop: int) -> "Samples":
        """Samples begin to stop."""
        first, last = int(self.span_offsets[begin]), int(self.span_offsets[stop])
        return Samples(
            self.span_offsets[begin : stop + 1] - first,
            self.document[first:last],
            self.offset[first:last],
            self.length[first:last],
            self.epoch[begin:stop],
        )

    def reordered(self, order: NDArray[np.int64]) -> "Samples":
        """Samples order[0], order[1], ..."""
        num_spans = np.diff(self.span_offsets)[order]
        offsets = np.concatenate([[0], np.cumsum(num_spans)])
        take = np.arange(offsets[-1]) + np.repeat(self.span_offsets[:-1][order] - offsets[:-1], num_spans)
        return Samples(offsets, self.document[take], self.offset[take], self.length[take], self.epoch[order])


def joined(parts: list[Samples]) -> Samples:
    """Samples of all parts, one part after the other; at least one part."""
    if len(parts) == 1:
        return parts[0]
    begins = np.cumsum([0, *(int(part.span_offsets[-1]) for part in parts[:-1])])
    return Samples(
        np.concatenate([[0], *(part.span_offsets[1:] + begin for part, begin in zip(parts, begins, strict=True))]),
        np.concatenate([part.document for part in parts]),
        np.concatenate([part.offset for part in parts]),
        np.concatenate([part.length for part in parts]),
        np.concatenate([part.epoch for part in parts]),
    )


def pack_sequential(windows: Iterator[Window], sample_length: int) -> Iterator[tuple[Samples, Window]]:
    """Documents end to end, cut at every `sample_length` tokens: nothing is dropped, no sample is padded.

    Yields:
        The samples that some windows of an epoch complete, and the last of those windows. Only the first may begin in
        an earlier epoch.
    """
    rest = _no_pieces()
    for line, window, _ in _gathered(windows, _LEAST_SAMPLES * sample_length):
        pieces, sample = _cut(_joined_pieces([rest, line]), sample_length)
        complete = sample < int(pieces.length.sum(dtype=np.int64)) // sample_length
        rest = pieces.take(~complete)
        if complete.any():
            yield _samples_of(pieces.take(complete), sample[complete]), window


def pack_best_fit(windows: Iterator[Window], sample_length: int) -> Iterator[tuple[Samples, Window]]:
    """Documents whole where they fit (best-fit decreasing), longer ones cut first into full samples and a rest.

    The packing of Ding et al., "Fewer Truncations Improve Language Modeling" (arXiv 2404.10830), window by window.
    Copies of a document share a sample only where keeping them apart would cost padding.

    Yields:
        The samples that some windows of an epoch complete, and the last of those windows. Only the first may begin in
        an earlier epoch. Where the windows end, what is left comes as a sample of its own.
    """
    seam = waiting = _no_pieces()
    window = None
    for line, window, ends_epoch in _gathered(windows, _LEAST_SAMPLES * sample_length):
        parts = []
        groups = list(_groups(line, sample_length))
        for number, group in enumerate(groups, start=1):
            pieces = _joined_pieces([waiting, _cut_each(group, sample_length)])
            is_last = ends_epoch and number == len(groups)
            samples, seam, waiting = _fit_group(seam, pieces, sample_length, is_last)
            parts.append(samples)
        samples = joined(parts)
        if samples.num_samples:
            yield samples, window
    if window is not None and seam.length.size:
        yield _samples_of(seam, np.zeros(seam.length.size, dtype=np.int64)), window


def _gathered(windows: Iterator[Window], least_tokens: int) -> Iterator[tuple[Pieces, Window, bool]]:
    """Documents of an epoch's windows that hold `least_tokens` together, the last of those windows, and True where the
    epoch ends with it."""
    held: list[Pieces] = []
    tokens, last = 0, None
    for window in windows:
        if last is not None and (tokens >= least_tokens or window.epoch != last.epoch):
            yield _joined_pieces(held), last, window.epoch != last.epoch
            held, tokens = [], 0
        held.append(_pieces_of(window))
        tokens, last = tokens + int(window.length.sum(dtype=np.int64)), window
    if last is not None:
        yield _joined_pieces(held), last, True


def _groups(pieces: Pieces, sample_length: int) -> Iterator[Pieces]:
    before = np.cumsum(pieces.length, dtype=np.int64) - pieces.length
    place = np.arange(before.size, dtype=np.int64)
    group = np.maximum(before // (_GROUP_SAMPLES * sample_length), place // _GROUP_DOCUMENTS)
    cuts = [*np.flatnonzero(np.diff(group, prepend=-1)).tolist(), before.size]
    return (pieces.take(slice(begin, stop)) for begin, stop in pairwise(cuts))


def _fit_group(seam: Pieces, pieces: Pieces, sample_length: int, ends_epoch: bool) -> tuple[Samples, Pieces, Pieces]:
    """Samples to feed now, the seam that is open after them, and the pieces that wait for the next group.

    Args:
        seam: what is left of the epochs before: stays in one sample, which comes first.
        pieces: of one epoch.
        ends_epoch: True for the epoch's last group: none waits, and what has most room becomes the seam.
    """
    bins, num_bins = _fit_beside(seam, pieces, sample_length)
    if ends_epoch and num_bins <= _FEW_SAMPLES:
        bins = _mixed_seam(seam, pieces, sample_length, bins, num_bins)
    bins, pieces = np.concatenate([np.zeros(seam.length.size, np.int64), bins]), _joined_pieces([seam, pieces])
    fill = np.bincount(bins, weights=pieces.length, minlength=num_bins)
    age = np.zeros(num_bins, dtype=np.int64)
    np.maximum.at(age, bins, pieces.waited)
    # In the order of each sample's first piece, the seam's first of all, and inside a sample in stream order.
    first = np.full(num_bins, pieces.length.size)
    np.minimum.at(first, bins, np.arange(pieces.length.size))
    may_wait = fill < _FULL_ENOUGH * sample_length
    # The first bin is the seam's, and has to go before the others.
    may_wait[0] &= num_bins == 1 or not seam.length.size
    most = 1 if ends_epoch else max(_CARRIED_BINS, int(_CARRIED_SHARE * num_bins))
    if not ends_epoch:
        may_wait &= age < _LONGEST_WAIT
    waits = np.zeros(num_bins, dtype=np.bool_)
    candidates = np.flatnonzero(may_wait)
    waits[candidates[np.argsort(fill[candidates], kind="stable")[:most]]] = True
    go = np.flatnonzero(~waits[bins])
    order = go[np.argsort(first[bins[go]], kind="stable")]
    _, sample = np.unique(first[bins[order]], return_inverse=True)
    stay = pieces.take(waits[bins])
    samples = _samples_of(pieces.take(order), sample)
    if ends_epoch or (seam.length.size and num_bins == 1):
        return samples, stay, _no_pieces()
    return samples, _no_pieces(), replace(stay, waited=stay.waited + np.int32(num_bins - waits.sum()))


def _mixed_seam(
    seam: Pieces, pieces: Pieces, sample_length: int, bins: NDArray[np.int64], num_bins: int
) -> NDArray[np.int64]:
    """The bins again, as many, with the epoch's last documents in the emptiest instead of its shortest.

    Best-fit leaves the shortest for the end, so they would come late in every epoch, and meet their copies in its seam.
    Where the last documents do not fit together in as many bins, `bins` stays.
    """
    fill = np.bincount(bins, weights=pieces.length, minlength=num_bins)
    begin = 1 if seam.length.size else 0
    if num_bins - begin < 2:
        return bins
    room = int(fill[begin:].min())
    last = np.zeros(bins.size, dtype=np.bool_)
    for place, size in zip(range(bins.size - 1, -1, -1), pieces.length[::-1].tolist(), strict=True):
        if size <= room:
            last[place], room = True, room - size
    others, num_others = _fit_beside(seam, pieces.take(~last), sample_length)
    fill = np.bincount(others, weights=pieces.length[~last], minlength=num_bins)
    emptiest = begin + int(np.argmin(fill[begin:num_bins]))
    if num_others > num_bins or fill[emptiest] + pieces.length[last].sum() > sample_length:
        return bins
    mixed = np.full(bins.size, emptiest)
    mixed[~last] = others
    return mixed


def _fit_beside(seam: Pieces, pieces: Pieces, sample_length: int) -> tuple[NDArray[np.int64], int]:
    """`best_fit` with the seam in the first bin; its documents meet their copies only where it would be padded much."""
    seam_tokens, documents = int(seam.length.sum()), frozenset(seam.document.tolist())
    bins, num_bins = best_fit(pieces.length, pieces.document, sample_length, seam_tokens, documents)
    room = sample_length - seam_tokens - int(pieces.length[bins == 0].sum())
    if documents and num_bins > 1 and room > _SEAM_PADDING * int(pieces.length.sum(dtype=np.int64)):
        return best_fit(pieces.length, pieces.document, sample_length, seam_tokens)
    return bins, num_bins


def best_fit(
    length: NDArray[np.int32],
    document: NDArray[np.int64],
    capacity: int,
    seam_tokens: int = 0,
    seam_documents: Collection[int] = (),
) -> tuple[NDArray[np.int64], int]:
    """Best-fit decreasing: each piece, longest first, into the fullest bin that has room, else into a new one.

    Args:
        length: int32 [num_pieces], 1 to `capacity`.
        document: int64 [num_pieces]; pieces of the same document avoid each other's bins if that costs no bin.
        capacity: tokens of a bin.
        seam_tokens: tokens that are in the first bin already; 0 where there is no such bin.
        seam_documents: documents that these are of.

    Returns:
        int64 [num_pieces], the bin of each piece, and the number of bins.
    """
    order = np.lexsort((document, -length))
    smallest = int(length.min(initial=capacity)) << _BIN_BITS
    # Bins with room as room * 2**24 + number, rising: bisection finds the fullest that a piece fits into.
    free = [((capacity - seam_tokens) << _BIN_BITS)] if seam_tokens else []
    chosen: list[int] = []
    # So many are needed in any case: below it, a copy may open a bin to keep away from the others.
    least_bins = -(-(seam_tokens + int(length.sum(dtype=np.int64))) // capacity)
    num_bins, last = len(free), -1
    taken: list[int] = []
    for size, name in zip(
        (length[order].astype(np.int64) << _BIN_BITS).tolist(), document[order].tolist(), strict=True
    ):
        at = bisect_left(free, size)
        if name != last:
            last, taken = name, [0] if name in seam_documents else []
        if taken and at < len(free):
            at = _other_bin(free, at, taken, len(free) if num_bins < least_bins else at)
        if at == len(free):
            entry = (capacity << _BIN_BITS) | num_bins
            num_bins += 1
        else:
            entry = free.pop(at)
        chosen.append(entry & _BIN_MASK)
        taken.append(entry & _BIN_MASK)
        entry -= size
        if entry >= smallest:
            insort(free, entry)
    bins = np.empty(order.size, dtype=np.int64)
    bins[order] = chosen
    return bins, num_bins


def _other_bin(free: list[int], at: int, taken: list[int], otherwise: int) -> int:
    """Place in `free`, from `at` on, of the fullest bin outside `taken`; `otherwise` if there is none."""
    return next((place for place in range(at, len(free)) if free[place] & _BIN_MASK not in taken), otherwise)


def _cut(pieces: Pieces, sample_length: int) -> tuple[Pieces, NDArray[np.int64]]:
    """Pieces end to end cut at every `sample_length` tokens, and the sample (from 0) that each then belongs to."""
    ends = np.cumsum(pieces.length, dtype=np.int64)
    total = int(ends[-1])
    cuts = np.union1d(ends - pieces.length, np.arange(0, total, sample_length))
    piece = np.searchsorted(ends, cuts, side="right")
    return _parts_of(
        pieces, piece, cuts - (ends - pieces.length)[piece], np.diff(cuts, append=total)
    ), cuts // sample_length


def _cut_each(pieces: Pieces, sample_length: int) -> Pieces:
    """Each piece cut at every `sample_length` of its own tokens."""
    num_parts = (pieces.length.astype(np.int64) + sample_length - 1) // sample_length
    piece = np.repeat(np.arange(num_parts.size), num_parts)
    start = (np.arange(piece.size) - (np.cumsum(num_parts) - num_parts)[piece]) * sample_length
    return _parts_of(pieces, piece, start, np.minimum(pieces.length[piece] - start, sample_length))


def _parts_of(pieces: Pieces, piece: NDArray[np.int64], start: NDArray[np.int64], length: NDArray[np.int64]) -> Pieces:
    taken = pieces.take(piece)
    return Pieces(taken.document, taken.offset + start, length.astype(np.int32), taken.epoch, taken.waited)


def _joined_pieces(parts: list[Pieces]) -> Pieces:
    return Pieces(
        np.concatenate([part.document for part in parts]),
        np.concatenate([part.offset for part in parts]),
        np.concatenate([part.length for part in parts]),
        np.concatenate([part.epoch for part in parts]),
        np.concatenate([part.waited for part in parts]),
    )


def _pieces_of(window: Window) -> Pieces:
    epoch = np.full(window.length.size, window.epoch, dtype=np.int32)
    return Pieces(window.document, window.offset, window.length, epoch, np.zeros_like(epoch))


def _no_pieces() -> Pieces:
    long, short = np.zeros(0, dtype=np.int64), np.zeros(0, dtype=np.int32)
    return Pieces(long, long, short, short, short)


def _samples_of(pieces: Pieces, sample: NDArray[np.int64]) -> Samples:
    """Samples of pieces in sample order; `sample` counts from 0 without gaps."""
    offsets = np.concatenate([[0], np.cumsum(np.bincount(sample))]).astype(np.int64)
    return Samples(offsets, pieces.document, pieces.offset, pieces.length, pieces.epoch[offsets[:-1]])
