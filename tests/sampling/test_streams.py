"""A source's stream: every token once an epoch, copies kept apart, samples that never change."""

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from longspan.sampling.streams import epoch_documents, stream_spans

LENGTHS = st.lists(st.integers(1, 40), min_size=1, max_size=30).map(lambda values: np.array(values, dtype=np.int32))


def neighbours(order: np.ndarray) -> int:
    return int((order[1:] == order[:-1]).sum())


@given(length=LENGTHS, seed=st.integers(0, 2**32), previous=st.none() | st.integers(0, 29))
def test_without_upsampling_an_epoch_is_a_permutation(length: np.ndarray, seed: int, previous: int | None) -> None:
    order = epoch_documents(length, None, [seed], previous)
    assert sorted(order) == list(range(length.size))
    if length.size > 1:
        assert order[0] != previous


@example(length=np.array([1, 1], np.int32), threshold=1, ratio=2.5, seed=216, previous=None)
@given(
    length=LENGTHS,
    threshold=st.integers(1, 40),
    ratio=st.floats(1, 12),
    seed=st.integers(0, 2**32),
    previous=st.none() | st.integers(0, 29),
)
def test_copies_are_counted_and_kept_apart(
    length: np.ndarray, threshold: int, ratio: float, seed: int, previous: int | None
) -> None:
    order = epoch_documents(length, (threshold, ratio), [seed], previous)
    counts = np.bincount(order, minlength=length.size)
    is_long = length >= threshold
    assert (counts[~is_long] == 1).all()
    assert ((counts[is_long] == int(ratio)) | (counts[is_long] == int(ratio) + 1)).all()
    # Fewest neighbours that any order has: the copies of a document that the others cannot keep apart. The end of the
    # epoch before counts as one more place taken.
    line = order if previous is None else np.concatenate([[previous], order])
    most = counts.max()
    heavy = counts.argmax()
    runs = line.size - (most + (previous == heavy)) + 1
    if previous is not None and previous != heavy:
        runs -= 1
    assert neighbours(line) == max(0, most + (previous == heavy) - runs)


def test_fractional_ratio_is_met_on_average_and_drawn_anew_each_epoch() -> None:
    length = np.full(2000, 10, dtype=np.int32)
    sizes = [epoch_documents(length, (10, 2.3), [0, epoch], None).size / 2000 for epoch in range(5)]
    assert np.mean(sizes) == pytest.approx(2.3, abs=0.02)
    assert len(set(sizes)) > 1


@given(
    length=LENGTHS,
    sample_length=st.integers(1, 50),
    num_samples=st.integers(1, 40),
    seed=st.integers(0, 2**32),
)
def test_spans_tile_samples_and_documents(length: np.ndarray, sample_length: int, num_samples: int, seed: int) -> None:
    documents = np.arange(length.size, dtype=np.int32) * 3 + 1
    spans = stream_spans(
        documents, length, num_samples=num_samples, sample_length=sample_length, upsample=None, seed=[seed]
    )
    assert (spans.length > 0).all()
    assert np.bincount(spans.sample, weights=spans.length).tolist() == [sample_length] * num_samples
    of_document = (spans.document - 1) // 3
    assert (spans.start + spans.length <= length[of_document]).all()
    # Within an epoch every token of the source comes once and only once; only the last epoch may be incomplete.
    flat = np.concatenate(
        [
            np.stack([np.full(n, d), np.arange(s, s + n)], axis=1)
            for d, s, n in zip(of_document, spans.start, spans.length, strict=True)
        ]
    )
    epoch_tokens = int(length.sum())
    for begin in range(0, len(flat), epoch_tokens):
        epoch = [tuple(row) for row in flat[begin : begin + epoch_tokens]]
        assert len(set(epoch)) == len(epoch)
    # A document that a sample border cuts goes on where it stopped.
    cut = spans.start[1:] > 0
    assert (spans.document[1:][cut] == spans.document[:-1][cut]).all()
    assert (spans.start[1:][cut] == (spans.start + spans.length)[:-1][cut]).all()


def test_more_samples_leave_the_first_ones_as_they_are() -> None:
    length = np.random.default_rng(0).integers(1, 300, size=50).astype(np.int32)
    short, long = (
        stream_spans(
            np.arange(50, dtype=np.int32), length, num_samples=n, sample_length=97, upsample=(200, 2.5), seed=[3]
        )
        for n in (20, 200)
    )
    size = short.sample.size
    for name in ("sample", "document", "start", "length"):
        assert (getattr(short, name) == getattr(long, name)[:size]).all()


def test_epochs_differ_in_order() -> None:
    length = np.full(50, 10, dtype=np.int32)
    spans = stream_spans(
        np.arange(50, dtype=np.int32), length, num_samples=100, sample_length=10, upsample=None, seed=[0]
    )
    assert sorted(spans.document[:50]) == sorted(spans.document[50:]) == list(range(50))
    assert (spans.document[:50] != spans.document[50:]).any()
