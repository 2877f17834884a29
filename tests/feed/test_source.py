"""The feed on a real, tiny corpus: micro-batch k is the same whoever asks, in whatever order, from whatever step."""

import dataclasses
import json
import random
import shutil
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from longspan import storage
from longspan.config.corpus import Corpus
from longspan.config.recipe import Recipe
from longspan.corpus.manifest import load_manifest
from longspan.corpus.plan_table import read_plan_rows, write_plan
from longspan.corpus.prepare import prepare
from longspan.corpus.shards import ShardReader
from longspan.errors import DataError
from longspan.feed.batch import MicroBatch
from longspan.feed.local import local_feed
from longspan.feed.source import FeedSpec, Source, feed_spec, group_indices, open_source, position_method
from longspan.launch.stage import make_plan
from longspan.positions import Contiguous, LongRecipe, PoSE, RandPos
from tests.tiny import tiny_recipe

STEPS = 4
WORDS = ("the", "model", "reads", "a", "long", "window", "of", "tokens", "and", "attends", "to", "every", "position")


def make_corpus(folder: Path, texts: int = 12) -> str:
    draw = random.Random(1)
    (folder / "texts").mkdir(parents=True)
    for number in range(texts):
        sentences = (" ".join(draw.choices(WORDS, k=draw.randint(3, 9))) for _ in range(draw.randint(4, 30)))
        (folder / "texts" / f"{number}.txt").write_text(". ".join(sentences) + ".\n")
    corpus = {
        "output": str(folder / "corpus"),
        "tokenizer": {"train_vocab_size": 280, "needle_tokens": True},
        "sources": [
            {"type": "text", "name": "text", "paths": [str(folder / "texts")]},
            {"type": "needles", "name": "needles", "text_source": "text", "length": 120, "documents": 8},
        ],
        "shard_tokens": 1500,
    }
    prepare(Corpus.model_validate(corpus))
    return str(folder / "corpus")


def staged(folder: Path, manifest: str, **sections: object) -> Recipe:
    """A recipe whose plan is written; the model is never looked at."""
    data = {"mix": [{"weights": {"text": 1.0, "needles": 1.0}}]}
    train = {"steps": STEPS, "global_batch_size": 8, "micro_batch_size": 2}
    values = {"data": data, "train": train, "output": str(folder / "run"), **sections}
    recipe = tiny_recipe("nowhere", manifest, **values)
    corpus = load_manifest(manifest)
    write_plan(f"{recipe.run_uri}/plan.parquet", make_plan(recipe, corpus), {"manifest": corpus.fingerprint})
    return recipe


@pytest.fixture(scope="module")
def recipe(tmp_path_factory: pytest.TempPathFactory) -> Recipe:
    folder = tmp_path_factory.mktemp("feed")
    return staged(folder, make_corpus(folder))


@pytest.fixture(scope="module")
def spec(recipe: Recipe) -> FeedSpec:
    return feed_spec(recipe)


@pytest.fixture(scope="module")
def batches(spec: FeedSpec) -> list[MicroBatch]:
    source = Source(spec)
    return [source.micro_batch(k) for k in range(STEPS * spec.micro_batches_per_step)]


def assert_same(found: MicroBatch, expected: MicroBatch) -> None:
    for field in dataclasses.fields(MicroBatch):
        np.testing.assert_array_equal(
            getattr(found, field.name), getattr(expected, field.name), err_msg=field.name, strict=True
        )


def assert_all_same(found: Iterator[MicroBatch], expected: list[MicroBatch]) -> None:
    for left, right in zip(found, expected, strict=True):
        assert_same(left, right)


def test_the_spec_says_what_the_recipe_says(recipe: Recipe, spec: FeedSpec) -> None:
    assert (spec.sample_length, spec.micro_batch_size, spec.global_batch_size) == (32, 2, 8)
    assert (spec.target_length, spec.document_mask, spec.seed) == (256, True, 0)
    assert spec.method == LongRecipe(min_segments=7)
    assert spec.micro_batches_per_step == 4
    assert storage.exists(spec.plan_uri)
    assert load_manifest(spec.manifest_uri).fingerprint == spec.manifest_fingerprint


@pytest.mark.parametrize(
    ("section", "method"),
    [
        ({"type": "contiguous"}, Contiguous()),
        ({"type": "longrecipe", "variant": "bounded", "min_segments": 3}, LongRecipe("bounded", 3)),
        ({"type": "pose", "num_chunks": 4}, PoSE(4)),
        ({"type": "randpos"}, RandPos()),
    ],
)
def test_every_method_of_a_recipe(section: dict[str, object], method: object) -> None:
    assert position_method(tiny_recipe("nowhere", positions=section)) == method


def test_batches_are_the_plan_and_the_shards(spec: FeedSpec, batches: list[MicroBatch]) -> None:
    manifest = load_manifest(spec.manifest_uri)
    reader = ShardReader(spec.manifest_uri, manifest)
    rows = read_plan_rows(spec.plan_uri, 0, STEPS * spec.global_batch_size)
    ids = np.concatenate([batch.input_ids for batch in batches])
    expected = [
        reader.document(*span)[0]
        for row in rows
        for span in zip(row.documents.tolist(), row.starts.tolist(), row.lengths.tolist(), strict=True)
    ]
    np.testing.assert_array_equal(ids, np.concatenate(expected))
    assert [batch.first_sample for batch in batches] == list(range(0, len(rows), spec.micro_batch_size))
    # Both sources came: only needles have weights of their own.
    assert {row.source for row in rows} == {"text", "needles"}


