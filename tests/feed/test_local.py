"""The feed of one process: in order whatever is made ahead, and never ahead of what was consumed."""

import threading
from collections.abc import Callable
from itertools import islice

import pytest

from longspan import storage
from longspan.config.recipe import Recipe
from longspan.errors import DataError
from longspan.feed.batch import MicroBatch
from longspan.feed.local import local_feed
from longspan.feed.source import FeedSpec, feed_spec
from tests.feed.comparing import assert_all_same, assert_same
from tests.feed.conftest import STEPS
from tests.s3 import Fault, FaultProxy


@pytest.mark.parametrize("prefetch", [0, 1, 4, 16, 100])
def test_it_is_in_order_whatever_is_made_ahead(spec: FeedSpec, batches: list[MicroBatch], prefetch: int) -> None:
    assert_all_same(local_feed(spec, 0, STEPS, prefetch), batches)


@pytest.mark.parametrize("prefetch", [0, 4])
@pytest.mark.parametrize("step", range(STEPS + 1))
def test_resumed_at_any_step_it_is_the_tail(
    spec: FeedSpec, batches: list[MicroBatch], step: int, prefetch: int
) -> None:
    tail = batches[step * spec.micro_batches_per_step :]
    assert_all_same(local_feed(spec, step, STEPS, prefetch), tail)


@pytest.mark.parametrize("prefetch", [0, 1, 4, 16])
def test_what_was_made_ahead_does_not_move_the_position(
    spec: FeedSpec, batches: list[MicroBatch], prefetch: int
) -> None:
    """Cut after every step and gone on with from the consumed step: no sample is missing or comes twice."""
    seen: list[MicroBatch] = []
    for step in range(STEPS):
        feed = local_feed(spec, step, STEPS, prefetch)
        seen += islice(feed, spec.micro_batches_per_step)
        feed.close()  # type: ignore[attr-defined]
    assert_all_same(seen, batches)


@pytest.mark.parametrize("prefetch", [1, 16])
def test_one_that_is_closed_early_stops(spec: FeedSpec, batches: list[MicroBatch], prefetch: int) -> None:
    feed = local_feed(spec, 0, STEPS, prefetch)
    assert_same(next(feed), batches[0])
    feed.close()  # type: ignore[attr-defined]
    assert list(feed) == []
    for thread in threading.enumerate():
        if thread.name.startswith("longspan-feed"):
            thread.join(10)
            assert not thread.is_alive()


@pytest.mark.parametrize("prefetch", [0, 2])
def test_an_error_of_the_source_reaches_the_loop(spec: FeedSpec, prefetch: int) -> None:
    feed = local_feed(spec, STEPS - 1, STEPS + 1, prefetch)
    for _ in range(spec.micro_batches_per_step):
        next(feed)
    with pytest.raises(DataError, match="but the plan has 32 samples"):
        next(feed)


def test_faults_of_the_store_change_nothing(
    recipe: Recipe, batches: list[MicroBatch], s3_bucket: str, fault_proxy: Callable[..., FaultProxy]
) -> None:
    storage.upload_tree(recipe.data.manifest, f"{s3_bucket}/corpus")
    storage.upload_tree(f"{recipe.run_uri}/plan", f"{s3_bucket}/run/plan")
    data = recipe.data.model_copy(update={"manifest": f"{s3_bucket}/corpus"})
    kinds = ("503", "reset", "lost", "truncate", "flip")
    proxy = fault_proxy(*(Fault(kind, times=2, path="shards") for kind in kinds))
    spec = feed_spec(recipe.model_copy(update={"data": data, "output": f"{s3_bucket}/run"}))
    with storage.use_policy(storage.RetryPolicy(budget_s=30, first_delay_s=0.001, max_delay_s=0.01)):
        assert_all_same(local_feed(spec, 0, STEPS, 4), batches)
    assert proxy.struck == dict.fromkeys(kinds, 2)
