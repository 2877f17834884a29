"""Epochs of a plan, counted token by token: none begins before the last has ended, and `plan` tells what is drawn."""

from itertools import takewhile

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from longspan.sampling.plan import MixPoint, PlanSettings, Upsample, plan_parts
from longspan.sampling.statistics import figures, open_statistics
from longspan.sampling.table import CorpusTable
from longspan.sampling.windows import open_source, stream_windows
from tests.sampling.corpora import LENGTHS, samples_of, settings_of, table_of

ALONE = (MixPoint(0, {"books": 1.0}),)


def copies_by_epoch(table: CorpusTable, wanted: PlanSettings, num_epochs: int) -> NDArray[np.int64]:
    """int64 [num_epochs, num_tokens], how often each token is to have come by the end of each epoch."""
    copies = np.zeros((num_epochs, table.num_documents), dtype=np.int64)
    windows = stream_windows(open_source(table, 0, wanted), wanted.shuffle, wanted.shuffle_tokens)
    for window in takewhile(lambda window: window.epoch < num_epochs, windows):
        copies[window.epoch] += np.bincount(window.document, minlength=table.num_documents)
    return np.repeat(np.cumsum(copies, axis=0), table.length, axis=1)


@settings(deadline=None, max_examples=30)
@given(
    lengths=LENGTHS,
    sample_length=st.integers(1, 80) | st.integers(100, 3000),
    ratio=st.sampled_from([1.0, 2.0, 2.5, 4.0]),
    threshold=st.integers(1, 150),
    epochs=st.floats(0.2, 3),
    packing=st.sampled_from(["best_fit", "sequential"]),
    shuffle=st.booleans(),
    shuffle_tokens=st.sampled_from([50, 300, 10_000]),
    seed=st.integers(0, 2**32),
)
def test_no_document_comes_again_before_all_of_its_epoch_have_come(
    lengths: list[int],
    sample_length: int,
    ratio: float,
    threshold: int,
    epochs: float,
    packing: str,
    shuffle: bool,
    shuffle_tokens: int,
    seed: int,
) -> None:
    """After every sample: at least as often as the epochs before want it, at most as often as with this one."""
    table = table_of(lengths)
    steps = max(1, int(epochs * sum(lengths) / sample_length))
    wanted = settings_of(
        mix=ALONE, steps=steps, global_batch_size=1, sample_length=sample_length, packing=packing, shuffle=shuffle,
        shuffle_tokens=shuffle_tokens, upsample={"books": Upsample(threshold, ratio)}, seed=seed,
    )  # fmt: skip
    parts = list(plan_parts(table, wanted))
    last = max(int(part.epoch.max()) for part in parts) + 1 + sample_length // sum(lengths) + 1
    until = np.concatenate([np.zeros((1, table.num_tokens), dtype=np.int64), copies_by_epoch(table, wanted, last + 1)])
    times, epoch = np.zeros(table.num_tokens, dtype=np.int64), 0
    for _, begins_in, spans in samples_of(parts):
        assert begins_in == epoch
        for _, offset, length in spans:
            times[offset : offset + length] += 1
        while (times >= until[epoch + 1]).all():
            epoch += 1
        assert (until[epoch] <= times).all()
        assert (times <= until[epoch + 1]).all()


def test_a_small_corpus_is_drawn_evenly_in_long_samples() -> None:
    """150 documents of 1.27M tokens, samples of 131,072: 9 samples are 0.93 epoch, and 10 hold all of it."""
    length = np.random.default_rng(0).lognormal(8.4, 1.2, 150)
    table = CorpusTable.from_lengths(np.zeros(150, int), np.maximum(length * 1.27e6 / length.sum(), 16), ("books",))
    for packing in ("best_fit", "sequential"):
        for steps, least, most in ((9, 0, 1), (10, 1, 2)):
            wanted = settings_of(
                mix=ALONE, steps=steps, global_batch_size=1, sample_length=131_072, shuffle_tokens=32_000_000,
                packing=packing,
            )  # fmt: skip
            times = np.zeros(table.num_tokens, dtype=np.int64)
            for _, _, spans in samples_of(list(plan_parts(table, wanted))):
                for _, offset, size in spans:
                    times[offset : offset + size] += 1
            assert (times.min(), times.max()) == (least, most)
            assert times.mean() > 0.9 * steps * 131_072 / table.num_tokens


def test_upsampled_documents_have_their_ratio_in_a_quarter_of_an_epoch() -> None:
    """Of a corpus of 150 documents, over twenty seeds; 4.6 before the seams."""
    length = np.random.default_rng(0).lognormal(8.4, 1.2, 150)
    table = CorpusTable.from_lengths(np.zeros(150, int), np.maximum(length * 1.27e6 / length.sum(), 16), ("books",))
    is_long = table.length >= 9_000
    drawn, found = np.zeros(2), []
    for seed in range(20):
        wanted = settings_of(
            mix=ALONE, steps=241, global_batch_size=1, sample_length=4096, shuffle_tokens=32_000_000,
            upsample={"books": Upsample(9_000, 4.0)}, seed=seed,
        )  # fmt: skip
        (part,) = plan_parts(table, wanted)
        tokens = np.bincount(part.document, weights=part.length, minlength=150)
        times = np.array([tokens[kind].sum() / table.length[kind].sum() for kind in (is_long, ~is_long)])
        drawn += times
        found.append(times[0] / times[1])
    assert abs(drawn[0] / drawn[1] - 4) < 0.1
    assert max(abs(ratio - 4) for ratio in found) < 0.4


@settings(deadline=None, max_examples=30)
@given(
    lengths=LENGTHS,
    sample_length=st.integers(1, 300),
    ratio=st.sampled_from([1, 3]),
    steps=st.integers(1, 60),
    packing=st.sampled_from(["best_fit", "sequential"]),
)
def test_the_epochs_that_are_told_are_those_drawn(
    lengths: list[int], sample_length: int, ratio: int, steps: int, packing: str
) -> None:
    table = table_of(lengths)
    wanted = settings_of(
        mix=ALONE, steps=steps, sample_length=sample_length, packing=packing,
        upsample={"books": Upsample(70, ratio)} if ratio > 1 else {},
    )  # fmt: skip
    statistics, parts = open_statistics(table, wanted), list(plan_parts(table, wanted))
    for part in parts:
        statistics.add(part)
    told = figures(statistics)["sources"]["books"]["epochs"]
    times = np.zeros(table.num_tokens)
    for _, _, spans in samples_of(parts):
        for _, offset, length in spans:
            times[offset : offset + length] += 1
    often = np.repeat(np.where(table.length >= 70, ratio, 1), table.length)
    assert np.isclose(times.sum() / often.sum(), told)
    # Told in whole epochs, all of it has come at least so often.
    assert (times >= np.floor(told + 1e-9) * often).all()
    assert (times <= np.ceil(told - 1e-9) * often).all()
