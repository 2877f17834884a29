"""Segments begin after sentence ends, for any vocabulary."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from longspan.errors import DataError
from longspan.positions import segment_starts

ENDS = np.array([False, False, True, True])  # 2: ".", 3: newline


@pytest.mark.parametrize(
    ("tokens", "starts"),
    [
        ([0, 1, 2, 0, 1, 2, 0], [0, 3, 6]),
        ([0, 2, 3, 3, 1, 2], [0, 4]),
        ([0, 1, 2], [0]),
        ([0, 1, 0], [0]),
        ([2, 0], [0, 1]),
        ([3, 3], [0]),
        ([0], [0]),
        ([], []),
    ],
)
def test_a_segment_begins_after_each_run_of_sentence_ends(tokens: list[int], starts: list[int]) -> None:
    assert segment_starts(np.array(tokens, dtype=np.int32), ENDS).tolist() == starts


@given(st.lists(st.integers(0, 3), min_size=1, max_size=200))
def test_agrees_with_a_plain_loop(tokens: list[int]) -> None:
    expected = [0] + [i for i in range(1, len(tokens)) if ENDS[tokens[i - 1]] and not ENDS[tokens[i]]]
    assert segment_starts(np.array(tokens), ENDS).tolist() == expected


@pytest.mark.parametrize("token", [4, -1])
def test_rejects_tokens_of_another_vocabulary(token: int) -> None:
    with pytest.raises(DataError, match=f"token id {token} is outside the vocabulary of 4"):
        segment_starts(np.array([0, token]), ENDS)
