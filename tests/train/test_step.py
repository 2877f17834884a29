"""One optimizer step on one process: what it reports, and what it refuses before the weights are touched."""

import dataclasses
import math
from typing import Any

import pytest
import torch

from longspan.errors import DataError, LongspanError
from longspan.model.attention import Documents
from longspan.model.load import open_model
from longspan.model.loss import CausalLMLoss
from longspan.train.engine import build_engine
from longspan.train.exchange import RankBatch, share
from longspan.train.step import StepResult, train_step
from longspan.train.world import World, join_world, start_single_process
from tests.tiny import tiny_model_directory
from tests.train.sp_case import micro_batches, recipe_for


@pytest.fixture(scope="module")
def world() -> World:
    start_single_process(use_gpu=False)
    return join_world(1, use_gpu=False)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(tiny_model_directory(tmp_path_factory.mktemp("step") / "model"))


@pytest.fixture
def engine(model: str, world: World) -> Any:
    recipe = recipe_for(model, 1, 1, 1, False)
    network, settings = open_model(recipe.model, recipe.rope, recipe.data.target_length, seed=0)
    return build_engine(CausalLMLoss(network, recipe.train.loss_chunk).train(), settings, recipe, world)


@pytest.fixture
def batches(world: World) -> list[RankBatch]:
    return [share(batch, world, Documents((0,))) for batch in micro_batches()]


def weights(engine: Any) -> list[torch.Tensor]:
    return [parameter.detach().clone() for parameter in engine.module.parameters()]


def assert_untouched(engine: Any, before: list[torch.Tensor]) -> None:
    assert all(torch.equal(left, right) for left, right in zip(weights(engine), before, strict=True))


def test_a_step_reports_the_global_batch_and_lowers_its_loss(
    engine: Any, batches: list[RankBatch], world: World
) -> None:
    results = [train_step(engine, batches, world, step, 1e-2) for step in range(1, 9)]
    assert {result.valid_targets for result in results} == {sum(int((b.labels >= 0).sum()) for b in batches)}
    assert {result.max_position for result in results} == {max(b.positions.max().item() for b in batches)}
    assert results[0].loss == pytest.approx(math.log(96), rel=0.05)
    assert results[-1].loss < 0.95 * results[0].loss


def test_the_rate_of_the_step_is_used(engine: Any, batches: list[RankBatch], world: World) -> None:
    before = weights(engine)
    train_step(engine, batches, world, 1, 0.0)
    assert_untouched(engine, before)
    train_step(engine, batches, world, 2, 0.25)
    changes = [(new - old).abs().max().item() for new, old in zip(weights(engine), before, strict=True)]
    # Adam's second step after one equal gradient moves every weight by about the rate.
    assert max(changes) == pytest.approx(0.25, rel=0.05)


def test_the_loss_does_not_depend_on_how_weights_are_scaled(
    engine: Any, batches: list[RankBatch], world: World
) -> None:
    heavier = [dataclasses.replace(batch, loss_weight=batch.loss_weight * 8) for batch in batches]
    first: StepResult = train_step(engine, batches, world, 1, 0.0)
    second = train_step(engine, heavier, world, 2, 0.0)
    assert second.loss == pytest.approx(first.loss, rel=1e-6)
    assert second.grad_norm == pytest.approx(first.grad_norm, rel=1e-5)


def test_a_batch_without_a_target_is_refused(engine: Any, batches: list[RankBatch], world: World) -> None:
    empty = [
        dataclasses.replace(
            batch, labels=torch.full_like(batch.labels, -100), loss_weight=torch.zeros_like(batch.loss_weight)
        )
        for batch in batches
    ]
    before = weights(engine)
    with pytest.raises(DataError, match=r"step 7: none of its samples has a target; check the loss weights"):
        train_step(engine, empty, world, 7, 1e-2)
    assert_untouched(engine, before)


def test_a_loss_that_is_not_finite_never_reaches_the_weights(
    engine: Any, batches: list[RankBatch], world: World
) -> None:
    poisoned = [dataclasses.replace(batches[0], first_sample=40), *batches[1:-1]]
    poisoned.append(dataclasses.replace(batches[-1], loss_weight=batches[-1].loss_weight * 3e38))
    before = weights(engine)
    with pytest.raises(LongspanError, match=r"step 3: loss is (inf|nan); weights and optimizer are those of step 2"):
        train_step(engine, poisoned, world, 3, 1e-2)
    assert_untouched(engine, before)