def test_a_micro_batch_is_the_same_whatever_the_order_asked(spec: FeedSpec, batches: list[MicroBatch]) -> None:
    source = Source(spec)
    order = np.random.default_rng(0).permutation(len(batches)).tolist()
    for k in [*order, order[0], 0]:
        assert_same(source.micro_batch(k), batches[k])


def test_a_micro_batch_does_not_know_its_size(spec: FeedSpec, batches: list[MicroBatch]) -> None:
    """The samples are the same under another micro-batch size: only the cuts between batches move."""
    larger = Source(dataclasses.replace(spec, micro_batch_size=4)).micro_batch(1)
    for name in ("input_ids", "positions", "labels", "loss_weight"):
        pair = [getattr(batches[k], name) for k in (2, 3)]
        np.testing.assert_array_equal(getattr(larger, name), np.concatenate(pair))


def test_another_seed_moves_positions_only(spec: FeedSpec, batches: list[MicroBatch]) -> None:
    other = Source(dataclasses.replace(spec, seed=1)).micro_batch(0)
    np.testing.assert_array_equal(other.input_ids, batches[0].input_ids)
    assert not np.array_equal(other.positions, batches[0].positions)


@pytest.mark.parametrize("prefetch", [0, 1, 4, 16, 100])
def test_the_local_feed_is_in_order_whatever_is_made_ahead(
    spec: FeedSpec, batches: list[MicroBatch], prefetch: int
) -> None:
    assert_all_same(local_feed(spec, 0, STEPS, prefetch), batches)


@pytest.mark.parametrize("prefetch", [0, 4])
@pytest.mark.parametrize("step", range(STEPS + 1))
def test_resumed_at_any_step_it_is_the_tail(
    spec: FeedSpec, batches: list[MicroBatch], step: int, prefetch: int
) -> None:
    tail = batches[step * spec.micro_batches_per_step :]
    assert_all_same(local_feed(spec, step, STEPS, prefetch), tail)


def test_a_feed_that_is_closed_early_stops(spec: FeedSpec, batches: list[MicroBatch]) -> None:
    feed = local_feed(spec, 0, STEPS, 3)
    assert_same(next(feed), batches[0])
    feed.close()  # type: ignore[attr-defined]
    assert list(feed) == []


@pytest.mark.parametrize("prefetch", [0, 2])
def test_an_error_of_the_source_reaches_the_loop(spec: FeedSpec, prefetch: int) -> None:
    feed = local_feed(spec, STEPS - 1, STEPS + 1, prefetch)
    for _ in range(spec.micro_batches_per_step):
        next(feed)
    with pytest.raises(DataError, match="but the plan has 32 samples"):
        next(feed)


@pytest.mark.parametrize("groups", [1, 2, 4])
def test_groups_share_out_every_step(spec: FeedSpec, groups: int) -> None:
    for step in range(STEPS):
        shares = [list(group_indices(spec, step, group, groups)) for group in range(groups)]
        assert len({len(share) for share in shares}) == 1
        first = step * spec.micro_batches_per_step
        # In order, so that the samples of a step are the same set, and each group reads neighbours.
        assert [index for share in shares for index in share] == list(range(first, first + spec.micro_batches_per_step))


def test_the_source_is_kept_between_tasks(spec: FeedSpec) -> None:
    assert open_source(spec) is open_source(dataclasses.replace(spec))


def test_a_run_needs_its_plan(recipe: Recipe, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="there is no sample plan"):
        feed_spec(recipe.model_copy(update={"output": str(tmp_path)}))


def test_a_changed_corpus_is_refused(tmp_path: Path) -> None:
    recipe = staged(tmp_path, make_corpus(tmp_path / "old"))
    spec = feed_spec(recipe)
    Source(spec).micro_batch(0)
    # Prepared anew from other texts, at the same place.
    shutil.rmtree(tmp_path / "old" / "corpus")
    shutil.move(make_corpus(tmp_path / "new", texts=13), tmp_path / "old" / "corpus")
    with pytest.raises(DataError, match=r"the corpus has changed since .* give the run another output"):
        Source(spec)


def test_the_fingerprint_covers_every_shard(tmp_path: Path) -> None:
    """One digest edited in the manifest is another corpus."""
    recipe = staged(tmp_path, make_corpus(tmp_path / "corpus"))
    spec = feed_spec(recipe)
    path = Path(recipe.data.manifest, "manifest.json")
    content = json.loads(path.read_text())
    digest = content["shards"][-1]["digest"]
    content["shards"][-1]["digest"] = digest[:-1] + ("0" if digest[-1] != "0" else "1")
    path.write_text(json.dumps(content))
    with pytest.raises(DataError, match="the corpus has changed"):
        Source(spec)
