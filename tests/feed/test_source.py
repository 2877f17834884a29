"""The feed on real corpus files: micro-batch k is the same whoever asks, in whatever order, from whatever step."""

import dataclasses
import json
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from longspan import storage
from longspan.config.recipe import Recipe
from longspan.corpus.changed import store_planned_manifest
from longspan.corpus.manifest import load_manifest
from longspan.corpus.plan_table import PlanReader
from longspan.corpus.reader import TokenReader
from longspan.errors import ConfigError, DataError
from longspan.feed import source as source_module
from longspan.feed.batch import MicroBatch
from longspan.feed.source import FeedSpec, Source, chunk_memory, feed_spec, group_indices, open_source, position_method
from longspan.positions import CREAM, E2LLM, Contiguous, LongRecipe, PoSE, RandPos
from tests.feed.comparing import assert_all_same, assert_same
from tests.feed.conftest import STEPS, make_corpus, staged
from tests.s3 import Fault, FaultProxy
from tests.tiny import tiny_recipe


def test_the_spec_says_what_the_recipe_says(recipe: Recipe, spec: FeedSpec) -> None:
    assert (spec.sample_length, spec.micro_batch_size, spec.global_batch_size) == (32, 2, 8)
    assert (spec.target_length, spec.document_mask, spec.seed) == (256, True, 0)
    assert spec.method == LongRecipe(min_segments=7)
    assert spec.micro_batches_per_step == 4
    assert spec.shard_cache_bytes == recipe.parallel.shard_cache_bytes
    assert PlanReader(spec.plan_uri).info.fingerprint == spec.plan_fingerprint
    assert load_manifest(spec.manifest_uri).fingerprint == spec.manifest_fingerprint


@pytest.mark.parametrize(
    ("section", "method"),
    [
        ({"type": "contiguous"}, Contiguous()),
        ({"type": "longrecipe", "variant": "bounded", "min_segments": 3}, LongRecipe("bounded", 3)),
        ({"type": "longrecipe", "segments": "paragraph"}, LongRecipe(segments="paragraph")),
        ({"type": "pose", "num_chunks": 4}, PoSE(4)),
        ({"type": "pose", "last_chunk": "suffix"}, PoSE(2, "suffix")),
        ({"type": "randpos"}, RandPos()),
        ({"type": "cream"}, CREAM(3.0)),
        ({"type": "cream", "sigma": 2}, CREAM(2.0)),
        ({"type": "e2llm", "window": 64, "num_sinks": 2}, E2LLM(64, 2)),
        ({"type": "e2llm", "window": 64}, E2LLM(64, 4)),
    ],
)
def test_every_method_of_a_recipe(section: dict[str, object], method: object) -> None:
    assert position_method(tiny_recipe("nowhere", positions=section)) == method


def test_a_window_beyond_the_target_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"positions\.window is 300, above data\.target_length 256"):
        position_method(tiny_recipe("nowhere", positions={"type": "e2llm", "window": 300}))


def test_batches_are_the_plan_and_the_shards(spec: FeedSpec, batches: list[MicroBatch]) -> None:
    reader = TokenReader(spec.manifest_uri, load_manifest(spec.manifest_uri))
    rows = PlanReader(spec.plan_uri).rows(0, STEPS * spec.global_batch_size)
    ids = np.concatenate([batch.input_ids for batch in batches]).reshape(-1, spec.sample_length)
    weights = np.concatenate([batch.loss_weight for batch in batches]).reshape(-1, spec.sample_length)
    for row, found, weight in zip(rows, ids, weights, strict=True):
        spans = [reader.read(int(o), int(n)) for o, n in zip(row.offsets, row.lengths, strict=True)]
        text = np.concatenate([tokens for tokens, _ in spans])
        np.testing.assert_array_equal(found[: text.size], text)
        assert not found[text.size :].any()
        assert (set(weight.tolist()) <= {0.0, 1.0}) == (row.source == "text")
    assert [batch.first_sample for batch in batches] == list(range(0, len(rows), spec.micro_batch_size))
    assert {row.source for row in rows} == {"text", "needles"}
    assert any(row.lengths.sum() < spec.sample_length for row in rows), "some samples are padded"


def test_a_micro_batch_is_the_same_whatever_the_order_asked(spec: FeedSpec, batches: list[MicroBatch]) -> None:
    source = Source(spec)
    order = np.random.default_rng(0).permutation(len(batches)).tolist()
    for k in [*order, order[0], 0]:
        assert_same(source.micro_batch(k), batches[k])
    assert_all_same(source.micro_batches(order), [batches[k] for k in order])
    assert source.micro_batches([]) == []
    with ThreadPoolExecutor(8) as pool:
        assert_all_same(pool.map(source.micro_batch, order), [batches[k] for k in order])


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


