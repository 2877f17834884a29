"""Positions of a sample that is one document, for the tests of a method."""

import numpy as np

from longspan.positions import PositionMethod, sample_positions


def one_document(
    method: PositionMethod, num_tokens: int, starts: np.ndarray, target_length: int, rng: np.random.Generator
) -> np.ndarray:
    return sample_positions(method, np.array([0, num_tokens]), starts, target_length, rng)
