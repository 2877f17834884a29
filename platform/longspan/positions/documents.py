"""The shape of a packed sample as every method takes it, and the one way in which most of them answer: pieces.

A piece is a stretch of tokens whose positions are consecutive. `assign` makes the `Documents`, a method cuts them into
pieces and says how far each one moves, `place_pieces` writes the positions of all documents in two passes.
"""

from dataclasses import dataclass
from functools import cache

import numpy as np

from longspan.errors import DataError
from longspan.positions.methods import MAX_TARGET_LENGTH, Int64Array, IntArray, PositionArray


@dataclass(frozen=True)
class Documents:
    """Documents of one sample, checked; each has at least one token and at most `target_length`.

    Attributes:
        boundaries: int64 [num_documents + 1], cumulative lengths from 0.
        lengths: int64 [num_documents], tokens.
        num_tokens: of all of them.
        target_length: the window to be trained.
    """

    boundaries: Int64Array
    lengths: Int64Array
    num_tokens: int
    target_length: int

    @property
    def begins(self) -> Int64Array:
        """int64 [num_documents], index of the first token of each."""
        return self.boundaries[:-1]

    @property
    def unused(self) -> Int64Array:
        """int64 [num_documents], positions of the window that no token of the document gets."""
        return self.target_length - self.lengths


def open_documents(cu_seqlens: IntArray, target_length: int) -> Documents:
    """The documents between cumulative lengths ([num_documents + 1]).

    Raises:
        DataError: cu_seqlens does not rise from 0, or beyond 2**24; a document is longer than target_length.
    """
    # int64 first: differences of unsigned lengths would wrap around instead of turning negative.
    boundaries = cu_seqlens.astype(np.int64, copy=False)
    lengths = boundaries[1:] - boundaries[:-1]
    # A sample has few documents: Python is quicker with so few numbers.
    listed = lengths.tolist()
    longest, shortest = max(listed, default=0), min(listed, default=1)
    if len(boundaries) == 0 or boundaries[0] != 0 or shortest < 1:
        raise DataError(f"cu_seqlens must be strictly increasing from 0, got {preview(boundaries)}")
    if longest > target_length:
        document = int(lengths.argmax())
        begin, end = boundaries[document : document + 2].tolist()
        raise DataError(
            f"document {document} of the sample (tokens {begin} to {end}) has {end - begin} tokens, more than "
            f"data.target_length {target_length}; cut it when packing or raise the target"
        )
    total = int(boundaries[-1])
    if total > MAX_TARGET_LENGTH:
        raise DataError(f"a sample of {total} tokens; positions are counted up to {MAX_TARGET_LENGTH}, make it shorter")
    return Documents(boundaries, lengths, total, target_length)


def place_pieces(moves: IntArray, lengths: IntArray, num_tokens: int) -> PositionArray:
    """Positions of a sample from its pieces, in order: token i of a piece with move m is at position i + m.

    Args:
        moves: [num_pieces] how far each piece moves from its place in the sample. The first piece of a document that
            begins at token b moves by -b, so that its positions begin at 0.
        lengths: [num_pieces] tokens, 0 or more, together `num_tokens`.

    Returns:
        float32 [num_tokens], writable.
    """
    # Whole numbers up to 2**24, so float32 all the way is exact, and half the memory traffic of int64.
    positions: PositionArray = moves.astype(np.float32).repeat(lengths)
    positions += _ramp(1 << (num_tokens - 1).bit_length())[:num_tokens]
    return positions


def preview(values: IntArray) -> str:
    """The first values, for a message."""
    shown = ", ".join(str(int(value)) for value in values[:8])
    return f"[{shown}{', ...' if len(values) > 8 else ''}] ({len(values)} values)"


@cache  # one array for each power of two up to MAX_TARGET_LENGTH that is met; 1 MB for windows of 131,072
def _ramp(length: int) -> PositionArray:
    ramp = np.arange(length, dtype=np.float32)
    ramp.flags.writeable = False
    return ramp
