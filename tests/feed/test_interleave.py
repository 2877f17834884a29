"""CIP and UtK in the feed: re-ordered tokens without a document mask, moved positions with one, and the two agree."""

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from longspan.config.data import Interleave
from longspan.corpus.synthesis.interleave import interleave, shuffle_chunks, token_indices
from longspan.feed.batch import IGNORE, BatchSettings, MicroBatch, Sample, Tokens, make_micro_batch, spans_of
from longspan.feed.interleave import interleave_samples
from longspan.feed.local import local_feed
from longspan.feed.ray_data import make_table, read_table
from longspan.feed.source import FeedSpec, Source, feed_spec
from longspan.feed.weighting import weigh_sequences
from longspan.positions import Contiguous
from tests.feed.comparing import assert_all_same, assert_same
from tests.feed.conftest import STEPS, make_corpus, staged

LENGTH, SEED = 40, 3
STREAM = np.random.default_rng(0).integers(0, 50, 4000).astype(np.uint32)
WEIGHTS = np.random.default_rng(1).choice([0.0, 0.5, 1.0, 3.0], 4000).astype(np.float32)
RULES = st.builds(
    Interleave,
    method=st.sampled_from(["cip", "utk"]),
    chunks=st.none() | st.integers(1, 4) | st.just((2, 5)),
    cut=st.sampled_from(["random", "equal"]),
)


@st.composite
def rows(draw: st.DrawFn) -> list[Sample]:
    """Packed samples, some with padding; documents are far apart in the stream, or next to each other."""
    first = draw(st.integers(0, 10**9))
    samples = []
    for index in range(draw(st.integers(1, 3))):
        size = draw(st.sampled_from([LENGTH, LENGTH, LENGTH - 1, 5, 1]))
        cuts = sorted(draw(st.sets(st.integers(1, size - 1), max_size=6))) if size > 1 else []
        lengths = np.diff([0, *cuts, size]).astype(np.int32)
        offsets = np.cumsum(lengths, dtype=np.int64) - lengths + draw(st.integers(0, 1000))
        if draw(st.booleans()):
            offsets = offsets[::-1] + 70 * np.arange(offsets.size)
        samples.append(Sample(first + index, offsets.astype(np.int64), lengths))
    return samples


def read(samples: list[Sample], weighted: bool = True) -> Tokens:
    offsets, lengths = spans_of(samples)
    at = np.concatenate([o + np.arange(n) for o, n in zip(offsets, lengths, strict=True)])
    return STREAM[at], WEIGHTS[at] if weighted else None


def make(samples: list[Sample], rule: Interleave | None, mask: bool, weighted: bool = True) -> MicroBatch:
    tokens = read(samples, weighted)
    if rule is not None:
        samples, tokens = interleave_samples(samples, tokens, rule, document_mask=mask, seed=SEED)
    plain = BatchSettings(LENGTH, 64, Contiguous(), mask, SEED, np.zeros(50, np.bool_))
    return make_micro_batch(samples, tokens, plain)


def order_of(sample: Sample, rule: Interleave) -> NDArray[np.int64]:
    """For each token of the interleaved sample its place in the packed one."""
    rng = np.random.default_rng([SEED, 0xC19, sample.index])
    if rule.method == "utk":
        pieces = shuffle_chunks(rng, sample.lengths, chunks=rule.chunks or (1, 3), cut=rule.cut)
    else:
        pieces = interleave(rng, sample.lengths, chunks=rule.chunks or 2, cut=rule.cut)
    return token_indices(pieces, np.cumsum(sample.lengths, dtype=np.int64) - sample.lengths)


