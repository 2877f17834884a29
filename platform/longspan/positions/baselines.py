"""The methods that LongRecipe is compared with, from their own papers' definitions: PoSE and RandPos.

Called by `assign` for one document. LongRecipe's repository has another PoSE, which leaves 57 % of its samples without
a skip; it is not what is computed here.
"""

import numpy as np

from longspan.positions.methods import PoSE, PositionArray, contiguous_positions

_COUNT_FROM = 32
"""Marking the drawn positions in the window beats sorting them from one in so many of it on."""


def pose_positions(method: PoSE, num_tokens: int, target_length: int, rng: np.random.Generator) -> PositionArray:
    """PoSE: random chunk lengths, and before chunk i a skip u_i ~ U{u_(i-1)..target_length - num_tokens}, u_0 = 0.

    Chunk boundaries are a uniform choice of num_chunks - 1 distinct places (for two chunks: the first length is uniform
    on {1..n-1}). A document shorter than num_chunks has one token a chunk. arXiv 2309.10400, section 3.

    Returns:
        float32 [num_tokens], strictly increasing from 0, last < target_length.
    """
    num_chunks = min(method.num_chunks, num_tokens)
    starts = np.sort(rng.choice(num_tokens - 1, num_chunks - 1, replace=False, shuffle=False)) + 1
    positions = contiguous_positions(num_tokens).copy()
    skip = 0
    for start in starts:
        deeper = int(rng.integers(skip, target_length - num_tokens, endpoint=True))
        positions[start:] += deeper - skip
        skip = deeper
    return positions


def randpos_positions(num_tokens: int, target_length: int, rng: np.random.Generator) -> PositionArray:
    """RandPos: num_tokens distinct positions of the window, sorted, moved so that the first is 0.

    RoPE sees differences only, so the move changes nothing that a model can notice. arXiv 2305.16843, section 3.1.

    Returns:
        float32 [num_tokens], strictly increasing from 0, last < target_length.
    """
    drawn = rng.choice(target_length, num_tokens, replace=False, shuffle=False)
    if num_tokens * _COUNT_FROM < target_length:
        drawn = np.sort(drawn)
    else:
        is_drawn = np.zeros(target_length, dtype=np.bool_)
        is_drawn[drawn] = True
        drawn = np.flatnonzero(is_drawn)
    return (drawn - drawn[0]).astype(np.float32)
