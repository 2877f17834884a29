"""A micro-batch is its samples side by side: targets stay inside spans, positions belong to the sample."""

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from longspan.errors import DataError
from longspan.feed.batch import (
    IGNORE,
    PAD,
    BatchSettings,
    MicroBatch,
    Sample,
    Tokens,
    make_micro_batch,
    spans_of,
)
from longspan.positions import CREAM, E2LLM, Contiguous, LongRecipe, PoSE, PositionMethod, RandPos

SAMPLE_LENGTH = 24
TARGET = 500
VOCAB = 50
METHODS = (
    Contiguous(),
    LongRecipe(min_segments=4),
    LongRecipe("bounded"),
    PoSE(2),
    PoSE(3, "suffix"),
    RandPos(),
    CREAM(),
    E2LLM(window=5),
)
ENDS_SENTENCE = np.arange(VOCAB) % 7 == 0


STREAM = np.random.default_rng(0).integers(0, VOCAB, 4000).astype(np.uint32)
WEIGHTS = np.random.default_rng(1).choice([0.0, 0.5, 1.0, 3.0], 4000).astype(np.float32)
WEIGHTS[2000:] = 1


def read(samples: list[Sample]) -> Tokens:
    """What a reader gives: from 2000 on there are no target weights."""
    offsets, lengths = spans_of(samples)
    spans = [slice(offset, offset + length) for offset, length in zip(offsets, lengths, strict=True)]
    tokens = np.concatenate([STREAM[span] for span in spans])
    return tokens, None if (offsets >= 2000).all() else np.concatenate([WEIGHTS[span] for span in spans])


def make(samples: list[Sample], settings: BatchSettings) -> MicroBatch:
    return make_micro_batch(samples, read(samples), settings)


@st.composite
def samples_(draw: st.DrawFn, index: int) -> Sample:
    lengths = np.array(draw(partitions()), np.int32)
    spans = len(lengths)
    offsets = draw(st.lists(st.integers(0, 3900), min_size=spans, max_size=spans))
    return Sample(index, np.array(offsets, np.int64), lengths)


@st.composite
def partitions(draw: st.DrawFn) -> list[int]:
    """Spans that fill a sample, or nearly."""
    size = draw(st.sampled_from([SAMPLE_LENGTH, SAMPLE_LENGTH, SAMPLE_LENGTH - 1, SAMPLE_LENGTH - 7, 1]))
    cuts = sorted(draw(st.sets(st.integers(1, size - 1), max_size=5))) if size > 1 else []
    return np.diff([0, *cuts, size]).tolist()


@st.composite
def rows(draw: st.DrawFn) -> list[Sample]:
    first = draw(st.integers(0, 10**9))
    return [draw(samples_(first + i)) for i in range(draw(st.integers(1, 4)))]


def batch_settings(method: PositionMethod = METHODS[1], **changes: Any) -> BatchSettings:
    values = {
        "sample_length": SAMPLE_LENGTH,
        "target_length": TARGET,
        "document_mask": True,
        "seed": 3,
        "ends_segment": ENDS_SENTENCE,
    }
    return BatchSettings(method=method, **{**values, **changes})


def sample_slice(batch: MicroBatch, number: int) -> dict[str, np.ndarray]:
    part = slice(number * SAMPLE_LENGTH, (number + 1) * SAMPLE_LENGTH)
    return {name: getattr(batch, name)[part] for name in ("input_ids", "positions", "labels", "loss_weight")}


@given(rows())
@settings(deadline=None)
def test_labels_are_the_next_token_of_the_same_span_with_its_weight(samples: list[Sample]) -> None:
    batch = make(samples, batch_settings())
    at = 0
    for sample in samples:
        for offset, length in zip(sample.offsets.tolist(), sample.lengths.tolist(), strict=True):
            for i in range(length):
                token, following = at + i, offset + i + 1
                assert batch.input_ids[token] == STREAM[offset + i]
                has_target = i + 1 < length and WEIGHTS[following] > 0
                assert batch.labels[token] == (STREAM[following] if has_target else IGNORE)
                assert batch.loss_weight[token] == (WEIGHTS[following] if has_target else 0)
            at += length
        padding = slice(at, at := at + SAMPLE_LENGTH - int(sample.lengths.sum()))
        assert (batch.input_ids[padding] == PAD).all()
        assert (batch.labels[padding] == IGNORE).all()
        assert (batch.loss_weight[padding] == 0).all()
        assert batch.positions[padding].tolist() == list(range(padding.stop - padding.start))
    assert at == batch.num_tokens == len(samples) * SAMPLE_LENGTH
    assert batch.first_sample == samples[0].index