@settings(max_examples=60)
@given(samples=rows(), rule=RULES)
def test_without_a_mask_the_tokens_come_in_the_new_order_and_no_target_crosses_a_splice(
    samples: list[Sample], rule: Interleave
) -> None:
    batch = make(samples, rule, False)
    assert batch.first_sample == samples[0].index
    bounds = []
    for number, sample in enumerate(samples):
        size = int(sample.lengths.sum())
        bounds += [number * LENGTH, number * LENGTH + size]
        part = slice(number * LENGTH, number * LENGTH + size)
        order = order_of(sample, rule)
        place = np.concatenate([o + np.arange(n) for o, n in zip(sample.offsets, sample.lengths, strict=True)])[order]
        document = np.repeat(np.arange(sample.lengths.size), sample.lengths)[order]
        assert sorted(order) == list(range(size))
        np.testing.assert_array_equal(batch.input_ids[part], STREAM[place])
        np.testing.assert_array_equal(batch.positions[part], np.arange(size))
        goes_on = np.append((np.diff(place) == 1) & (np.diff(document) == 0), False)
        weight = np.where(goes_on, WEIGHTS[(place + 1) % 4000], 0)
        np.testing.assert_array_equal(batch.loss_weight[part], weight)
        np.testing.assert_array_equal(batch.labels[part], np.where(weight > 0, STREAM[place + 1].astype(int), IGNORE))
    # One segment a sample, and one for its padding.
    assert batch.cu_seqlens.tolist() == sorted({*bounds, len(samples) * LENGTH})


@settings(max_examples=60)
@given(samples=rows(), rule=RULES)
def test_with_a_mask_only_positions_change_and_they_rise_in_every_document(
    samples: list[Sample], rule: Interleave
) -> None:
    batch, plain = make(samples, rule, True), make(samples, None, True)
    for name in ("input_ids", "labels", "loss_weight", "cu_seqlens"):
        np.testing.assert_array_equal(getattr(batch, name), getattr(plain, name))
    for sample, begin in zip(samples, range(0, batch.num_tokens, LENGTH), strict=True):
        size = int(sample.lengths.sum())
        place = np.argsort(order_of(sample, rule))
        for start, length in zip(np.cumsum(sample.lengths) - sample.lengths, sample.lengths, strict=True):
            own = batch.positions[begin + start : begin + start + length]
            assert own[0] == 0
            assert (np.diff(own) > 0).all()
            assert own[-1] < size
            np.testing.assert_array_equal(own, place[start : start + length] - place[start])
        np.testing.assert_array_equal(batch.positions[begin + size : begin + LENGTH], np.arange(LENGTH - size))


def attend(ids: NDArray[Any], positions: NDArray[Any], allowed: NDArray[np.bool_]) -> NDArray[np.float64]:
    """One head of attention with RoPE over embedded tokens, dense and in float64: [num_tokens, 8]."""
    draw = np.random.default_rng(5)
    embedding, *projections = draw.normal(size=(50, 8)), *(draw.normal(size=(3, 8, 8)))
    query, key, value = (embedding[ids] @ matrix for matrix in projections)
    angle = positions.astype(np.float64)[:, None] * 10.0 ** -np.arange(4)

    def turned(states: NDArray[np.float64]) -> NDArray[np.float64]:
        left, right = states[:, :4], states[:, 4:]
        cos, sin = np.cos(angle), np.sin(angle)
        return np.concatenate([left * cos - right * sin, right * cos + left * sin], axis=1)

    scores = np.where(allowed, turned(query) @ turned(key).T, -np.inf)
    share = np.exp(scores - scores.max(axis=1, keepdims=True))
    return np.asarray(share / share.sum(axis=1, keepdims=True) @ value)


@settings(max_examples=40)
@given(samples=rows(), rule=RULES)
def test_positions_under_a_mask_are_the_interleaved_sample_with_that_mask(
    samples: list[Sample], rule: Interleave
) -> None:
    """Attention over the interleaved tokens, each seeing what comes before it of its own document, is attention over
    the packed documents with the positions of the feed.
    """
    sample = samples[0]
    size = int(sample.lengths.sum())
    document = np.repeat(np.arange(sample.lengths.size), sample.lengths)
    packed, order = make([sample], rule, True), order_of(sample, rule)
    earlier = np.tri(size, dtype=np.bool_)
    found = attend(packed.input_ids[:size], packed.positions[:size], earlier & (document[:, None] == document))

    mixed = make([sample], rule, False)
    own = document[order]
    expected = attend(mixed.input_ids[:size], np.arange(size), earlier & (own[:, None] == own))
    np.testing.assert_allclose(found[order], expected, rtol=1e-9, atol=1e-9)


