"""Chunks of longer samples with PoSE's positions: what the feed makes of a real corpus and plan."""

import dataclasses
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from longspan.config.recipe import Recipe
from longspan.corpus.index import corpus_table
from longspan.corpus.manifest import load_manifest
from longspan.corpus.plan_table import PlanReader, PlanRow
from longspan.corpus.reader import TokenReader
from longspan.feed.batch import MicroBatch
from longspan.feed.source import Source, feed_spec
from longspan.feed.text_chunks import ChunkRule, chunk_rule, keep_chunks
from longspan.positions import PoSE
from tests.feed.comparing import assert_all_same
from tests.feed.conftest import STEPS, make_corpus, staged

LONG, BUDGET, TARGET = 96, 32, 256


class Material(NamedTuple):
    folder: Path
    tokens: NDArray[np.uint32]
    weights: NDArray[np.float32]

    def recipe(self, offset: str, *, document_mask: bool = True, from_length: int = LONG, **positions: Any) -> Recipe:
        """Its plan is written."""
        data = {"selection": {"mode": "chunks", "from_length": from_length}, "document_mask": document_mask}
        run = f"{offset}-{document_mask}-{from_length}-{len(positions)}"
        return staged(
            str(self.folder / run),
            str(self.folder / "corpus"),
            data={"mix": [{"weights": {"text": 1.0, "needles": 1.0}}], **data},
            positions={"type": "pose", "text_offset": offset, **positions},
        )


@pytest.fixture(scope="module")
def material(tmp_path_factory: pytest.TempPathFactory) -> Material:
    folder = tmp_path_factory.mktemp("chunks")
    corpus = make_corpus(str(folder / "corpus"))
    manifest = load_manifest(corpus)
    length = np.array(corpus_table(corpus, manifest).length)
    tokens, weights = TokenReader(corpus, manifest).gather(np.cumsum(length, dtype=np.int64) - length, length)
    assert weights is not None
    return Material(folder, tokens, weights)


class Kept(NamedTuple):
    """A trained sample by places in the long one: [num_kept] each, and what the batch has for them."""

    place: NDArray[np.int64]
    in_stream: NDArray[np.int64]
    document: NDArray[np.int64]
    batch: dict[str, NDArray[Any]]


