"""The one interface of `positions/`: a method and the shape of a packed sample in, RoPE positions out.

Stands between `sampling` (which tokens, in which documents and segments) and `feed` (tensors for a rank). The positions
go to the rotary embedding and nowhere else: document boundaries travel beside them as cu_seqlens.
"""

from typing import assert_never

import numpy as np

from longspan.errors import DataError
from longspan.positions.chunks import cream_positions, e2llm_positions, pose_positions
from longspan.positions.documents import Documents, open_documents, place_pieces, preview
from longspan.positions.longrecipe import longrecipe_positions
from longspan.positions.methods import (
    CREAM,
    E2LLM,
    Contiguous,
    Int64Array,
    IntArray,
    LongRecipe,
    PoSE,
    PositionArray,
    PositionMethod,
    RandPos,
    check_target_length,
)
from longspan.positions.subsets import sorted_subsets


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
            starts a segment whether or not it is listed. Only LongRecipe asks for them; others take an empty array.
        target_length: the window to be trained; positions lie in [0, target_length).
        rng: random numbers of this sample, seeded by its global index; the documents share its draws.

    Returns:
        float32 [cu_seqlens[-1]], strictly increasing inside a document. Whole numbers, and exact, but for E2-LLM.

    Raises:
        ConfigError: target_length below 1 or above 2**24, or not one for this method.
        DataError: a document is longer than target_length, or the boundaries are not what they should be.
    """
    check_target_length(target_length)
    documents = open_documents(cu_seqlens, target_length)
    listed = segment_starts.astype(np.int64, copy=False)
    _check_increasing(listed, documents.num_tokens)
    if documents.num_tokens == 0:
        return np.zeros(0, dtype=np.float32)
    match method:
        case Contiguous():
            return place_pieces(-documents.begins, documents.lengths, documents.num_tokens)
        case LongRecipe():
            return longrecipe_positions(method, documents, _merged(documents.begins, listed), rng)
        case PoSE():
            return pose_positions(method, documents, rng)
        case RandPos():
            return randpos_positions(documents, rng)
        case CREAM():
            return cream_positions(method, documents, rng)
        case E2LLM():
            return e2llm_positions(method, documents, rng)
        case _:
            assert_never(method)


def randpos_positions(documents: Documents, rng: np.random.Generator) -> PositionArray:
    """RandPos: as many distinct positions of the window as a document has tokens, sorted, moved so that the first is 0.

    RoPE sees differences only, so the move changes nothing that a model can notice. arXiv 2305.16843, section 3.1.

    Returns:
        float32 [num_tokens], strictly increasing from 0 in each document, last < target_length.
    """
    sizes = np.full_like(documents.lengths, documents.target_length)
    drawn, offsets = sorted_subsets(sizes, documents.lengths, rng)
    first = drawn[documents.begins + np.arange(1, len(offsets) + 1)]
    if len(offsets) == 1:
        own, first = drawn[1:], first[0]
    else:
        is_drawn = np.ones(len(drawn), np.bool_)
        is_drawn[documents.begins + np.arange(len(offsets))] = False
        own, first = drawn[is_drawn], first.repeat(documents.lengths)
    positions = np.empty(documents.num_tokens, np.float32)
    return np.subtract(own, first, out=positions, casting="unsafe")


def coverage_unit(method: PositionMethod, target_length: int) -> float:
    """Positions of the target window for each one of `method`: E2-LLM's go through the model's own window only.

    Positions times this are those that the largest scale would have given, so that methods can be laid side by side.
    """
    return target_length / method.window if isinstance(method, E2LLM) else 1.0


def _check_increasing(segment_starts: Int64Array, num_tokens: int) -> None:
    if len(segment_starts) == 0:
        return
    inside = segment_starts[0] >= 0 and segment_starts[-1] < num_tokens
    if not inside or not (segment_starts[1:] > segment_starts[:-1]).all():
        raise DataError(
            f"segment_starts must be strictly increasing within [0, {num_tokens}), got {preview(segment_starts)}"
        )


def _merged(first: Int64Array, second: Int64Array) -> Int64Array:
    """All values of two strictly increasing lists, each once, in order."""
    if len(second) == 0:
        return first
    at = second.searchsorted(first)
    is_new = second.take(at, mode="clip") != first
    return np.sort(np.concatenate([second, first[is_new]])) if is_new.any() else second
