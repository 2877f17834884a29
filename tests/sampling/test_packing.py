"""The packers: every token once, samples never too full, hardly any padding on a realistic mix of lengths."""

from collections.abc import Iterator
from itertools import chain

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from longspan.sampling import packing
from longspan.sampling.packing import Samples, best_fit, joined, pack_best_fit, pack_sequential
from longspan.sampling.windows import Window

PACKERS = {"best_fit": pack_best_fit, "sequential": pack_sequential}


def windows_of(lengths: list[list[int]], repeat: int = 1) -> Iterator[Window]:
    """Windows of these lengths; a document is numbered by its place, and drawn again in each of `repeat` epochs."""
    flat = np.array(list(chain(*lengths)), dtype=np.int32)
    begins = np.cumsum(flat, dtype=np.int64) - flat
    for epoch in range(repeat):
        document = 0
        for number, sizes in enumerate(lengths):
            documents = np.arange(document, document + len(sizes))
            yield Window(documents, begins[documents], flat[documents], epoch, number)
            document += len(sizes)


def packed(kind: str, windows: Iterator[Window], sample_length: int) -> Samples:
    none, short = np.zeros(0, dtype=np.int64), np.zeros(0, dtype=np.int32)
    nothing = Samples(np.zeros(1, dtype=np.int64), none, none, short, short)
    return joined([nothing, *(samples for samples, _ in PACKERS[kind](windows, sample_length))])


WINDOWS = st.lists(st.lists(st.integers(1, 90), min_size=1, max_size=30), min_size=1, max_size=6)


@given(
    lengths=WINDOWS, sample_length=st.integers(1, 60), kind=st.sampled_from(sorted(PACKERS)), repeat=st.integers(1, 3)
)
def test_every_token_comes_once_an_epoch(lengths: list[list[int]], sample_length: int, kind: str, repeat: int) -> None:
    samples = packed(kind, windows_of(lengths, repeat), sample_length)
    flat = np.array(list(chain(*lengths)))
    begins = np.cumsum(flat) - flat
    assert (samples.length > 0).all()
    assert (samples.offset >= begins[samples.document]).all()
    assert (samples.offset + samples.length <= (begins + flat)[samples.document]).all()
    tokens = np.zeros(int(flat.sum()) + 1, dtype=np.int64)
    np.add.at(tokens, samples.offset, 1)
    np.add.at(tokens, samples.offset + samples.length, -1)
    times = np.cumsum(tokens)[:-1]
    assert times.max() <= repeat
    used = np.add.reduceat(samples.length, samples.span_offsets[:-1]) if samples.num_samples else np.zeros(0)
    assert (used <= sample_length).all()
    assert samples.span_offsets[-1] == samples.length.size
    if kind == "sequential":
        assert (used == sample_length).all()
        assert 0 <= int(flat.sum()) * repeat - int(samples.length.sum()) < sample_length
    else:
        assert (times == repeat).all()


@given(
    lengths=WINDOWS,
    sample_length=st.integers(1, 60) | st.integers(200, 9000),
    kind=st.sampled_from(sorted(PACKERS)),
    repeat=st.integers(2, 6),
)
def test_no_token_comes_again_before_all_have_come(
    lengths: list[list[int]], sample_length: int, kind: str, repeat: int
) -> None:
    """After every sample, for samples shorter than a document and longer than the source."""
    num_tokens = sum(map(sum, lengths))
    times = np.zeros(num_tokens, dtype=np.int64)
    feeds = list(PACKERS[kind](windows_of(lengths, repeat), sample_length))
    for samples, window in feeds:
        for i in range(samples.num_samples):
            for span in range(*samples.span_offsets[i : i + 2]):
                times[samples.offset[span] : samples.offset[span] + samples.length[span]] += 1
            assert times.max() - times.min() <= 1
        begun = samples.epoch[samples.epoch < window.epoch]
        assert begun.size <= 1
        assert (samples.epoch[: begun.size] < window.epoch).all()
    padding = sum(int((sample_length - samples.tokens).sum()) for samples, _ in feeds)
    num_samples = sum(samples.num_samples for samples, _ in feeds)
    assert int(times.sum()) + padding == num_samples * sample_length


def test_a_seam_is_filled_with_the_next_epoch() -> None:
    """Epochs of 25 documents in samples that hold 10: each epoch's last 5 stand with 5 of the next."""
    samples = packed("best_fit", windows_of([[7] * 25], repeat=8), 70)
    assert samples.tokens.tolist() == [70] * 20
    assert samples.epoch.tolist() == [0, 0, 0, 1, 1, 2, 2, 2, 3, 3, 4, 4, 4, 5, 5, 6, 6, 6, 7, 7]


def test_an_epoch_of_many_tiny_documents_is_one_seam_over_several_groups() -> None:
    """More documents than are fitted at once, and all of them do not fill a sample."""
    num_documents = 3 * packing._GROUP_DOCUMENTS // 2
    sample_length = num_documents * 3 // 4
    samples = packed("best_fit", windows_of([[1] * num_documents], repeat=3), sample_length)
    assert samples.tokens.tolist() == [sample_length] * 4
    times = np.zeros(num_documents, dtype=np.int64)
    for i in range(4):
        times += np.bincount(samples.between(i, i + 1).document, minlength=num_documents)
        assert times.max() - times.min() <= 1


