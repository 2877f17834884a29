"""The one interface of `positions/`: a method and the shape of a document or sample in, RoPE positions out.

Stands between `sampling` (which tokens, in which documents and segments) and `feed` (tensors for a rank). The positions
go to the rotary embedding and nowhere else: document boundaries travel beside them as cu_seqlens.
"""

from itertools import pairwise
from typing import assert_never

import numpy as np

from longspan.errors import DataError
from longspan.positions.baselines import pose_positions, randpos_positions
from longspan.positions.methods import (
    Contiguous,
    IntArray,
    LongRecipe,
    PoSE,
    PositionArray,
    PositionMethod,
    RandPos,
    check_target_length,
    contiguous_positions,
)
from longspan.positions.pit import longrecipe_positions


def document_positions(
    method: PositionMethod,
    num_tokens: int,
    segment_starts: IntArray,
    target_length: int,
    rng: np.random.Generator,
) -> PositionArray:
    """Position of each token of one document.

    Args:
        method: which method, with its settings.
        num_tokens: tokens in the document.
        segment_starts: [num_segments] token indices at which a new segment begins, strictly increasing, first 0.
        target_length: the window to be trained; positions lie in [0, target_length).
        rng: random numbers of this sample, seeded by its global index.

    Returns:
        float32 [num_tokens], strictly increasing, first 0, last < target_length. Integers, and exact.

    Raises:
        ConfigError: target_length below 1 or above 2**24.
        DataError: the document is longer than target_length, or segment_starts does not describe it.
    """
    check_target_length(target_length)
    starts = segment_starts.astype(np.int64)
    _check_document(num_tokens, starts, target_length)
    return _own(_dispatch(method, num_tokens, starts, target_length, rng))


def assign_positions(
    method: PositionMethod, segment_lengths: IntArray, target_length: int, rng: np.random.Generator
) -> PositionArray:
    """`document_positions` for a document given by the lengths of its segments ([num_segments], each 1 or more)."""
    lengths = segment_lengths.astype(np.int64)
    starts = np.cumsum(lengths) - lengths
    return document_positions(method, int(lengths.sum()), starts, target_length, rng)


def sample_positions(
    method: PositionMethod,
    cu_seqlens: IntArray,
    segment_starts: IntArray,
    target_length: int,
    rng: np.random.Generator,
) -> PositionArray:
    """Position of each token of a packed sample: every document has its own positions, from 0.

    Args:
        method: which method, with its settings.
        cu_seqlens: [num_documents + 1] cumulative document lengths, strictly increasing, first 0.
        segment_starts: [num_segments] token indices into the sample, strictly increasing; a document's first token
            starts a segment whether or not it is listed.
        target_length: the window to be trained; positions lie in [0, target_length).
        rng: random numbers of this sample, used document by document in order.

    Returns:
        float32 [cu_seqlens[-1]].

    Raises:
        ConfigError: target_length below 1 or above 2**24.
        DataError: a document is longer than target_length, or the boundaries are not what they should be.
    """
    check_target_length(target_length)
    # int64 first: differences of unsigned lengths would wrap around instead of turning negative.
    boundaries, listed = cu_seqlens.astype(np.int64), segment_starts.astype(np.int64)
    if len(boundaries) == 0 or boundaries[0] != 0 or not _is_increasing(boundaries):
        raise DataError(f"cu_seqlens must be strictly increasing from 0, got {_preview(boundaries)}")
    total = int(boundaries[-1])
    _check_increasing(listed, total)
    _check_lengths(boundaries, target_length)
    starts = _merged(boundaries[:-1], listed)
    if len(boundaries) == 2:
        return _own(_dispatch(method, total, starts, target_length, rng))
    # Where each document's own starts begin in `starts`; the last entry closes the last document.
    split = starts.searchsorted(boundaries)
    positions = np.empty(total, dtype=np.float32)
    for document, (begin, end) in enumerate(pairwise(boundaries.tolist())):
        own_starts = starts[split[document] : split[document + 1]] - begin
        positions[begin:end] = _dispatch(method, end - begin, own_starts, target_length, rng)
    return positions


def _dispatch(
    method: PositionMethod, num_tokens: int, starts: IntArray, target_length: int, rng: np.random.Generator
) -> PositionArray:
    if num_tokens == 0:
        return np.zeros(0, dtype=np.float32)
    match method:
        case Contiguous():
            return contiguous_positions(num_tokens)
        case LongRecipe():
            return longrecipe_positions(method, num_tokens, starts, target_length, rng)
        case PoSE():
            return pose_positions(method, num_tokens, target_length, rng)
        case RandPos():
            return randpos_positions(num_tokens, target_length, rng)
        case _:
            assert_never(method)


def _check_document(num_tokens: int, segment_starts: IntArray, target_length: int) -> None:
    if num_tokens > target_length:
        raise DataError(
            f"a document of {num_tokens} tokens does not fit data.target_length {target_length}; "
            "cut it when packing or raise the target"
        )
    _check_increasing(segment_starts, num_tokens)
    if num_tokens > 0 and (len(segment_starts) == 0 or segment_starts[0] != 0):
        raise DataError(f"segment_starts must begin with 0, got {_preview(segment_starts)}")


def _check_lengths(boundaries: IntArray, target_length: int) -> None:
    is_longer = boundaries[1:] - boundaries[:-1] > target_length
    if is_longer.any():
        document = int(is_longer.argmax())
        begin, end = boundaries[document : document + 2].tolist()
        raise DataError(
            f"document {document} of the sample (tokens {begin} to {end}) has {end - begin} tokens, more than "
            f"data.target_length {target_length}; cut it when packing or raise the target"
        )


def _check_increasing(segment_starts: IntArray, num_tokens: int) -> None:
    if len(segment_starts) == 0:
        return
    inside = segment_starts[0] >= 0 and segment_starts[-1] < num_tokens
    if not inside or not _is_increasing(segment_starts):
        raise DataError(
            f"segment_starts must be strictly increasing within [0, {num_tokens}), got {_preview(segment_starts)}"
        )


def _own(positions: PositionArray) -> PositionArray:
    """The same, in an array that the caller may write to."""
    return positions if positions.flags.writeable else positions.copy()


def _is_increasing(values: IntArray) -> bool:
    return bool((values[1:] > values[:-1]).all())


def _merged(first: IntArray, second: IntArray) -> IntArray:
    """All values of two strictly increasing lists, each once, in order; quick where the first one is short."""
    if len(second) == 0:
        return first
    at = second.searchsorted(first)
    is_new = second.take(at, mode="clip") != first
    return np.insert(second, at[is_new], first[is_new]) if is_new.any() else second


def _preview(values: IntArray) -> str:
    shown = ", ".join(str(int(value)) for value in values[:8])
    return f"[{shown}{', ...' if len(values) > 8 else ''}] ({len(values)} values)"