@given(
    micro_batch_size=st.sampled_from([1, 2]),
    groups=st.lists(st.sampled_from([1, 2, 4, 8]), min_size=1, max_size=6),
)
def test_the_sequence_is_the_same_for_any_groups(micro_batch_size: int, groups: list[int], spec: FeedSpec) -> None:
    """Compared in order, step by step, with another number of data-parallel groups at every step."""
    spec = dataclasses.replace(spec, global_batch_size=16, micro_batch_size=micro_batch_size)
    seen: list[int] = []
    for step, count in enumerate(groups):
        shares = [list(group_indices(spec, step, group, count)) for group in range(count)]
        assert {len(share) for share in shares} == {spec.micro_batches_per_step // count}
        for index in (index for share in shares for index in share):
            seen += range(index * micro_batch_size, (index + 1) * micro_batch_size)
    assert seen == list(range(16 * len(groups)))


def test_a_store_is_asked_for_all_that_several_batches_need_at_once(
    recipe: Recipe, batches: list[MicroBatch], s3_bucket: str, fault_proxy: Callable[..., FaultProxy]
) -> None:
    """Requests for a corpus in a store do not grow with the samples: each chunk is fetched once."""
    storage.upload_tree(recipe.data.manifest, f"{s3_bucket}/corpus")
    storage.upload_tree(f"{recipe.run_uri}/plan", f"{s3_bucket}/run/plan")
    data = recipe.data.model_copy(update={"manifest": f"{s3_bucket}/corpus"})
    spec = feed_spec(recipe.model_copy(update={"data": data, "output": f"{s3_bucket}/run"}))
    source = Source(spec)
    manifest = load_manifest(spec.manifest_uri)
    proxy = fault_proxy(Fault("503", times=3, method="GET"))
    assert_all_same(source.micro_batches(range(len(batches))), batches)
    needed = sum(shard.tokens * (4 if shard.weights_at is None else 8) for shard in manifest.shards)
    assert proxy.num_body_bytes <= 1.1 * (needed + storage_bytes(spec.plan_uri))
    assert proxy.struck == {"503": 3}
    proxy.set_faults()
    assert_all_same(source.micro_batches(range(len(batches))), batches)
    assert proxy.num_requests == 0


def storage_bytes(uri: str) -> int:
    return sum(storage.list_sizes(uri).values())


def test_a_worker_has_memory_for_what_is_shuffled_together(recipe: Recipe) -> None:
    def memory(shuffle_tokens: int) -> int:
        data = recipe.data.model_copy(update={"shuffle_tokens": shuffle_tokens})
        return chunk_memory(recipe.model_copy(update={"data": data}))

    sources = len(recipe.data.mix[0].weights)
    assert memory(1000) == 256 << 20
    assert memory(100_000_000) == min(sources * 500_000_000, 2 << 30)
    assert memory(10**12) == 2 << 30


def test_sources_of_two_runs_are_kept(spec: FeedSpec) -> None:
    others = [dataclasses.replace(spec, seed=seed) for seed in (1, 2)]
    kept = open_source(spec)
    assert open_source(dataclasses.replace(spec)) is kept
    first = open_source(others[0])
    assert open_source(spec) is kept
    open_source(others[1])
    assert len(source_module._sources) == 2
    assert open_source(spec) is kept
    assert open_source(others[0]) is not first


def test_threads_open_one_source(spec: FeedSpec) -> None:
    spec = dataclasses.replace(spec, seed=9)
    with ThreadPoolExecutor(8) as pool:
        assert len({id(source) for source in pool.map(open_source, [spec] * 8)}) == 1


def test_a_run_needs_its_plan(recipe: Recipe, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="there is no sample plan"):
        feed_spec(recipe.model_copy(update={"output": str(tmp_path)}))


def test_a_plan_of_another_sample_length_is_refused(recipe: Recipe) -> None:
    data = recipe.data.model_copy(update={"sample_length": 64})
    with pytest.raises(DataError, match=r"samples of 32 tokens, but data\.sample_length is 64"):
        feed_spec(recipe.model_copy(update={"data": data}))


def test_a_plan_written_anew_under_a_run_is_refused(tmp_path: Path) -> None:
    manifest = make_corpus(str(tmp_path / "corpus"))
    spec = feed_spec(staged(str(tmp_path / "run"), manifest))
    Source(spec)
    staged(str(tmp_path / "run"), manifest, seed=5)
    with pytest.raises(DataError, match="the plan was written anew since the run began"):
        Source(spec)


def test_a_changed_corpus_is_refused(tmp_path: Path) -> None:
    spec = feed_spec(staged(str(tmp_path / "run"), make_corpus(str(tmp_path / "corpus"))))
    Source(spec).micro_batch(0)
    make_corpus(str(tmp_path / "corpus"), texts=31)
    message = r"the corpus has changed since .* \(shards/text-00003\.parquet has 2 rows, had 1\); restore the corpus"
    with pytest.raises(DataError, match=message):
        Source(spec)


def test_the_fingerprint_covers_every_shard(tmp_path: Path) -> None:
    """One digest edited in the manifest is another corpus."""
    spec = feed_spec(staged(str(tmp_path / "run"), make_corpus(str(tmp_path / "corpus"))))
    path = tmp_path / "corpus/manifest.json"
    content = json.loads(path.read_text())
    digest = content["shards"][-1]["digest"]
    content["shards"][-1]["digest"] = digest[:-1] + ("0" if digest[-1] != "0" else "1")
    path.write_text(json.dumps(content))
    with pytest.raises(DataError, match=r"the corpus has changed .* \(shards/needles-\d+\.parquet was replaced"):
        Source(spec)
    # Even where the plan's copy of the manifest was edited with it.
    store_planned_manifest(spec.plan_uri, load_manifest(spec.manifest_uri))
    with pytest.raises(DataError, match="the corpus has changed"):
        Source(spec)
