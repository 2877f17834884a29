"""LongCE's denominator: the loss is divided by the number of targets, on one process and on sequence-parallel ranks."""

from typing import Any

import pytest

from longspan.train.world import start_single_process
from tests.ranks import run_ranks
from tests.tiny import tiny_model_directory
from tests.train.sp_case import gradients, micro_batches

RELATIVE = 1e-5
Result = dict[str, Any]


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(tiny_model_directory(tmp_path_factory.mktemp("per-target") / "model", "qwen3"))


@pytest.fixture(scope="module")
def single(model: str) -> dict[bool, Result]:
    """One process; by whether it divides by the number of targets."""
    start_single_process(use_gpu=False)
    return {per_target: gradients(model, 1, 1, 1, False, 2, per_target) for per_target in (False, True)}


def assert_same_gradients(found: Result, expected: Result, factor: float) -> None:
    assert found["grads"].keys() == expected["grads"].keys()
    for name, gradient in expected["grads"].items():
        wanted = gradient.double() * factor
        assert wanted.norm() > 0, name
        assert (found["grads"][name].double() - wanted).norm() < RELATIVE * wanted.norm(), name


def test_loss_and_gradients_are_the_sum_over_the_number_of_targets(single: dict[bool, Result]) -> None:
    """`test_sequence_parallel` holds the other denominator, the sum of the weights, against a plain model."""
    batches = micro_batches()
    weight = sum(float(batch.loss_weight.astype(float).sum()) for batch in batches)
    count = sum(int((batch.labels >= 0).sum()) for batch in batches)
    factor = weight / count
    assert abs(factor - 1) > 0.01, "the weights are not 1 on the average, so the denominators differ"
    assert single[True]["loss"] == pytest.approx(single[False]["loss"] * factor, rel=1e-6)
    assert_same_gradients(single[True], single[False], factor)


def test_ranks_that_share_samples_find_the_same(model: str, single: dict[bool, Result]) -> None:
    expected = single[True]
    for found in run_ranks(gradients, 2, model, 2, 2, 1, False, 2, True):
        assert found["loss"] == pytest.approx(expected["loss"], rel=RELATIVE)
        assert found["losses"] == pytest.approx(expected["losses"], rel=RELATIVE)
        assert found["targets"] == expected["targets"]
        assert_same_gradients(found, expected, 1.0)
