"""Interleaving keeps every token once and every document in order, and says where the text jumps."""

from itertools import cycle, repeat

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from longspan.corpus.synthesis.interleave import (
    Cut,
    Marks,
    Pieces,
    chunk_names,
    fill_windows,
    interleave,
    most_marks,
    shuffle_chunks,
    splices,
    tie_knots,
    token_indices,
    window_sizes,
)
from longspan.errors import ConfigError

LENGTHS = st.lists(st.integers(1, 40), max_size=8)
CHUNKS = st.one_of(st.integers(1, 6), st.tuples(st.integers(1, 3), st.integers(3, 6)))
CUTS: st.SearchStrategy[Cut] = st.sampled_from(["random", "equal"])
MARKS = Marks((901,), (902,), (903,), (904,), (905,), (906,), (907,))


def output(pieces: Pieces, length: list[int]) -> list[tuple[int, int]]:
    """(document, token within it) of each output token."""
    document = np.repeat(np.arange(len(length)), length)
    offset = np.cumsum(length, dtype=np.int64) - length
    at = token_indices(pieces, offset)
    return [(int(document[i]), int(i - offset[document[i]])) for i in at]


def check_pieces(pieces: Pieces, length: list[int], most: int) -> None:
    """Each document in min(m, ...) parts of at least one token, none lost."""
    assert {part.dtype.name for part in pieces} == {"int64"}
    assert (pieces.length >= 1).all()
    assert (np.bincount(pieces.document, minlength=len(length)) <= most).all()
    tokens = output(pieces, length)
    assert sorted(tokens) == [(d, i) for d, size in enumerate(length) for i in range(size)]


def check_order(pieces: Pieces, length: list[int]) -> None:
    tokens = output(pieces, length)
    for number, size in enumerate(length):
        assert [i for d, i in tokens if d == number] == list(range(size))


def check_splices(pieces: Pieces, length: list[int]) -> None:
    tokens = output(pieces, length)
    jumps = [i for i in range(1, len(tokens)) if tokens[i] != (tokens[i - 1][0], tokens[i - 1][1] + 1)]
    assert splices(pieces).tolist() == jumps


@given(seed=st.integers(0, 999), length=LENGTHS, chunks=CHUNKS, cut=CUTS)
def test_cip_is_a_round_robin_of_chunks(seed: int, length: list[int], chunks: int | tuple[int, int], cut: Cut) -> None:
    low, high = (chunks, chunks) if isinstance(chunks, int) else chunks
    pieces = interleave(np.random.default_rng(seed), np.array(length, np.int64), chunks=chunks, cut=cut)
    check_pieces(pieces, length, high)
    check_order(pieces, length)
    check_splices(pieces, length)
    counts = np.bincount(pieces.document, minlength=len(length))
    seen = [0] * len(length)
    rounds = []
    for number in pieces.document.tolist():
        rounds.append((seen[number], number))
        seen[number] += 1
    assert rounds == sorted(rounds)
    assert all(low <= count <= high or (count == 1 and size < high) for count, size in zip(counts, length, strict=True))
    if cut == "equal":
        for number in range(len(length)):
            assert np.ptp(pieces.length[pieces.document == number]) <= 1
    again = interleave(np.random.default_rng(seed), np.array(length, np.int64), chunks=chunks, cut=cut)
    assert all((one == two).all() for one, two in zip(pieces, again, strict=True))


def test_cip_2_of_three_documents() -> None:
    pieces = interleave(np.random.default_rng(0), np.array([4, 6, 8]), chunks=2, cut="equal")
    assert list(zip(*(part.tolist() for part in pieces), strict=True)) == [
        (0, 0, 2),
        (1, 0, 3),
        (2, 0, 4),
        (0, 2, 2),
        (1, 3, 3),
        (2, 4, 4),
    ]
    assert splices(pieces).tolist() == [2, 5, 9, 11, 14]


def test_random_cuts_are_uniform() -> None:
    rng = np.random.default_rng(0)
    first = [int(interleave(rng, np.array([5]), chunks=2).length[0]) for _ in range(800)]
    assert set(first) == {1, 2, 3, 4}
    assert all(150 < first.count(size) < 250 for size in (1, 2, 3, 4))


@given(seed=st.integers(0, 999), length=LENGTHS, chunks=CHUNKS, cut=CUTS, keep_order=st.booleans())
def test_shuffled_chunks(
    seed: int, length: list[int], chunks: int | tuple[int, int], cut: Cut, keep_order: bool
) -> None:
    def make() -> Pieces:
        rng = np.random.default_rng(seed)
        return shuffle_chunks(rng, np.array(length, np.int64), chunks=chunks, cut=cut, keep_order=keep_order)

    pieces = make()
    check_pieces(pieces, length, chunks if isinstance(chunks, int) else chunks[1])
    check_splices(pieces, length)
    if keep_order:
        check_order(pieces, length)
    if length:
        assert (pieces.document[-1], pieces.start[-1] + pieces.length[-1]) == (len(length) - 1, length[-1])
    assert all((one == two).all() for one, two in zip(pieces, make(), strict=True))


def test_shuffling_without_order_disorders() -> None:
    rng = np.random.default_rng(1)
    starts = [shuffle_chunks(rng, np.array([30, 3]), chunks=3, keep_order=False) for _ in range(30)]
    assert any((np.diff(pieces.start[pieces.document == 0]) < 0).any() for pieces in starts)
    assert len({tuple(pieces.document.tolist()) for pieces in starts}) > 5