@settings(max_examples=30)
@given(samples=rows(), rule=RULES, mask=st.booleans(), weighted=st.booleans(), data=st.data())
def test_a_sample_is_the_same_in_whatever_batch_it_comes(
    samples: list[Sample], rule: Interleave, mask: bool, weighted: bool, data: st.DataObject
) -> None:
    whole = make(samples, rule, mask, weighted)
    number = data.draw(st.integers(0, len(samples) - 1))
    alone = make([samples[number]], rule, mask, weighted)
    for name in ("input_ids", "labels", "positions", "loss_weight"):
        np.testing.assert_array_equal(
            getattr(whole, name)[number * LENGTH : (number + 1) * LENGTH], getattr(alone, name)
        )


def test_the_order_depends_on_the_seed_and_the_sample_index_alone() -> None:
    lengths = np.full(4, 10, np.int32)
    offsets = np.arange(4, dtype=np.int64) * 100

    def drawn(index: int, seed: int) -> tuple[float, ...]:
        sample = Sample(index, offsets, lengths)
        made, _ = interleave_samples([sample], read([sample]), Interleave(), document_mask=True, seed=seed)
        assert made[0].positions is not None
        return tuple(made[0].positions.tolist())

    places = [(index, seed) for index in (0, 1, 2**20, 2**40) for seed in (0, 1)]
    assert len({drawn(*place) for place in places}) == len(places)
    assert drawn(1, 1) == drawn(1, 1)


def test_every_document_counts_alike_though_its_chunks_lie_apart() -> None:
    sample = Sample(0, np.array([0, 100, 200]), np.array([12, 20, 8], np.int32))
    made, tokens = interleave_samples(
        [sample], read([sample], weighted=False), Interleave(cut="equal"), document_mask=False, seed=0
    )
    plain = BatchSettings(LENGTH, 64, Contiguous(), False, 0, np.zeros(50, np.bool_))
    weight = weigh_sequences(make_micro_batch(made, tokens, plain), made).loss_weight
    document = np.repeat(np.array([0, 1, 2, 0, 1, 2]), [6, 10, 4, 6, 10, 4])
    np.testing.assert_allclose(np.bincount(document, weights=weight), 1, rtol=1e-6)


@pytest.fixture(scope="module", params=[False, True], ids=["no mask", "mask"])
def spec(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> FeedSpec:
    """A staged run whose samples hold several documents of both sources."""
    folder = tmp_path_factory.mktemp("interleave")
    data = {
        "mix": [{"weights": {"text": 1.0, "needles": 1.0}}],
        "sample_length": 128,
        "interleave": {"method": "cip", "chunks": [2, 3]},
        "document_mask": request.param,
    }
    corpus = make_corpus(str(folder / "corpus"))
    return feed_spec(staged(str(folder / "run"), corpus, data=data, positions={"type": "contiguous"}))


def test_the_feed_is_the_same_local_and_over_rays_rows_from_any_step(spec: FeedSpec, tmp_path: Path) -> None:
    assert spec.interleave == Interleave(chunks=(2, 3))
    source = Source(spec)
    batches = [source.micro_batch(k) for k in range(STEPS * spec.micro_batches_per_step)]
    plain = Source(dataclasses.replace(spec, interleave=None)).micro_batches(range(len(batches)))
    changed = "positions" if spec.document_mask else "input_ids"
    moved = [np.any(getattr(a, changed) != getattr(b, changed)) for a, b in zip(batches, plain, strict=True)]
    assert np.mean(moved) > 0.9
    if not spec.document_mask:
        lost = sum((a.labels >= 0).sum() - (b.labels >= 0).sum() for a, b in zip(plain, batches, strict=True))
        assert lost > 2 * len(batches), "targets at splices are gone"
        for batch, original in zip(batches, plain, strict=True):
            kept, all_of_it = (np.sort(made.input_ids.reshape(2, -1), axis=1) for made in (batch, original))
            np.testing.assert_array_equal(kept, all_of_it)
    order = np.random.default_rng(0).permutation(len(batches)).tolist()
    assert_all_same(source.micro_batches(order), [batches[k] for k in order])
    for found, index in zip(read_table(make_table(order, spec)), order, strict=True):
        assert_same(found, batches[index])
    for step in range(STEPS):
        assert_all_same(local_feed(spec, step, STEPS, 4), batches[step * spec.micro_batches_per_step :])
