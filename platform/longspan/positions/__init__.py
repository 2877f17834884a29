"""Which position each token gets, and what that covers of the target window.

Pure numpy. `sampling` decides the tokens and their boundaries, this room gives them positions, `rope` gives the
frequencies that those positions meet.
"""

from longspan.positions.assign import coverage_unit, sample_positions
from longspan.positions.chunks import TextChunks, check_scales, text_chunks
from longspan.positions.coverage import Coverage, distance_histogram, measure_coverage
from longspan.positions.methods import (
    CREAM,
    E2LLM,
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
    "CREAM",
    "E2LLM",
    "MAX_TARGET_LENGTH",
    "Contiguous",
    "Coverage",
    "LongRecipe",
    "PoSE",
    "PositionMethod",
    "RandPos",
    "TextChunks",
    "check_scales",
    "check_target_length",
    "coverage_unit",
    "distance_histogram",
    "measure_coverage",
    "sample_positions",
    "segment_starts",
    "text_chunks",
]