def trained(recipe: Recipe) -> list[tuple[PlanRow, Kept]]:
    """Every sample of the run, with what the rule keeps of it (`keep_chunks`, tested by itself below)."""
    spec = feed_spec(recipe)
    batches = Source(spec).micro_batches(range(STEPS * spec.micro_batches_per_step))
    rule, found = chunk_rule(recipe), []
    for row in PlanReader(spec.plan_uri).rows(0, STEPS * spec.global_batch_size):
        kept, _ = keep_chunks(rule, row.lengths, seed=recipe.seed, index=row.sample)
        place = spread(kept.starts, kept.lengths)
        stream = spread(row.offsets, row.lengths)
        batch = batches[row.sample // spec.micro_batch_size]
        part = slice(*(np.array([0, place.size]) + row.sample % spec.micro_batch_size * BUDGET))
        arrays = {name: getattr(batch, name)[part] for name in ("input_ids", "labels", "positions", "loss_weight")}
        document = np.repeat(np.arange(row.lengths.size), row.lengths)[place]
        found.append((row, Kept(place, stream[place], document, arrays)))
    return found


def spread(starts: NDArray[np.integer], lengths: NDArray[np.integer]) -> NDArray[np.int64]:
    return np.concatenate([s + np.arange(n) for s, n in zip(starts.tolist(), lengths.tolist(), strict=True)])


@pytest.mark.parametrize("document_mask", [True, False])
@pytest.mark.parametrize("offset", ["same", "uniform"])
def test_the_batch_holds_the_text_and_positions_of_the_chunks(
    material: Material, offset: str, document_mask: bool
) -> None:
    splices = jumps = 0
    for row, kept in trained(material.recipe(offset, document_mask=document_mask, num_chunks=3)):
        assert kept.place.size == min(BUDGET, int(row.lengths.sum()))
        np.testing.assert_array_equal(kept.batch["input_ids"], material.tokens[kept.in_stream])
        starts = np.cumsum(row.lengths) - row.lengths
        owner = kept.document if document_mask else np.zeros_like(kept.document)
        begins = np.flatnonzero(np.diff(owner, prepend=-1))
        position = kept.batch["positions"]
        assert not position[begins].any()
        steps = np.delete(np.diff(position), begins[1:] - 1)
        assert (steps >= 1).all()
        assert position.max() < TARGET
        if offset == "same":
            np.testing.assert_array_equal(position, kept.place - (starts[owner] if document_mask else 0))
        # A chunk border is one in the text or in the positions; between two of them both go on.
        inside = np.delete(np.diff(kept.place), begins[1:] - 1)
        assert np.count_nonzero((steps > 1) | (inside > 1)) <= 2 * begins.size
        splices += int((inside > 1).sum())
        jumps += int((steps > 1).sum())
    assert splices > 40
    assert jumps == splices if offset == "same" else jumps > 40


@pytest.mark.parametrize("document_mask", [True, False])
@pytest.mark.parametrize("offset", ["same", "uniform"])
def test_a_target_is_the_next_token_of_the_text_and_never_beyond_a_splice(
    material: Material, offset: str, document_mask: bool
) -> None:
    across_jumps = 0
    for row, kept in trained(material.recipe(offset, document_mask=document_mask, num_chunks=3)):
        goes_on = (np.diff(kept.place) == 1) & (np.diff(kept.document) == 0)
        own = material.weights[kept.in_stream] if row.source == "needles" else np.ones(kept.place.size, np.float32)
        expected = np.append(np.where(goes_on, own[1:], 0), 0)
        np.testing.assert_array_equal(kept.batch["loss_weight"], expected)
        following = np.append(material.tokens[kept.in_stream].astype(np.int32)[1:], 0)
        np.testing.assert_array_equal(kept.batch["labels"], np.where(expected > 0, following, -100))
        across_jumps += int((goes_on & (np.diff(kept.batch["positions"]) > 1)).sum())
    assert (across_jumps == 0) == (offset == "same"), "where only positions are skipped, the text has its target"


def test_samples_are_the_same_in_any_micro_batch_and_order(material: Material) -> None:
    spec = feed_spec(material.recipe("uniform"))
    batches = Source(spec).micro_batches(range(16))
    order = np.random.default_rng(0).permutation(16).tolist()
    assert_all_same(Source(spec).micro_batches(order), [batches[k] for k in order])

    def flat(found: list[MicroBatch]) -> NDArray[np.float32]:
        return np.concatenate([batch.positions for batch in found])

    four = Source(dataclasses.replace(spec, micro_batch_size=4)).micro_batches(range(8))
    np.testing.assert_array_equal(flat(four), flat(batches))
    other = Source(dataclasses.replace(spec, seed=1)).micro_batches(range(16))
    assert not np.array_equal(flat(other), flat(batches))


def test_uniform_reads_beyond_the_window_that_it_trains(material: Material) -> None:
    """Texts of up to 400 tokens for a window of 256."""
    recipe = material.recipe("uniform", document_mask=False, from_length=400)
    found = trained(recipe)
    assert max(int(kept.place.max()) for _, kept in found) > TARGET
    assert max(float(kept.batch["positions"].max()) for _, kept in found) < TARGET


@given(
    st.lists(st.integers(1, 40), min_size=1, max_size=8),
    st.integers(1, 150),
    st.sampled_from(["same", "uniform"]),
    st.booleans(),
    st.integers(1, 4),
    st.integers(0, 2**32),
)
@settings(deadline=None, max_examples=200)
def test_spans_are_cut_at_splices_and_documents_only(
    lengths: list[int], budget: int, offset: str, document_mask: bool, num_chunks: int, seed: int
) -> None:
    rule = ChunkRule(PoSE(num_chunks, text_offset=offset), budget, 400, document_mask)  # type: ignore[arg-type]
    kept, positions = keep_chunks(rule, np.array(lengths, np.int32), seed=seed, index=3)
    assert positions.size == kept.lengths.sum() == min(budget, sum(lengths))
    assert (kept.lengths > 0).all()
    starts = np.cumsum([0, *lengths])
    ends = kept.starts + kept.lengths
    assert (starts[kept.document] <= kept.starts).all()
    assert (ends <= starts[kept.document + 1]).all()
    assert ((kept.starts[1:] > ends[:-1]) | (np.diff(kept.document) > 0)).all()
    again, same = keep_chunks(rule, np.array(lengths, np.int32), seed=seed, index=3)
    assert np.array_equal(positions, same)
    assert all(np.array_equal(left, right) for left, right in zip(kept, again, strict=True))