@given(length=LENGTHS, window=st.integers(1, 50), rooms=st.lists(st.sampled_from([0, 0, 1, 5]), min_size=1))
def test_windows_take_text_in_order_and_keep_room_for_each_piece(
    length: list[int], window: int, rooms: list[int]
) -> None:
    rooms = [min(room, window - 1) for room in rooms]
    sizes = window_sizes(np.array(length, np.int64), window, cycle(rooms))
    number, pieces = fill_windows(np.array(length, np.int64), sizes)
    assert {part.dtype.name for part in (number, sizes, *pieces)} == {"int64"}
    assert np.bincount(number, weights=pieces.length, minlength=sizes.size).astype(int).tolist() == sizes.tolist()
    assert (np.diff(number) >= 0).all()
    tokens = output(pieces, length)
    assert tokens == [(d, i) for d, size in enumerate(length) for i in range(size)][: len(tokens)]
    for place, size in enumerate(sizes.tolist()):
        room = rooms[place % len(rooms)]
        own = np.bincount(number, minlength=sizes.size)[place]
        # Another piece of one token would not have fitted.
        assert window - room <= size + room * own <= window
    left, room = sum(length) - int(sizes.sum()), rooms[sizes.size % len(rooms)]
    unfinished = sum((d, size - 1) not in tokens for d, size in enumerate(length))
    assert left == 0 or left + room * (unfinished + 1) < window, "what is in no window would not have filled one"
    if not any(rooms):
        assert sizes.tolist() == [window] * (sum(length) // window)


@settings(max_examples=50)
@given(seed=st.integers(0, 999), length=st.lists(st.integers(1, 20), min_size=1, max_size=5), order=st.booleans())
def test_knots_name_and_recall_chunks(seed: int, length: list[int], order: bool) -> None:
    rng = np.random.default_rng(seed)
    documents = [np.arange(size, dtype=np.uint32) + 1000 * (number + 1) for number, size in enumerate(length)]
    pieces = shuffle_chunks(rng, np.array(length), chunks=(1, 4), keep_order=order)
    names = [np.array([100 + number, 200 + number], np.uint32) for number in range(pieces.document.size)]
    tokens, weight = tie_knots(documents, pieces, MARKS, names)
    assert (tokens.dtype.name, weight.dtype.name, weight.shape) == ("uint32", "float32", tokens.shape)
    expected = np.concatenate(documents)[token_indices(pieces, np.cumsum(length, dtype=np.int64) - length)]
    assert tokens[tokens >= 1000].tolist() == expected.tolist()
    assert not weight[(tokens > 900) & (tokens < 906)].any()
    assert (weight[(tokens == 906) | (tokens == 907)] == 1).all()
    assert tokens.size - sum(length) <= len(length) * most_marks(MARKS, 4, 2)

    spelled = " ".join(map(str, tokens.tolist()))
    for number, count in enumerate(np.bincount(pieces.document)):
        own = np.flatnonzero(pieces.document == number)
        chain = " 906 ".join(f"{100 + i} {200 + i}" for i in own[np.argsort(pieces.start[own])])
        assert (f"905 {chain} 907" in spelled) == (count > 1)
    knotted = sum(int(count) for count in np.bincount(pieces.document) if count > 1)
    cuts = knotted - sum(count > 1 for count in np.bincount(pieces.document))
    assert [tokens.tolist().count(mark) for mark in (901, 902, 903)] == [cuts, cuts, knotted]
    in_recall = np.cumsum(tokens == 905) > np.cumsum(tokens == 907)
    is_name = (tokens >= 100) & (tokens < 300)
    assert (weight[is_name] == in_recall[is_name]).all()
    for index in range(tokens.size):
        if tokens[index] >= 1000:
            assert weight[index] == (index > 0 and tokens[index - 1] + 1 == tokens[index])


def test_the_most_marks_are_those_of_the_most_chunks() -> None:
    document, marks = np.arange(9, dtype=np.uint32), Marks((1, 1), (2,), (3,), (4, 4, 4), (5,), (6, 6), (7,))
    for chunks in (1, 2, 5):
        pieces = interleave(np.random.default_rng(0), np.array([9]), chunks=chunks, cut="equal")
        tokens, _ = tie_knots([document], pieces, marks, [np.array([8, 8, 8], np.uint32)] * chunks)
        assert tokens.size - 9 == most_marks(marks, chunks, 3)
    pieces = interleave(np.random.default_rng(0), np.array([9]), chunks=3)
    plain = Marks((1, 1), (2,))
    assert (
        tie_knots([document], pieces, plain, [np.zeros(0, np.uint32)] * 3)[0].size - 9 == most_marks(plain, 3, 0) == 6
    )


def test_chunk_names_differ_and_repeat_by_seed() -> None:
    names = chunk_names(np.random.default_rng(3), 500)
    assert len(set(names)) == 500
    assert all(len(name) == 6 and name.isalnum() for name in names)
    assert names == chunk_names(np.random.default_rng(3), 500)


def test_refusals() -> None:
    rng, length = np.random.default_rng(0), np.array([3, 0])
    with pytest.raises(ConfigError, match="document 1: 0 tokens"):
        interleave(rng, length)
    with pytest.raises(ConfigError, match="chunks: 0"):
        interleave(rng, length[:1], chunks=0)
    with pytest.raises(ConfigError, match="rising order"):
        shuffle_chunks(rng, length[:1], chunks=(3, 2))
    with pytest.raises(ConfigError, match="cut: 'odd'"):
        interleave(rng, length[:1], cut="odd")  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="window: 0"):
        window_sizes(length[:1], 0, repeat(0))
    with pytest.raises(ConfigError, match="0 names for 1 pieces"):
        tie_knots([np.zeros(3, np.uint32)], interleave(rng, length[:1], chunks=1), MARKS, [])
