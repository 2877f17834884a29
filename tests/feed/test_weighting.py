"""Weights of sequences: each document of a sample adds up to one, whatever it holds and wherever it is batched."""

import dataclasses

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from longspan.config.recipe import Recipe
from longspan.feed.batch import BatchSettings, MicroBatch, Sample, make_micro_batch, spans_of
from longspan.feed.source import FeedSpec, Source, feed_spec
from longspan.feed.weighting import weigh_sequences
from longspan.positions import Contiguous
from tests.feed.comparing import assert_all_same
from tests.feed.conftest import STEPS, make_corpus, staged

WIDTH = 24
SETTINGS = BatchSettings(WIDTH, 64, Contiguous(), True, 0, np.zeros(50, np.bool_))
STREAM = np.random.default_rng(0).integers(0, 50, 500).astype(np.uint32)
WEIGHTS = np.random.default_rng(1).choice([0.0, 1.0, 1.0, 0.25], 500).astype(np.float32)
ROUNDING = 1e-6


@st.composite
def samples_(draw: st.DrawFn) -> list[Sample]:
    """Samples that fill their width or not, some with several spans of one document, in any order."""
    found = []
    for index in range(draw(st.integers(1, 4))):
        cuts = sorted(draw(st.sets(st.integers(1, WIDTH - 1), max_size=6)))
        lengths = np.diff([0, *cuts, draw(st.sampled_from([WIDTH, max([1, *cuts]) + 1]))]).astype(np.int32)
        offsets = np.array(draw(st.lists(st.integers(0, 470), min_size=lengths.size, max_size=lengths.size)), np.int64)
        numbers = draw(st.lists(st.integers(0, 3), min_size=lengths.size, max_size=lengths.size))
        document = draw(st.sampled_from([None, np.array(sorted(numbers), np.int64)]))
        found.append(Sample(index, offsets, lengths, document))
    return found


def batch_of(samples: list[Sample], is_weighted: bool) -> MicroBatch:
    places = np.concatenate([o + np.arange(n) for o, n in zip(*spans_of(samples), strict=True)])
    return make_micro_batch(samples, (STREAM[places], WEIGHTS[places] if is_weighted else None), SETTINGS)


def tokens_of_sequences(samples: list[Sample]) -> list[list[int]]:
    """Places in the row of each sequence, the slow way."""
    sequences: dict[tuple[int, int], list[int]] = {}
    for number, sample in enumerate(samples):
        at = number * WIDTH
        for span, length in enumerate(sample.lengths.tolist()):
            document = span if sample.document is None else int(sample.document[span])
            sequences.setdefault((number, document), []).extend(range(at, at + length))
            at += length
    return list(sequences.values())


@given(samples_(), st.booleans())
def test_the_targets_of_a_sequence_share_one(samples: list[Sample], is_weighted: bool) -> None:
    plain = batch_of(samples, is_weighted)
    found = weigh_sequences(plain, samples)
    count = 0
    for places in tokens_of_sequences(samples):
        before, after = plain.loss_weight[places].astype(float), found.loss_weight[places]
        if before.sum() > 0:
            np.testing.assert_allclose(after, before / before.sum(), rtol=ROUNDING)
            count += 1
        else:
            assert not after.any()
        if not is_weighted and before.any():
            assert set(after[before > 0].tolist()) == {float(np.float32(1 / (before > 0).sum()))}
    assert found.loss_weight.astype(float).sum() == pytest.approx(count, rel=ROUNDING)
    assert ((found.loss_weight > 0) == (plain.labels >= 0)).all()


@given(samples_())
def test_nothing_but_the_weights_changes(samples: list[Sample]) -> None:
    plain = batch_of(samples, True)
    found = weigh_sequences(plain, samples)
    assert found.loss_weight.dtype == np.float32
    assert_all_same([dataclasses.replace(found, loss_weight=plain.loss_weight)], [plain])


def test_a_target_of_hardly_any_weight_stays_one() -> None:
    sample = Sample(0, np.zeros(1, np.int64), np.array([3], np.int32))
    weights = np.array([0, 1e-45, 3e38], np.float32)
    plain = make_micro_batch([sample], (STREAM[:3], weights), SETTINGS)
    found = weigh_sequences(plain, [sample]).loss_weight[:3].tolist()
    assert found[0] > 0
    assert found[1:] == [1.0, 0.0]


@pytest.fixture(scope="module")
def weighted(tmp_path_factory: pytest.TempPathFactory) -> Recipe:
    folder = tmp_path_factory.mktemp("weighting")
    data = {"mix": [{"weights": {"text": 1.0, "needles": 1.0}}], "loss_weighting": {"type": "sequence"}}
    return staged(str(folder / "run"), make_corpus(str(folder / "corpus")), data=data)


def test_the_feed_gives_each_document_of_a_sample_one_in_all(weighted: Recipe) -> None:
    spec = feed_spec(weighted)
    plain: FeedSpec = dataclasses.replace(spec, sequence_mean=False)
    indices = range(STEPS * spec.micro_batches_per_step)
    documents = 0
    for before, after in zip(Source(plain).micro_batches(indices), Source(spec).micro_batches(indices), strict=True):
        for begin, end in zip(before.cu_seqlens[:-1], before.cu_seqlens[1:], strict=True):
            own = before.loss_weight[begin:end].astype(float)
            if own.any():
                documents += 1
                np.testing.assert_allclose(after.loss_weight[begin:end], own / own.sum(), rtol=ROUNDING)
        assert_all_same([dataclasses.replace(after, loss_weight=before.loss_weight)], [before])
    assert documents > STEPS * spec.global_batch_size, "some samples hold several"


@pytest.mark.parametrize("grouping", [1, 4])
def test_a_sample_has_the_same_weights_in_any_micro_batch(weighted: Recipe, grouping: int) -> None:
    spec = feed_spec(weighted)
    other = Source(dataclasses.replace(spec, micro_batch_size=grouping)).micro_batches(range(16 // grouping))
    usual = Source(spec).micro_batches(range(8))
    found, expected = (np.concatenate([batch.loss_weight for batch in batches]) for batches in (other, usual))
    np.testing.assert_array_equal(found, expected)