def test_sequential_samples_are_documents_end_to_end() -> None:
    samples = packed("sequential", windows_of([[5, 20], [3, 5], [200]]), 8)
    first = samples.between(0, 5)
    assert first.span_offsets.tolist() == [0, 2, 3, 4, 7, 9]
    assert first.document.tolist() == [0, 1, 1, 1, 1, 2, 3, 3, 4]
    assert first.offset.tolist() == [0, 5, 8, 16, 24, 25, 28, 32, 33]
    assert first.length.tolist() == [5, 3, 8, 8, 1, 3, 4, 1, 7]
    assert samples.num_samples == 29


def test_sequential_epochs_are_those_a_sample_begins_in() -> None:
    samples = packed("sequential", windows_of([[5, 6]], repeat=12), 8)
    assert samples.epoch[:4].tolist() == [0, 0, 1, 2]


def test_best_fit_cuts_only_documents_longer_than_a_sample() -> None:
    sizes = [20, 5, 3, 8, 7, 1, 4, 4] * 20
    samples = packed("best_fit", windows_of([sizes]), 8)
    flat = np.array(sizes)
    whole = samples.length == flat[samples.document]
    assert (whole | (flat[samples.document] == 20)).all()
    assert set(samples.length[~whole].tolist()) == {8, 4}
    assert (np.add.reduceat(samples.length, samples.span_offsets[:-1]) == 8).all()


@given(lengths=st.lists(st.integers(1, 20), min_size=1, max_size=60), capacity=st.integers(20, 50))
def test_best_fit_takes_the_fullest_bin_with_room(lengths: list[int], capacity: int) -> None:
    bins, num_bins = best_fit(np.array(lengths, np.int32), np.arange(len(lengths)), capacity)
    room = [capacity] * num_bins
    opened = 0
    for piece in np.lexsort((np.arange(len(lengths)), -np.array(lengths))):
        fitting = [room[number] for number in range(opened) if room[number] >= lengths[piece]]
        assert room[bins[piece]] == min(fitting, default=capacity)
        opened = max(opened, int(bins[piece]) + 1)
        room[bins[piece]] -= lengths[piece]
    assert opened == num_bins


def test_copies_avoid_each_others_samples() -> None:
    document = np.repeat(np.arange(40), 4)
    length = np.random.default_rng(0).integers(5, 20, 40).astype(np.int32)[document]
    bins, _ = best_fit(length, document, 60)
    together = document.size - np.unique(bins * 100 + document).size
    assert together <= 0.05 * document.size
    # With no other bin they share one, rather than padding the rest.
    assert best_fit(np.full(6, 10, np.int32), np.zeros(6, np.int64), 60)[1] == 1


def realistic(num_windows: int, window_tokens: int) -> Iterator[Window]:
    """Web pages (median 600 tokens) and, for a third of the tokens, books and code (median 16k); log-normal."""
    rng = np.random.default_rng(3)
    for number in range(num_windows):
        short = rng.lognormal(np.log(600), 1.1, window_tokens // 600)
        long = rng.lognormal(np.log(16_000), 1.0, window_tokens // 40_000)
        length = rng.permutation(np.concatenate([short, long])).clip(1).astype(np.int32)
        length = length[np.cumsum(length) < window_tokens]
        yield Window(np.arange(length.size) + 10**6 * number, np.cumsum(length) - length, length, 0, number)


@pytest.mark.parametrize("sample_length", [4096, 8192, 32768])
def test_padding_is_below_one_percent_on_a_realistic_mix_of_lengths(sample_length: int) -> None:
    samples = packed("best_fit", realistic(4, 8_000_000), sample_length)
    tokens = int(samples.length.sum())
    assert samples.num_samples > 3 * 8_000_000 // sample_length
    assert 1 - tokens / (samples.num_samples * sample_length) < 0.01
    # Nearly all was fed, little waits.
    assert tokens > 0.95 * sum(int(window.length.sum()) for window in realistic(4, 8_000_000))


def test_documents_that_never_fit_well_do_not_wait_for_ever() -> None:
    # No two fit together, and the last document of each window, being the shortest, is the last choice every time.
    windows = windows_of([[7] * 199 + [6]] * 40)
    *feeds, _ = list(pack_best_fit(windows, 10))
    assert sum(samples.num_samples for samples, _ in feeds) > 7900
    waits = [
        number - document // 200 for number, (samples, _) in enumerate(feeds) for document in samples.document.tolist()
    ]
    assert max(waits) == 3


def test_tiny_windows_fill_samples_all_the_same() -> None:
    samples = packed("best_fit", windows_of([[7, 13, 11]], repeat=400), 100)
    assert int(samples.length.sum()) / (samples.num_samples * 100) > 0.95


@pytest.mark.parametrize("kind", sorted(PACKERS))
def test_more_epochs_leave_the_first_samples_as_they_are(kind: str) -> None:
    lengths = np.random.default_rng(0).integers(1, 90, (12, 30)).tolist()
    short, long = (packed(kind, windows_of(lengths, repeat), 64) for repeat in (2, 5))
    size = short.num_samples - 1  # the last may be a seam that nothing follows
    for name in ("span_offsets", "document", "offset", "length", "epoch"):
        assert (getattr(long.between(0, size), name) == getattr(short.between(0, size), name)).all()
