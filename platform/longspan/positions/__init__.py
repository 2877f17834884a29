"""Which position each token gets, and what that covers of the target window.

Pure numpy. `sampling` decides the tokens and their boundaries, this room gives them positions, `rope` gives the
frequencies that those positions meet.
"""

from longspan.positions.assign import assign_positions, document_positions, sample_positions
from longspan.positions.coverage import Coverage, distance_histogram, measure_coverage
from longspan.positions.methods import (
    MAX_TARGET_LENGTH,
    Contiguous,
    LongRecipe,
    PoSE,
    PositionMethod,
    RandPos,
    check_target_length,
)
from longspan.positions.segments import segment_starts

__all__ = [
    "MAX_TARGET_LENGTH",
    "Contiguous",
    "Coverage",
    "LongRecipe",
    "PoSE",
    "PositionMethod",
    "RandPos",
    "assign_positions",
    "check_target_length",
    "distance_histogram",
    "document_positions",
    "measure_coverage",
    "sample_positions",
    "segment_starts",
]
