"""Blocks in the structure of a micro-batch: what a token sees is the paper's mask, and nothing else changes."""

import dataclasses
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from longspan.config.attention_window import AttentionWindow
from longspan.config.recipe import Recipe
from longspan.feed.attention_window import limit_attention
from longspan.feed.batch import BatchSettings, MicroBatch, Sample, make_micro_batch
from longspan.feed.source import Source, feed_spec
from longspan.positions import Contiguous
from tests.feed.comparing import assert_all_same
from tests.feed.conftest import STEPS, make_corpus, staged

WIDTH, BATCH = 24, 4
WINDOW = AttentionWindow(start=3, rate=1.5, end=20)


@st.composite
def samples_(draw: st.DrawFn) -> list[Sample]:
    """Samples of any steps side by side, filled or not."""
    found = []
    for _ in range(draw(st.integers(1, 4))):
        cuts = sorted(draw(st.sets(st.integers(1, WIDTH - 1), max_size=5)))
        lengths = np.diff([0, *cuts, draw(st.sampled_from([WIDTH, max([1, *cuts]) + 1]))]).astype(np.int32)
        found.append(Sample(draw(st.integers(0, 80)), np.zeros(lengths.size, np.int64), lengths))
    return found


def batch_of(samples: list[Sample], document_mask: bool) -> MicroBatch:
    settings = BatchSettings(WIDTH, 64, Contiguous(), document_mask, 0, np.zeros(50, np.bool_))
    count = sum(int(sample.lengths.sum()) for sample in samples)
    return make_micro_batch(samples, (np.arange(count, dtype=np.uint32) % 50, None), settings)


def seen(cu_seqlens: NDArray[np.int32]) -> NDArray[np.bool_]:
    """What each token (row) sees: its segment up to itself."""
    mask = np.zeros((cu_seqlens[-1], cu_seqlens[-1]), np.bool_)
    for begin, end in pairwise(cu_seqlens.tolist()):
        mask[begin:end, begin:end] = True
    return np.tril(mask)


def papers_mask(samples: list[Sample], document_mask: bool) -> NDArray[np.bool_]:
    """Token by token: floor(i / w) * w <= j <= i, of one document, both counted in it (or in the sample)."""
    mask = np.zeros((len(samples) * WIDTH,) * 2, np.bool_)
    for number, sample in enumerate(samples):
        w = min(20, 3 + int(1.5 * (sample.index // BATCH)))
        size = int(sample.lengths.sum())
        stretches = [*(sample.lengths.tolist() if document_mask else [size]), WIDTH - size]
        at = number * WIDTH
        for length in stretches:
            for i in range(length):
                mask[at + i, at + i // w * w : at + i + 1] = True
            at += length
    return mask


@given(samples_(), st.booleans())
def test_what_a_token_sees_is_the_papers_mask(samples: list[Sample], document_mask: bool) -> None:
    plain = batch_of(samples, document_mask)
    found = limit_attention(plain, samples, WINDOW, BATCH)
    np.testing.assert_array_equal(seen(found.cu_seqlens), papers_mask(samples, document_mask))
    assert found.cu_seqlens.dtype == np.int32
    assert (np.diff(found.cu_seqlens) > 0).all()
    assert set(plain.cu_seqlens) <= set(found.cu_seqlens)


@given(samples_(), st.booleans())
def test_positions_targets_and_weights_stay(samples: list[Sample], document_mask: bool) -> None:
    plain = batch_of(samples, document_mask)
    found = limit_attention(plain, samples, WINDOW, BATCH)
    assert_all_same([dataclasses.replace(found, cu_seqlens=plain.cu_seqlens)], [plain])


@pytest.fixture(scope="module")
def widening(tmp_path_factory: pytest.TempPathFactory) -> Recipe:
    folder = tmp_path_factory.mktemp("window")
    data = {"mix": [{"weights": {"text": 1.0, "needles": 1.0}}], "attention_window": {"start": 5, "rate": 9}}
    return staged(str(folder / "run"), make_corpus(str(folder / "corpus")), data=data)


def by_sample(batches: list[MicroBatch]) -> dict[int, list[int]]:
    """Borders of each sample, from its own beginning."""
    found = {}
    for batch in batches:
        for number in range(batch.num_tokens // 32):
            borders = batch.cu_seqlens[(batch.cu_seqlens >= number * 32) & (batch.cu_seqlens <= number * 32 + 32)]
            found[batch.first_sample + number] = (borders - number * 32).tolist()
    return found


def test_the_feed_widens_with_the_steps(widening: Recipe) -> None:
    spec = feed_spec(widening)
    indices = range(STEPS * spec.micro_batches_per_step)
    whole: Any = Source(dataclasses.replace(spec, attention_window=None)).micro_batches(indices)
    longest = [0] * STEPS
    for sample, borders in by_sample(Source(spec).micro_batches(indices)).items():
        step = sample // 8
        longest[step] = max(longest[step], *np.diff(borders).tolist())
        assert set(by_sample(whole)[sample]) <= set(borders)
    assert longest == [5, 14, 23, 32]


@pytest.mark.parametrize("grouping", [1, 4, 8])
def test_a_sample_has_the_same_blocks_in_any_micro_batch(widening: Recipe, grouping: int) -> None:
    spec = feed_spec(widening)
    usual = Source(spec).micro_batches(range(STEPS * 4))
    other = Source(dataclasses.replace(spec, micro_batch_size=grouping))
    alone = [other.micro_batch(k) for k in range(STEPS * 8 // grouping)]
    assert by_sample(alone) == by_sample(usual) == by_sample(other.micro_batches(range(STEPS * 8 // grouping)))
