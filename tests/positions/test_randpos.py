"""RandPos is a uniform choice of the window, however full and however many documents: see also `test_subsets`."""

from collections import Counter

import numpy as np

from longspan.positions import RandPos
from tests.positions.single import one_document


def positions_of(method: RandPos, num_tokens: int, target_length: int, rng: np.random.Generator) -> np.ndarray:
    return one_document(method, num_tokens, np.zeros(0, np.int64), target_length, rng)


def test_randpos_differences_are_those_of_a_sorted_sample() -> None:
    """2 tokens of 4 positions: distances 1, 2, 3 in the ratio 3 : 2 : 1."""
    rng = np.random.default_rng(0)
    counts = Counter(int(positions_of(RandPos(), 2, 4, rng)[1]) for _ in range(12_000))
    assert {distance: round(counts[distance] / 2000, 1) for distance in counts} == {1: 3.0, 2: 2.0, 3: 1.0}
