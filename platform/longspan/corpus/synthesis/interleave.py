"""Long samples out of short documents: chunks of several documents interleaved (CIP) or shuffled (Untie-the-Knots).

Works on document lengths alone and answers with pieces in output order, so whoever holds the tokens (a sample's spans,
a unit of `prepare`) can apply it. Pure: numpy only.

What is known and what is ours. CIP (LongSkywork, arXiv 2406.00605) is known here from its abstract and from how others
describe and rebuild it: every document is cut at random into m chunks, the chunks follow one another round-robin
(D1^1 D2^1 D3^1 D1^2 D2^2 D3^2 for m = 2, its best setting), attention is causal over the whole sample WITHOUT a
document mask, positions run on. Equal cuts and the rule for documents shorter than m come from the rebuild in the code
of Untie-the-Knots (UtK, arXiv 2409.04774), which puts the loss on all tokens. Ours: a number of chunks drawn per
document, and no target across a splice (`splices`). The document mask is the recipe's to set and off by default, as in
the paper; nothing here makes one. With a mask by chunk (borders at `splices`) nothing links the chunks of a document.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from longspan.errors import ConfigError

Cut = Literal["random", "equal"]
NAME_LENGTH = 6
_NAME_LETTERS = np.array(list("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789"))


class Pieces(NamedTuple):
    """Pieces of documents in output order; together they are every token of every document exactly once.

    Attributes:
        document: int64 [num_pieces], index into the lengths that were given.
        start: int64 [num_pieces], first token of the piece within its document.
        length: int64 [num_pieces], tokens in the piece, at least 1.
    """

    document: NDArray[np.int64]
    start: NDArray[np.int64]
    length: NDArray[np.int64]


@dataclass(frozen=True)
class Marks:
    """Token ids that UtK puts around cuts; each may be empty, then that mark is left out.

    Attributes:
        head: before a chunk that does not begin its document.
        tail: after a chunk that does not end its document.
        name_open, name_close: around the name at the begin of each chunk.
        recall_open, recall_between, recall_close: around and between the names that are recalled at the end.
    """

    head: tuple[int, ...] = ()
    tail: tuple[int, ...] = ()
    name_open: tuple[int, ...] = ()
    name_close: tuple[int, ...] = ()
    recall_open: tuple[int, ...] = ()
    recall_between: tuple[int, ...] = ()
    recall_close: tuple[int, ...] = ()


def window_sizes(length: NDArray[np.integer], window: int, rooms: Iterator[int]) -> NDArray[np.int64]:
    """How many tokens of the documents, laid end to end, go into each window: int64 [num_windows].

    A window takes text until that and the room of its pieces come to `window`, so it never holds more. Text at the end
    that does not use up a window is in none.

    Args:
        length: int [num_documents], tokens of each document, at least 1.
        window: tokens of a window, marks included.
        rooms: for each window in turn, tokens kept free for each of its pieces, all below `window`.

    Raises:
        ConfigError: `window` or a length is below 1.
    """
    if window < 1:
        raise ConfigError(f"window: {window}; must be >= 1")
    length = _checked(length)
    ends = np.cumsum(length)
    costs: dict[int, NDArray[np.int64]] = {}
    sizes: list[int] = []
    begin, total = 0, int(ends[-1]) if ends.size else 0
    while begin < total:
        room = next(rooms)
        if room not in costs:
            costs[room] = ends + room * np.arange(1, ends.size + 1)
        cost, first = costs[room], int(np.searchsorted(ends, begin, side="right"))
        limit = begin + room * first + window
        # Documents [first, last) fit whole; what is left may take the begin of the next.
        last = int(np.searchsorted(cost, limit, side="right"))
        left = limit - (int(cost[last - 1]) if last > first else begin + room * first)
        end = int(ends[last - 1]) if last > first else begin
        if last == ends.size:
            if left > room:
                break
        else:
            end += max(left - room, 0)
        sizes.append(end - begin)
        begin = end
    return np.array(sizes, np.int64)


def fill_windows(length: NDArray[np.integer], sizes: NDArray[np.integer]) -> tuple[NDArray[np.int64], Pieces]:
    """Lays documents end to end and cuts them into windows; what is left at the end is in none.

    Args:
        length: int [num_documents], tokens of each document, at least 1.
        sizes: int [num_windows], tokens of each window (`window_sizes`), at least 1.

    Returns:
        int64 [num_pieces], rising, the window of each piece; and the pieces.

    Raises:
        ConfigError: a length is below 1.
    """
    length = _checked(length)
    ends, bounds = np.cumsum(length), np.cumsum(sizes, dtype=np.int64)
    borders = np.union1d(ends, bounds)
    borders = borders[borders <= (bounds[-1] if bounds.size else 0)]
    begins = np.concatenate([[0], borders[:-1]]).astype(np.int64)[: borders.size]
    document = np.searchsorted(ends, begins, side="right")
    pieces = Pieces(document, begins - (ends - length)[document], borders - begins)
    return np.searchsorted(bounds, begins, side="right").astype(np.int64), pieces


def interleave(
    rng: np.random.Generator,
    length: NDArray[np.integer],
    *,
    chunks: int | tuple[int, int] = 2,
    cut: Cut = "random",
) -> Pieces:
    """Chunk interleaving, CIP-m: first the first chunks of all documents in order, then all second ones, and so on.

    Args:
        rng: source of every random choice.
        length: int [num_documents], tokens of each document, at least 1; together they are one sample.
        chunks: m, or bounds (both included) from which each document draws its own m. A document of fewer than m
            tokens is not cut and comes with the first chunks.
        cut: "random" (all sets of cut points are equally likely) or "equal" (chunks differ by one token at most).

    Raises:
        ConfigError: a length or m below 1, bounds out of order, or an unknown `cut`.
    """
    pieces, chunk = _cut(rng, _checked(length), chunks, cut)
    order = np.lexsort((pieces.document, chunk))
    return Pieces(*(part[order] for part in pieces))


def shuffle_chunks(
    rng: np.random.Generator,
    length: NDArray[np.integer],
    *,
    chunks: int | tuple[int, int] = (1, 3),
    cut: Cut = "random",
    keep_order: bool = True,
) -> Pieces:
    """Untie-the-Knots: the chunks of all documents in random order.

    The last chunk of the last document stays last, as in UtK's code: in a packed sample that document is the one that
    goes on behind the sample. The default number of chunks is our choice.

    Args:
        rng: source of every random choice.
        length: int [num_documents], tokens of each document, at least 1.
        chunks: see `interleave`.
        cut: see `interleave`.
        keep_order: the chunks of one document stay in their order (UtK's partial order).

    Raises:
        ConfigError: see `interleave`.
    """
    pieces, _ = _cut(rng, _checked(length), chunks, cut)
    count = pieces.document.size
    if not count:
        return pieces
    order = np.append(rng.permutation(count - 1), count - 1)
    if keep_order:
        # The places that fall to a document are handed to its chunks in rising order: any merge is equally likely.
        places = np.lexsort((np.arange(count), pieces.document[order]))
        order[places] = np.arange(count)
    return Pieces(*(part[order] for part in pieces))


def splices(pieces: Pieces) -> NDArray[np.int64]:
    """Where the text jumps: int64 [num_splices], rising, output index of each token that begins a new place.

    Such a token is no target (its loss weight is 0). Token 0, which nothing precedes, is not among them; neither is a
    piece that goes on where the one before it ends.
    """
    begins = np.cumsum(pieces.length) - pieces.length
    goes_on = (pieces.document[1:] == pieces.document[:-1]) & (
        pieces.start[1:] == pieces.start[:-1] + pieces.length[:-1]
    )
    return begins[1:][~goes_on]


def token_indices(pieces: Pieces, offset: NDArray[np.integer]) -> NDArray[np.int64]:
    """For each output token its index in the token array that holds the documents: int64 [num_tokens].

    Args:
        pieces: see Pieces.
        offset: int [num_documents], index of each document's first token in that array.
    """
    begins = np.cumsum(pieces.length) - pieces.length
    shift = offset[pieces.document] + pieces.start - begins
    return np.repeat(shift, pieces.length) + np.arange(int(pieces.length.sum()), dtype=np.int64)


def chunk_names(rng: np.random.Generator, count: int) -> list[str]:
    """`count` different random names of 6 letters and digits, for `tie_knots` (UtK's code names chunks so)."""
    names: dict[str, None] = {}
    while len(names) < count:
        letters = rng.choice(_NAME_LETTERS, size=(count - len(names), NAME_LENGTH))
        names.update(dict.fromkeys("".join(row) for row in letters))
    return list(names)


def tie_knots(
    documents: Sequence[NDArray[np.uint32]], pieces: Pieces, marks: Marks, names: Sequence[NDArray[np.uint32]]
) -> tuple[NDArray[np.uint32], NDArray[np.float32]]:
    """The tokens of `pieces` with UtK's hints: knots at cuts, a name per chunk, and the names recalled at the end.

    A document in one piece gets no marks. Every other chunk becomes [head] [name_open name name_close] text [tail], and
    behind the chunk that comes last in the sample the names of all chunks of the document follow, in document order:
    [recall_open] name [recall_between] name ... [recall_close]. So the sample grows; the caller leaves room.

    As in UtK's code, names that are recalled weigh 1, with the marks between and behind them, which say whether another
    one follows; all other marks, names in front of chunks and the first token of a chunk weigh nothing. Ours: nor does
    the first token behind a splice.

    Args:
        documents: token ids uint32 [length] of each document.
        pieces: see `shuffle_chunks`.
        marks: token ids of the marks.
        names: token ids uint32 [name_length] of each piece's name, in the order of `pieces`; empty ones for no names,
            then nothing is recalled.

    Returns:
        tokens uint32 [num_tokens] and loss_weight float32 [num_tokens], the weight of each token as a target.

    Raises:
        ConfigError: `names` are not as many as pieces.
    """
    if len(names) != pieces.document.size:
        raise ConfigError(f"tie_knots: {len(names)} names for {pieces.document.size} pieces; give one per piece")
    members = {number: np.flatnonzero(pieces.document == number) for number in np.unique(pieces.document).tolist()}
    jumps = set(splices(pieces).tolist())
    parts: list[tuple[NDArray[np.uint32], float]] = []
    place = 0
    for number, (document, start, length) in enumerate(zip(*(part.tolist() for part in pieces), strict=True)):
        text, own = documents[document][start : start + length], members[document]
        knotted = own.size > 1
        if knotted:
            parts += _mark(marks.head if start > 0 else ())
            parts += [*_mark(marks.name_open), (names[number], 0.0), *_mark(marks.name_close)]
        spliced = place in jumps or place == 0 or knotted
        parts += [(text[:1], 0.0 if spliced else 1.0), (text[1:], 1.0)]
        if knotted:
            parts += _mark(marks.tail if start + length < documents[document].size else ())
            if number == own[-1] and names[number].size:
                parts += _recall(marks, [names[other] for other in own[np.argsort(pieces.start[own])]])
        place += length
    if not parts:
        return np.zeros(0, np.uint32), np.zeros(0, np.float32)
    tokens = np.concatenate([ids for ids, _ in parts]).astype(np.uint32)
    weights = np.repeat([weight for _, weight in parts], [ids.size for ids, _ in parts])
    return tokens, weights.astype(np.float32)


def most_marks(marks: Marks, chunks: int, name_length: int) -> int:
    """Most tokens that `tie_knots` adds to a document of at most `chunks` chunks, with names of at most `name_length`
    tokens (0 for no names): those of a document of just so many chunks.
    """
    if chunks == 1:
        return 0
    cuts, named = chunks - 1, chunks * (len(marks.name_open) + name_length + len(marks.name_close))
    recall = len(marks.recall_open) + chunks * name_length + cuts * len(marks.recall_between) + len(marks.recall_close)
    return cuts * (len(marks.head) + len(marks.tail)) + named + (recall if name_length else 0)


def _mark(ids: tuple[int, ...], weight: float = 0.0) -> list[tuple[NDArray[np.uint32], float]]:
    return [(np.array(ids, np.uint32), weight)]


def _recall(marks: Marks, names: list[NDArray[np.uint32]]) -> list[tuple[NDArray[np.uint32], float]]:
    parts = _mark(marks.recall_open)
    for number, name in enumerate(names):
        parts += [*_mark(marks.recall_between if number else (), 1.0), (name, 1.0)]
    return parts + _mark(marks.recall_close, 1.0)


def _cut(
    rng: np.random.Generator, length: NDArray[np.int64], chunks: int | tuple[int, int], cut: Cut
) -> tuple[Pieces, NDArray[np.int64]]:
    """Chunks in document order, and the number int64 [num_pieces] of each within its document."""
    low, high = (chunks, chunks) if isinstance(chunks, int) else chunks
    if not 1 <= low <= high:
        raise ConfigError(f"chunks: {chunks}; must be at least 1, bounds in rising order")
    if cut not in ("random", "equal"):
        raise ConfigError(f"cut: {cut!r}; must be 'random' or 'equal'")
    asked = rng.integers(low, high, size=length.size, endpoint=True)
    count = np.where(length < asked, 1, asked)
    starts = np.zeros(int(count.sum()), np.int64)
    first = np.cumsum(count) - count
    for begin, number, size in zip(first.tolist(), count.tolist(), length.tolist(), strict=True):
        if cut == "equal":
            starts[begin : begin + number] = np.arange(number) * size // number
        else:
            starts[begin + 1 : begin + number] = np.sort(rng.choice(size - 1, number - 1, replace=False)) + 1
    document = np.repeat(np.arange(length.size), count)
    ends = np.append(starts[1:], 0)
    ends[first + count - 1] = length
    return Pieces(document, starts, ends - starts), np.arange(starts.size) - np.repeat(first, count)


def _checked(length: NDArray[np.integer]) -> NDArray[np.int64]:
    if length.size and length.min() < 1:
        raise ConfigError(f"document {int(np.argmin(length))}: {int(length.min())} tokens; must be >= 1")
    return length.astype(np.int64)