@given(rows())
@settings(deadline=None)
def test_arrays_have_the_types_that_are_sent(samples: list[Sample]) -> None:
    batch = make(samples, batch_settings())
    for name, dtype in {"input_ids": "i4", "positions": "f4", "labels": "i4", "loss_weight": "f4"}.items():
        array = getattr(batch, name)
        assert array.dtype == np.dtype(dtype)
        assert array.shape == (batch.num_tokens,)
    assert batch.cu_seqlens.dtype == np.int32


def padded(lengths: list[int]) -> list[int]:
    """With a segment for the padding, if there is any."""
    return [size for size in [*lengths, SAMPLE_LENGTH - sum(lengths)] if size]


@given(rows())
@settings(deadline=None)
def test_cu_seqlens_are_the_spans_and_the_padding_of_all_samples(samples: list[Sample]) -> None:
    batch = make(samples, batch_settings())
    lengths = [size for sample in samples for size in padded(sample.lengths.tolist())]
    assert batch.cu_seqlens.tolist() == [0, *np.cumsum(lengths).tolist()]


@given(rows(), st.sampled_from(METHODS))
@settings(deadline=None)
def test_positions_begin_anew_in_every_document_and_rise(samples: list[Sample], method: PositionMethod) -> None:
    batch = make(samples, batch_settings(method))
    for start, end in zip(batch.cu_seqlens[:-1], batch.cu_seqlens[1:], strict=True):
        positions = batch.positions[start:end]
        assert positions[0] == 0
        assert (np.diff(positions) > 0).all()
        assert positions[-1] < TARGET


@given(rows(), st.sampled_from(METHODS))
@settings(deadline=None)
def test_without_the_document_mask_a_sample_is_one_document(samples: list[Sample], method: PositionMethod) -> None:
    masked = make(samples, batch_settings(method))
    batch = make(samples, batch_settings(method, document_mask=False))
    lengths = [size for sample in samples for size in padded([int(sample.lengths.sum())])]
    assert batch.cu_seqlens.tolist() == [0, *np.cumsum(lengths).tolist()]
    for number, sample in enumerate(samples):
        positions = sample_slice(batch, number)["positions"][: sample.lengths.sum()]
        assert positions[0] == 0
        assert (np.diff(positions) > 0).all()
    # Attention may cross a splice; a target may not.
    np.testing.assert_array_equal(batch.labels, masked.labels)
    np.testing.assert_array_equal(batch.loss_weight, masked.loss_weight)


@given(rows(), st.sampled_from(METHODS), st.data())
@settings(deadline=None)
def test_a_sample_is_the_same_in_whatever_batch_it_comes(
    samples: list[Sample], method: PositionMethod, data: st.DataObject
) -> None:
    whole = make(samples, batch_settings(method))
    number = data.draw(st.integers(0, len(samples) - 1))
    alone = make([samples[number]], batch_settings(method))
    for name, values in sample_slice(whole, number).items():
        np.testing.assert_array_equal(values, getattr(alone, name), err_msg=name)


def one_span(index: int, offset: int = 4, length: int = SAMPLE_LENGTH) -> Sample:
    return Sample(index, np.array([offset]), np.array([length], np.int32))


@pytest.mark.parametrize("method", METHODS[1:], ids=repr)
def test_positions_depend_on_the_seed_and_the_sample_index(method: PositionMethod) -> None:
    def positions(index: int, seed: int) -> tuple[float, ...]:
        return tuple(
            make([one_span(index)], batch_settings(method, seed=seed, target_length=50_000)).positions.tolist()
        )

    assert positions(5, 3) == positions(5, 3)
    # The same tokens at another index, or under another seed, get other positions.
    places = [(index, seed) for index in (5, 6, 5 + 2**10, 5 + 2**32, 2**40) for seed in (3, 4)]
    assert len({positions(*place) for place in places}) == len(places)


def test_gaps_of_longrecipe_follow_the_sentences() -> None:
    """A gap opens after a token that ends a sentence, as the manifest says, and nowhere else."""
    sample = one_span(9)
    batch = make([sample], batch_settings(LongRecipe(min_segments=1)))
    gaps = np.flatnonzero(np.diff(batch.positions) > 1)
    assert len(gaps) > 0
    assert ENDS_SENTENCE[batch.input_ids[gaps]].all()


def test_a_document_beyond_the_target_window_is_refused() -> None:
    with pytest.raises(DataError, match=r"24 tokens, more than data.target_length 20"):
        make([one_span(0)], batch_settings(target_length=20))


@pytest.mark.parametrize("length", [SAMPLE_LENGTH + 1, 0])
def test_a_sample_that_does_not_fit_is_refused(length: int) -> None:
    with pytest.raises(DataError, match=f"sample 7: the plan gives it {length} tokens, but data.sample_length is 24"):
        make([one_span(7, length=length)], batch_settings())
