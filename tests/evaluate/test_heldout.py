"""Held-out text: long documents first, within a budget, in the corpus's order, and free of needles."""

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from longspan.errors import ConfigError
from longspan.evaluate.heldout import check_plain, choose_documents, held_out_documents
from tests.corpus_files import random_documents, write_corpus


def test_long_documents_come_first_and_the_last_is_cut() -> None:
    lengths = np.array([5, 20, 3, 30, 8], dtype=np.int32)
    assert choose_documents(lengths, 10, 25) == [(1, 20), (3, 5)]
    assert choose_documents(lengths, 10, 57) == [(0, 5), (1, 20), (2, 2), (3, 30)]
    assert choose_documents(lengths, 10, 1000) == [(0, 5), (1, 20), (2, 3), (3, 30), (4, 8)]


@given(
    lengths=st.lists(st.integers(1, 50), min_size=1, max_size=20),
    longest=st.integers(1, 60),
    budget=st.integers(1, 500),
)
def test_the_budget_is_used_and_not_exceeded(lengths: list[int], longest: int, budget: int) -> None:
    chosen = choose_documents(np.array(lengths, dtype=np.int32), longest, budget)
    numbers = [number for number, _ in chosen]
    assert numbers == sorted(set(numbers))
    assert sum(size for _, size in chosen) == min(budget, sum(lengths))
    assert all(1 <= size <= lengths[number] for number, size in chosen)
    if any(lengths[number] < longest for number in numbers):
        assert {i for i, size in enumerate(lengths) if size >= longest} <= set(numbers)


def test_text_that_holds_needles_is_refused() -> None:
    documents = [np.array([1, 2], dtype=np.uint32), np.array([3, 40], dtype=np.uint32)]
    check_plain(documents, "val", None)
    check_plain(documents, "val", 41)
    with pytest.raises(ConfigError, match="'val' holds needle tokens"):
        check_plain(documents, "val", 40)


def test_documents_come_from_the_corpus(tmp_path: Path) -> None:
    uri = str(tmp_path)
    documents = {
        "train": random_documents(0, [90, 700, 40]),
        "val": random_documents(1, [50, 1300, 20, 900, 60]),
        "needles": random_documents(2, [30] * 3),
    }
    manifest = write_corpus(uri, documents, shard_tokens=1500)
    found = held_out_documents(uri, manifest, "val", longest=800, budget=2230)
    # The two long ones, and of the short ones what is left of the budget: 50 - 20 tokens of the first.
    for tokens, (number, size) in zip(found, [(0, 30), (1, 1300), (3, 900)], strict=True):
        np.testing.assert_array_equal(tokens, documents["val"][number].tokens[:size])
    with pytest.raises(ConfigError, match="'nobody' is no source of the corpus; it has train, val, needles"):
        held_out_documents(uri, manifest, "nobody", longest=800, budget=1710)
