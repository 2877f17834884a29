"""PoSE's text offsets: chunks of longer texts with the positions that the paper gives them, for one text or many."""

from collections import Counter
from itertools import pairwise
from typing import get_args

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from longspan.errors import ConfigError, DataError
from longspan.positions import PoSE, TextChunks, sample_positions, text_chunks
from longspan.positions.methods import LastChunk, TextOffset


@st.composite
def wishes(draw: st.DrawFn) -> tuple[PoSE, list[int], int, int]:
    """(method, tokens of each text, tokens to keep, target length)."""
    offset, last = draw(st.sampled_from(get_args(TextOffset)[1:])), draw(st.sampled_from(get_args(LastChunk)))
    lengths = draw(st.lists(st.integers(1, 80), min_size=1, max_size=8))
    num_kept = draw(st.integers(1, sum(lengths) + 5))
    return PoSE(draw(st.integers(1, 5)), last, offset), lengths, num_kept, draw(st.integers(max(lengths), 300))


def places(chunks: TextChunks) -> np.ndarray:
    """Place in the texts of every kept token."""
    return np.concatenate([s + np.arange(n) for s, n in zip(chunks.starts, chunks.lengths, strict=True)])


def by_text(chunks: TextChunks, lengths: list[int]) -> list[tuple[np.ndarray, np.ndarray, np.ndarray]]:
    """(place in the text, position, chunk) of the kept tokens of each text."""
    at, begins = places(chunks), np.cumsum([0, *lengths])
    owner = np.repeat(np.arange(chunks.lengths.size), chunks.lengths)
    edges = np.searchsorted(at, begins)
    parts = [slice(a, b) for a, b in pairwise(edges)]
    return [(at[p] - begin, chunks.positions[p], owner[p]) for p, begin in zip(parts, begins, strict=False)]


@given(wishes(), st.integers(0, 2**32))
@settings(deadline=None, max_examples=150)
def test_promises_of_every_draw(wish: tuple[PoSE, list[int], int, int], seed: int) -> None:
    method, lengths, num_kept, target = wish
    chunks = text_chunks(method, np.array(lengths), num_kept, target, np.random.default_rng(seed))
    assert chunks.positions.dtype == np.float32
    assert chunks.positions.size == chunks.lengths.sum() == min(num_kept, sum(lengths))
    assert (chunks.lengths >= 1).all()
    assert (np.diff(places(chunks)) > 0).all()
    kept = 0
    for size, (place, position, chunk) in zip(lengths, by_text(chunks, lengths), strict=True):
        assert abs(place.size - size * chunks.lengths.sum() / sum(lengths)) < 1
        kept += place.size
        if place.size == 0:
            continue
        assert place[0] == position[0] == 0
        assert place[-1] < size
        assert position[-1] < target
        assert np.unique(chunk).size == min(method.num_chunks, place.size)
        steps = np.diff(np.stack([place, position, chunk]))
        assert (steps[:2] >= 1).all()
        assert (steps[:2, steps[2] == 0] == 1).all(), "a chunk is whole in the text and in the positions"
        if method.text_offset == "same":
            assert np.array_equal(place, position)
        if method.last_chunk == "suffix" and min(method.num_chunks, place.size) > 1:
            assert position[-1] == (size if method.text_offset == "same" else target) - 1
    assert kept == chunks.lengths.sum(), "no chunk reaches into another text"


@pytest.mark.parametrize("packed", [False, True])
def test_same_draws_every_length_and_every_skip_that_the_text_has_room_for(packed: bool) -> None:
    """4 tokens of 8: 3 first lengths times 5 skips; a skip of 0 hides the first length."""
    rng = np.random.default_rng(0)
    lengths = np.array([6, 8, 2] if packed else [8])
    part = slice(3, 7) if packed else slice(0, 4)
    draws = (text_chunks(PoSE(text_offset="same"), lengths, 8 if packed else 4, 20, rng) for _ in range(6000))
    counts = Counter(tuple(chunks.positions[part].tolist()) for chunks in draws)
    assert abs(counts.pop((0, 1, 2, 3)) - 1200) < 160
    assert len(counts) == 12
    assert sum((count - 400) ** 2 / 400 for count in counts.values()) < 40


def test_uniform_draws_text_and_positions_apart() -> None:
    """Of 12 tokens 10 are kept, for 14 positions: 3 text skips and 5 of positions, all 15 pairs equally likely."""
    rng = np.random.default_rng(0)
    counts: Counter[tuple[int, int]] = Counter()
    for _ in range(6000):
        chunks = text_chunks(PoSE(text_offset="uniform"), np.array([12]), 10, 14, rng)
        assert chunks.starts.size == 2, "a chunk is one, even where text or positions go on"
        edge = int(chunks.lengths[0])
        counts[int(chunks.starts[1]) - edge, int(chunks.positions[edge]) - edge] += 1
    assert set(counts) == {(text, skip) for text in range(3) for skip in range(5)}
    assert sum((count - 400) ** 2 / 400 for count in counts.values()) < 45


def test_what_is_kept_whole_has_ordinary_positions_or_those_of_pose() -> None:
    same = text_chunks(PoSE(text_offset="same"), np.array([7, 9]), 99, 500, np.random.default_rng(0))
    assert same.positions.tolist() == [*range(7), *range(9)]
    uniform = text_chunks(PoSE(text_offset="uniform"), np.array([7, 9]), 99, 500, np.random.default_rng(0))
    assert places(uniform).tolist() == list(range(16))
    assert uniform.positions[6] > 6
    assert uniform.positions[15] > 8


def test_the_same_share_of_every_text() -> None:
    chunks = text_chunks(PoSE(text_offset="same"), np.array([100, 40, 60]), 50, 200, np.random.default_rng(0))
    assert chunks.lengths.reshape(3, 2).sum(axis=1).tolist() == [25, 10, 15]
    few = text_chunks(PoSE(text_offset="same"), np.array([1] * 9), 3, 200, np.random.default_rng(0))
    assert (few.starts.tolist(), few.lengths.tolist()) == ([2, 5, 8], [1, 1, 1])


def test_same_seed_same_chunks_and_other_seeds_others() -> None:
    def drawn(seed: int) -> bytes:
        lengths = np.array([300, 500])
        chunks = text_chunks(PoSE(text_offset="uniform"), lengths, 90, 4000, np.random.default_rng(seed))
        return chunks.starts.tobytes() + chunks.positions.tobytes()

    assert drawn(1) == drawn(1)
    assert len({drawn(seed) for seed in range(20)}) == 20


def test_same_refuses_a_text_beyond_the_window_and_uniform_takes_it() -> None:
    lengths = np.array([50, 101])
    with pytest.raises(DataError, match=r"document 1 of the sample \(tokens 50 to 151\) has 101 tokens, more than"):
        text_chunks(PoSE(text_offset="same"), lengths, 20, 100, np.random.default_rng(0))
    assert text_chunks(PoSE(text_offset="uniform"), lengths, 20, 100, np.random.default_rng(0)).positions.max() < 100


def test_offsets_without_a_longer_text_are_refused() -> None:
    method, nothing = PoSE(text_offset="same"), np.zeros(0, np.int64)
    with pytest.raises(ConfigError, match=r"positions\.text_offset: 'same' needs a longer text to take chunks from"):
        sample_positions(method, np.array([0, 9]), nothing, 20, np.random.default_rng(0))
    with pytest.raises(ConfigError, match=r"positions\.text_offset is 'other'; known are none, same and uniform"):
        PoSE(text_offset="other")  # type: ignore[arg-type]
