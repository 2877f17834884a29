"""An endless stream of one source's documents, epoch after epoch, and its cut into spans.

`plan` asks for the first tokens of each source's stream and deals the samples out by the mix.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

_COPIES, _ORDER = 1, 2
"""Tags that keep the random streams of one epoch apart."""


@dataclass(frozen=True)
class Spans:
    """Pieces of documents in stream order, cut at document ends and at every `sample_length` tokens.

    Attributes:
        sample: int64 [num_spans], the stream's sample that the span belongs to (rising).
        document: int32 [num_spans], the document's number in the whole corpus.
        start: int32 [num_spans], first token of the span within its document.
        length: int32 [num_spans], tokens in the span, at least 1.
    """

    sample: NDArray[np.int64]
    document: NDArray[np.int32]
    start: NDArray[np.int32]
    length: NDArray[np.int32]


def epoch_documents(
    length: NDArray[np.int32], upsample: tuple[int, float] | None, seed: list[int], previous: int | None
) -> NDArray[np.int64]:
    """Order of one epoch's documents, upsampled ones more than once.

    Args:
        length: int32 [num_documents], tokens of each document, all above 0.
        upsample: (threshold, ratio): a document of at least `threshold` tokens is drawn floor(ratio) times and once
            more with the fractional probability (length upsampling inside a source: Fu et al., 2402.10171).
        seed: entropy of this epoch.
        previous: the document that the epoch before ended with.

    Returns:
        int64 [num_drawn], indices into `length`. A document never follows itself unless no order avoids it.
    """
    documents = np.arange(length.size)
    if upsample is not None:
        threshold, ratio = upsample
        extra = np.random.default_rng([*seed, _COPIES]).random(length.size) < ratio % 1.0
        documents = np.repeat(documents, np.where(length >= threshold, int(ratio) + extra, 1))
    rng = np.random.default_rng([*seed, _ORDER])
    return _without_neighbours(rng.permutation(documents), previous, rng)


def _without_neighbours(order: NDArray[np.int64], previous: int | None, rng: np.random.Generator) -> NDArray[np.int64]:
    """`order` with every document that follows itself moved elsewhere, as far as that is possible.

    Runs are shortened to one, then each document taken out goes into a random gap between two others: one between two
    copies of another document, if there is one, so that they are kept apart too. Where no gap is left, every gap
    touches that document already, and it has to wait for others to be put between its copies.
    """
    # The document before the epoch stands in front as a guard; nothing is put before it. -1 is no document.
    line = np.concatenate([[-1 if previous is None else previous], order])
    repeats = np.flatnonzero(line[1:] == line[:-1]) + 1
    moved, line = line[repeats], np.delete(line, repeats)
    for document in moved:
        free = line != document
        gaps = np.flatnonzero(free & np.append(free[1:], True)) + 1
        between_copies = gaps[np.append(line, -2)[gaps] == line[gaps - 1]]
        gaps = between_copies if between_copies.size else gaps
        place = rng.choice(gaps) if gaps.size else line.size
        line = np.insert(line, place, document)
    return line[1:]


def stream_spans(
    documents: NDArray[np.int32],
    length: NDArray[np.int32],
    *,
    num_samples: int,
    sample_length: int,
    upsample: tuple[int, float] | None,
    seed: list[int],
) -> Spans:
    """The spans of a source's first `num_samples` samples; sample k covers tokens [k * L, (k + 1) * L) of its stream.

    The stream depends on the documents, `upsample` and `seed` only, so more samples never change the first ones.

    Args:
        documents: int32 [num_documents], their numbers in the corpus.
        length: int32 [num_documents], tokens of each, all above 0; at least one document.
        num_samples: samples to cut, at least 1.
        sample_length: L, tokens of a sample.
        upsample: see `epoch_documents`.
        seed: entropy of the source; the epoch's number is appended to it.
    """
    needed, reached, previous, epoch = num_samples * sample_length, 0, None, 0
    orders = []
    while reached < needed:
        order = epoch_documents(length, upsample, [*seed, epoch], previous)
        orders.append(order)
        reached += int(length[order].sum(dtype=np.int64))
        previous, epoch = int(order[-1]), epoch + 1
    order = np.concatenate(orders)
    # begins[i] is where document order[i] begins in the stream; every begin and every sample border is a cut.
    ends = np.cumsum(length[order], dtype=np.int64)
    begins = ends - length[order]
    cuts = np.union1d(begins[begins < needed], np.arange(num_samples + 1, dtype=np.int64) * sample_length)
    at = cuts[:-1]
    drawn = np.searchsorted(begins, at, side="right") - 1
    return Spans(
        sample=at // sample_length,
        document=documents[order[drawn]].astype(np.int32),
        start=(at - begins[drawn]).astype(np.int32),
        length=np.diff(cuts).astype(np.int32),
    )
