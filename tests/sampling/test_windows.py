"""A source's windows: every document once an epoch, copies as drawn and kept apart, nothing held by all documents."""

from itertools import islice

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from longspan.sampling.plan import Upsample
from longspan.sampling.table import CorpusTable
from longspan.sampling.windows import Source, Window, open_source, stream_windows, without_neighbours
from tests.sampling.corpora import LENGTHS, NAMES, settings_of, table_of


def source_of(table: CorpusTable, number: int = 0, upsample: Upsample | None = None, seed: int = 1) -> Source:
    return open_source(table, number, settings_of(upsample={NAMES[number]: upsample} if upsample else {}, seed=seed))


def epochs_of(source: Source, num_epochs: int, shuffle: bool = True, shuffle_tokens: int = 300) -> list[list[Window]]:
    epochs: list[list[Window]] = [[] for _ in range(num_epochs)]
    for window in stream_windows(source, shuffle, shuffle_tokens):
        if window.epoch == num_epochs:
            return epochs
        epochs[window.epoch].append(window)
    raise AssertionError("the stream is endless")


def drawn(windows: list[Window]) -> list[int]:
    return np.concatenate([window.document for window in windows]).tolist()


@given(lengths=LENGTHS, other=LENGTHS, shuffle=st.booleans(), seed=st.integers(0, 2**32))
def test_an_epoch_is_a_permutation(lengths: list[int], other: list[int], shuffle: bool, seed: int) -> None:
    table = table_of(other, lengths)
    begins = np.cumsum(table.length) - table.length
    for epoch in epochs_of(source_of(table, 1, seed=seed), 2, shuffle):
        assert sorted(drawn(epoch)) == list(range(len(other), len(other) + len(lengths)))
        assert shuffle or drawn(epoch) == sorted(drawn(epoch))
        for window in epoch:
            assert (window.offset == begins[window.document]).all()
            assert (window.length == table.length[window.document]).all()
            assert [window.document.dtype, window.offset.dtype, window.length.dtype] == [np.int64, np.int64, np.int32]


@given(
    lengths=LENGTHS,
    threshold=st.integers(1, 150),
    ratio=st.floats(1, 6),
    shuffle=st.booleans(),
    seed=st.integers(0, 2**32),
)
def test_long_documents_come_as_often_as_asked(
    lengths: list[int], threshold: int, ratio: float, shuffle: bool, seed: int
) -> None:
    source = source_of(table_of(lengths), upsample=Upsample(threshold, ratio), seed=seed)
    is_long = np.array(lengths) >= threshold
    for epoch in epochs_of(source, 2, shuffle):
        counts = np.bincount(drawn(epoch), minlength=len(lengths))
        assert (counts[~is_long] == 1).all()
        assert ((counts[is_long] == int(ratio)) | (counts[is_long] == np.ceil(ratio))).all()


def test_fractional_ratio_is_met_on_average_and_drawn_anew_each_epoch() -> None:
    source = source_of(table_of([10] * 2000), upsample=Upsample(10, 2.3))
    sizes = [len(drawn(epoch)) / 2000 for epoch in epochs_of(source, 5, shuffle_tokens=5000)]
    assert np.mean(sizes) == pytest.approx(2.3, abs=0.02)
    assert len(set(sizes)) > 1
    assert source.epoch_tokens == pytest.approx(46_000)


def test_which_documents_come_again_does_not_depend_on_chunks_or_order() -> None:
    lengths = [10, 40] * 50
    kinds = [(64, True, 300), (200, True, 900), (64, False, 100)]
    copies = []
    for chunk_tokens, shuffle, shuffle_tokens in kinds:
        source = source_of(table_of(lengths, chunk_tokens=chunk_tokens), upsample=Upsample(40, 1.5))
        copies.append([sorted(drawn(epoch)) for epoch in epochs_of(source, 2, shuffle, shuffle_tokens)])
    assert copies[0] == copies[1] == copies[2]
    assert copies[0][0] != copies[0][1]


def test_windows_are_of_about_the_size_asked_for() -> None:
    source = source_of(table_of([10, 20, 30] * 200), upsample=Upsample(30, 2.0))
    for epoch in epochs_of(source, 2, shuffle_tokens=1000):
        sizes = [int(window.length.sum()) for window in epoch]
        assert sum(sizes) == 18_000
        assert len(sizes) == 18
        assert min(sizes) > 800
        assert max(sizes) < 1200


def test_a_small_source_is_one_window_shuffled_anew_each_epoch() -> None:
    epochs = epochs_of(source_of(table_of([10] * 50)), 3, shuffle_tokens=600)
    assert [len(epoch) for epoch in epochs] == [1, 1, 1]
    assert len({tuple(drawn(epoch)) for epoch in epochs}) == 3


def test_a_window_mixes_documents_of_chunks_that_are_far_apart() -> None:
    source = source_of(table_of([8] * 8000))
    window = next(iter(stream_windows(source, True, 1600)))
    chunk = window.document // 8
    assert np.unique(chunk).size == pytest.approx(25, abs=1)
    assert (np.abs(np.diff(chunk)) > 1).mean() > 0.9


def test_a_source_keeps_its_stream_when_the_corpus_gains_one() -> None:
    def first_windows(table: CorpusTable, name_at: int) -> list[list[int]]:
        renamed = CorpusTable(("art", "books") if name_at else ("books",), *list(vars(table).values())[1:6])
        source = open_source(renamed, name_at, settings_of(upsample={"books": Upsample(40, 2.5)}))
        first = int(renamed.chunk_document[source.units[0]])
        return [(window.document - first).tolist() for window in islice(stream_windows(source, True, 300), 20)]

    lengths = [10, 40, 25, 90] * 20
    assert first_windows(table_of(lengths), 0) == first_windows(table_of([5, 6, 7], lengths), 1)


def neighbours(order: np.ndarray) -> int:
    return int((order[1:] == order[:-1]).sum())


@example(counts=[3, 2], seed=216, previous=None)
@given(
    counts=st.lists(st.integers(1, 12), min_size=1, max_size=30),
    seed=st.integers(0, 2**32),
    previous=st.none() | st.integers(0, 29),
)
def test_copies_are_kept_apart(counts: list[int], seed: int, previous: int | None) -> None:
    rng = np.random.default_rng(seed)
    line = rng.permutation(np.repeat(np.arange(len(counts)), counts))
    order = without_neighbours(line, previous, rng)
    assert sorted(order) == list(range(line.size))
    if previous is None and not neighbours(line):
        assert order.tolist() == list(range(line.size))
    # Fewest neighbours that any order has: the copies of a document that the others cannot keep apart. The document
    # before counts as one more place taken.
    line = line[order] if previous is None else np.concatenate([[previous], line[order]])
    most, heavy = max(counts), int(np.argmax(counts))
    runs = line.size - (most + (previous == heavy)) + 1
    if previous is not None and previous != heavy:
        runs -= 1
    assert neighbours(line) == max(0, most + (previous == heavy) - runs)


def test_no_document_follows_itself_over_the_border_of_windows() -> None:
    source = source_of(table_of([30, 40, 50, 60]), upsample=Upsample(50, 3.0))
    windows = [window for epoch in epochs_of(source, 40, shuffle_tokens=150) for window in epoch]
    first, last = [w.document[0] for w in windows[1:]], [w.document[-1] for w in windows[:-1]]
    alone = [np.unique(w.document).size == 1 for w in windows[1:]]
    assert all(a != b or only for a, b, only in zip(first, last, alone, strict=True))
