"""Methods that cut a document into a few chunks and move them: PoSE, CREAM and E2-LLM, from their papers' definitions.

Called by `assign`; `text_chunks`, which chooses text too, by the module of that name in `feed`. Every method makes a
table with a row a document and a column a chunk (a chunk may be empty), so no document is looked at by itself.
"""

import math
from functools import cache
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from longspan.errors import ConfigError
from longspan.positions.documents import Documents, open_documents, place_pieces
from longspan.positions.methods import (
    CREAM,
    E2LLM,
    MAX_TARGET_LENGTH,
    Int64Array,
    IntArray,
    LastChunk,
    PoSE,
    PositionArray,
    check_target_length,
)
from longspan.positions.subsets import below, sorted_subsets

_MAX_SCALED_TARGET = MAX_TARGET_LENGTH // 2
"""Divided by a scale, neighbours among more positions than this would round to one float32."""
_FLATTEST, _POINTS = 8.0, 8193


class TextChunks(NamedTuple):
    """Chunks of longer texts, in order, and the positions of their tokens.

    Attributes:
        starts: int64 [num_chunks], first token of each in the texts laid end to end; no chunk reaches into the next.
        lengths: int64 [num_chunks], tokens, at least 1.
        positions: float32 [lengths.sum()], strictly increasing from 0 in each text that has a chunk.
    """

    starts: Int64Array
    lengths: Int64Array
    positions: PositionArray


def pose_positions(method: PoSE, documents: Documents, rng: np.random.Generator) -> PositionArray:
    """PoSE: random chunk lengths, and before chunk i a skip u_i ~ U{u_(i-1)..target_length - num_tokens}, u_0 = 0.

    Chunk boundaries are a uniform choice of num_chunks - 1 distinct places (for two chunks: the first length is uniform
    on {1..n-1}). A document shorter than num_chunks has one token a chunk. arXiv 2309.10400, section 3.

    Returns:
        float32 [num_tokens], strictly increasing from 0 in each document, last < target_length.

    Raises:
        ConfigError: a `text_offset`, whose positions come with their text (`text_chunks`).
    """
    if method.text_offset != "none":
        raise ConfigError(
            f"positions.text_offset: '{method.text_offset}' needs a longer text to take chunks from; set"
            " data.selection.mode: chunks"
        )
    lengths = _pose_lengths(method, documents, rng)
    skips = _pose_skips(lengths, documents.unused, method.last_chunk, rng)
    return _moved(skips, lengths, documents)


