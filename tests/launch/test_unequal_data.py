"""Ranks that are given data which do not belong together end with an error that says so, and wait for nobody."""

from itertools import islice
from pathlib import Path
from typing import Any

import pytest
import torch.distributed as dist
import torch.multiprocessing as mp

from longspan.config.load import parse
from longspan.config.recipe import Recipe
from longspan.feed.batch import MicroBatch
from longspan.feed.source import feed_spec, group_indices, open_source
from longspan.launch.stage import located, stage_run
from longspan.train.loop import Runtime, run_training
from longspan.train.world import join_world
from tests.launch.conftest import MakeRecipe


def train_rank(rank: int, folder: str, values: dict[str, Any], fault: str) -> None:
    """One data-parallel rank of two; the second is given the first one's samples, or fewer than there are steps."""
    store = dist.FileStore(str(Path(folder, "store")), 2)
    dist.init_process_group("gloo", store=store, rank=rank, world_size=2)
    recipe = parse(Recipe, values, "test recipe")
    spec = feed_spec(recipe)
    group = 0 if fault == "another group's" else rank

    def feed(first: int) -> Any:
        steps = range(first, recipe.train.steps)
        batches = (open_source(spec).micro_batch(k) for step in steps for k in group_indices(spec, step, group, 2))
        return islice(batches, 2 if rank == 1 and fault == "too few" else None)

    runtime = Runtime(feed=feed, report=lambda metrics, commit: None, should_stop=lambda: False, show_progress=False)
    run_training(recipe, join_world(1, False), runtime)


@pytest.mark.parametrize(
    ("fault", "said"),
    [
        ("another group's", r"StaleFeedError: step 1: the feed gave sample 0, the checkpoint goes on at 1"),
        ("too few", r"StaleFeedError: step 3: the feed ended"),
    ],
)
def test_a_rank_with_other_data_ends_the_run(make: MakeRecipe, tmp_path: Path, fault: str, said: str) -> None:
    recipe = located(make(parallel={"launch": "ray", "num_workers": 2}))
    stage_run(recipe)
    with pytest.raises(mp.ProcessRaisedException, match=said):
        mp.spawn(train_rank, (str(tmp_path), recipe.model_dump(mode="json"), fault), nprocs=2, join=True)


def test_two_ranks_with_their_own_data_train(make: MakeRecipe, tmp_path: Path) -> None:
    """So that the others do not fail for another reason."""
    recipe = located(make(parallel={"launch": "ray", "num_workers": 2}))
    stage_run(recipe)
    mp.spawn(train_rank, (str(tmp_path), recipe.model_dump(mode="json"), "none"), nprocs=2, join=True)
    assert (tmp_path / "run" / "checkpoint" / "model.safetensors").exists()


def test_a_micro_batch_says_which_samples_it_holds(make: MakeRecipe) -> None:
    recipe = located(make())
    stage_run(recipe)
    batch = open_source(feed_spec(recipe)).micro_batch(3)
    assert isinstance(batch, MicroBatch)
    assert batch.first_sample == 3