def text_chunks(
    method: PoSE, lengths: IntArray, num_kept: int, target_length: int, rng: np.random.Generator
) -> TextChunks:
    """PoSE with text offsets: of each text as many chunks as PoSE draws, and the positions of their tokens.

    Chunk lengths and skips are those of `pose_positions`. With `text_offset` "same" a chunk is read where it is
    positioned, so a skip ends at the text's end instead of the window's, and tokens keep their places in the text as
    positions. With "uniform" chunk i is read v_i ~ U{v_(i-1)..tokens - kept} tokens further on than it would be without
    skips (v_0 = 0), its position is drawn by itself. arXiv 2309.10400, section 3 and the ablation of v_i.

    Every text gets the same share of `num_kept`, rounded so that the sum is exact: a text of few tokens may get none. A
    text that is kept whole has nothing to skip: with "same" its positions are ordinary ones.

    Args:
        method: "none" is taken for "uniform".
        lengths: [num_texts], tokens of each, at least 1.
        num_kept: at least 1; all tokens are kept where there are no more.
        target_length: the window to be trained.
        rng: of the sample; the texts share its draws.

    Raises:
        ConfigError: target_length below 1 or above 2**24.
        DataError: a text whose positions would leave the window.
    """
    check_target_length(target_length)
    texts = lengths.astype(np.int64, copy=False)
    ends = texts.cumsum()
    total = int(ends[-1])
    kept = np.diff(ends * min(num_kept, total) // total, prepend=0)
    if method.text_offset == "same":
        open_documents(np.concatenate([[0], ends]), target_length)
    has_some = kept > 0
    texts, begins, kept = texts[has_some], (ends - texts)[has_some], kept[has_some]
    documents = open_documents(np.concatenate([[0], kept.cumsum()]), target_length)
    sizes = _pose_lengths(method, documents, rng)
    if method.text_offset == "same":
        skips = read = _pose_skips(sizes, texts - kept, method.last_chunk, rng)
    else:
        read = _pose_skips(sizes, texts - kept, "random", rng)
        skips = _pose_skips(sizes, documents.unused, method.last_chunk, rng)
    starts = begins[:, None] + sizes.cumsum(axis=1) - sizes + read
    is_chunk = sizes > 0
    return TextChunks(starts[is_chunk], sizes[is_chunk], _moved(skips, sizes, documents))


def _pose_lengths(method: PoSE, documents: Documents, rng: np.random.Generator) -> Int64Array:
    """int64 [num_documents, method.num_chunks], tokens of each chunk; the last ones of a short document are empty."""
    lengths = documents.lengths
    num_chunks = np.minimum(method.num_chunks, lengths)
    is_chunk = np.arange(method.num_chunks) < num_chunks[:, None]
    begins, offsets = sorted_subsets(lengths - 1, num_chunks - 1, rng)
    # A column more for the document's end, where the chunks that a short document lacks lie too, empty.
    edges = np.empty((len(lengths), method.num_chunks + 1), np.int64)
    edges[:] = lengths[:, None]
    edges[:, :-1][is_chunk] = begins - offsets.repeat(num_chunks)
    return edges[:, 1:] - edges[:, :-1]


def _pose_skips(lengths: Int64Array, most: Int64Array, last_chunk: LastChunk, rng: np.random.Generator) -> Int64Array:
    """int64, shaped as `lengths` (of the chunks): rising from 0 in each document, at most its `most`."""
    skips = np.zeros(lengths.shape, np.int64)
    for chunk in range(1, lengths.shape[1]):
        skips[:, chunk] = skips[:, chunk - 1] + below(most - skips[:, chunk - 1] + 1, rng)
    if last_chunk == "suffix":
        num_chunks = np.count_nonzero(lengths, axis=1)
        last = np.flatnonzero(num_chunks > 1)
        skips[last, num_chunks[last] - 1] = most[last]
    return skips


def cream_positions(method: CREAM, documents: Documents, rng: np.random.Generator) -> PositionArray:
    """CREAM: a head at 0, a tail at the top of the window, and a middle whose end is drawn.

    For a document of n tokens and factor f = target_length / n. Head and tail are n/3 tokens or, with even odds, 4 f
    (at most n/3). r is a Gaussian about 1 + f on [2, 2 f], rounded down; the middle's last position is uniform on
    {head + (middle - 1) r/2 .. n r/2 - tail - 1}. arXiv 2406.07138.

    Returns:
        float32 [num_tokens], strictly increasing from 0 in each document, last target_length - 1 (from 2 tokens on).
    """
    lengths, target = documents.lengths, documents.target_length
    draws = rng.random((3, len(lengths)))
    factor = target / lengths
    third = lengths // 3
    short = np.minimum((4 * factor).astype(np.int64), third)
    head = np.maximum(np.where(draws[0] < 0.5, third, short), 1)
    tail = np.minimum(head, lengths - head)
    middle = lengths - head - tail
    drawn = 1 + factor + method.sigma * _truncated_normal(draws[1], (factor - 1) / method.sigma)
    twice = np.clip(drawn.astype(np.int64), 2, 2 * target // lengths)
    lowest = head + twice * (middle - 1) // 2
    highest = twice * lengths // 2 - tail - 1
    end = lowest + (draws[2] * (highest - lowest + 1)).astype(np.int64)
    skips, sizes = np.zeros((2, len(lengths), 3), np.int64)
    skips[:, 1], skips[:, 2] = end + 1 - middle - head, documents.unused
    sizes[:, 0], sizes[:, 1], sizes[:, 2] = head, middle, tail
    return _moved(skips, sizes, documents)


def e2llm_positions(method: E2LLM, documents: Documents, rng: np.random.Generator) -> PositionArray:
    """E2-LLM: (m + t) / g, with one scale g a sample and one offset t a document; t is 0 for the first tokens.

    g is uniform on {ceil(R / L)..ceil(target_length / L)} for the longest document's R tokens and the model's window of
    L; t is uniform on {0..g L - n} for a document of n tokens, g L being at most the target. Under RoPE an offset
    changes the distances to the first tokens only. arXiv 2401.06951, Eq. 5 and 7; where R > L the paper would start at
    g = 1 and leave the window.

    Returns:
        float32 [num_tokens], strictly increasing from 0 in each document, last below `window`. In steps of 1 / g.

    Raises:
        ConfigError: a window above target_length, or a target_length above 2**23.
    """
    window, target = method.window, documents.target_length
    check_scales(method, target)
    lengths = documents.lengths
    least, most = -(-int(lengths.max()) // window), -(-target // window)
    draws = rng.random(1 + len(lengths))
    scale = least + int(draws[0] * (most - least + 1))
    offsets = (draws[1:] * (min(scale * window, target) - lengths + 1)).astype(np.int64)
    skips, sizes = np.zeros((2, len(lengths), 2), np.int64)
    skips[:, 1], sizes[:, 0] = offsets, np.minimum(method.num_sinks, lengths)
    sizes[:, 1] = lengths - sizes[:, 0]
    positions = _moved(skips, sizes, documents)
    positions /= np.float32(scale)
    return positions


def check_scales(method: E2LLM, target_length: int) -> None:
    """Raise `ConfigError` unless `window` <= target_length <= 2**23."""
    if method.window > target_length:
        raise ConfigError(
            f"positions.window is {method.window}, above data.target_length {target_length};"
            " it is the window that the model has already"
        )
    if target_length > _MAX_SCALED_TARGET:
        raise ConfigError(
            f"data.target_length is {target_length}; E2-LLM's positions are told apart in float32 up to"
            f" {_MAX_SCALED_TARGET}"
        )


def _moved(skips: Int64Array, lengths: Int64Array, documents: Documents) -> PositionArray:
    """Positions from the tables of how many positions are left out before a chunk, and of the chunks' lengths."""
    return place_pieces((skips - documents.begins[:, None]).ravel(), lengths.ravel(), documents.num_tokens)


def _truncated_normal(draws: npt.NDArray[np.float64], bounds: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """Standard normal numbers on [-bound, bound] by the inverse of their distribution, from uniform draws on [0, 1)."""
    points, distribution = _normal_table()
    lowest = np.interp(-bounds, points, distribution)
    numbers = np.interp(lowest + draws * (1 - 2 * lowest), distribution, points)
    return np.asarray(np.clip(numbers, -bounds, bounds))


@cache
def _normal_table() -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    points = np.linspace(-_FLATTEST, _FLATTEST, _POINTS)
    return points, np.array([0.5 * (1 + math.erf(point / math.sqrt(2))) for point in points])
