"""Sequence parallelism, data parallelism and ZeRO change nothing: loss, gradients and updates are one process's.

The truth is a plain float64 model with a written-out mask and cross-entropy over all logits: no DeepSpeed, no longspan
attention.
"""

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from longspan.rope import RopeSettings
from longspan.train.world import start_single_process
from tests.ranks import run_ranks
from tests.tiny import tiny_model_directory
from tests.train.plain_model import plain_network, target_losses
from tests.train.sp_case import TOKENS, gradients, micro_batches, recipe_for

STEPS = 2
RELATIVE = 1e-5
Result = dict[str, Any]
Case = tuple[str, int, int, int, bool]
CASES: dict[str, Case] = {
    "sp2": ("gqa", 2, 2, 1, False),
    "sp2-zero3-checkpointing": ("gqa", 2, 2, 3, True),
    "dp2-zero2": ("gqa", 2, 1, 2, False),
    "sp2-one-kv-head": ("mqa", 2, 2, 1, True),
    "dp2-sp2-zero3": ("gqa", 4, 2, 3, True),
}
"""model, ranks, sequence_parallel, ZeRO stage, gradient checkpointing."""


def rank_results(models: dict[str, str], world_size: int) -> dict[str, Result]:
    return {
        name: gradients(models[model], world, sp, zero, checkpointing, STEPS)
        for name, (model, world, sp, zero, checkpointing) in CASES.items()
        if world == world_size
    }


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    folder: Path = tmp_path_factory.mktemp("sequence-parallel")
    return {
        "gqa": str(tiny_model_directory(folder / "gqa", "qwen3")),
        "mqa": str(tiny_model_directory(folder / "mqa", "llama", num_key_value_heads=1)),
    }


@pytest.fixture(scope="module")
def single(models: dict[str, str]) -> dict[str, Result]:
    """One process, by the trainer's own functions."""
    start_single_process(use_gpu=False)
    return {name: gradients(model, 1, 1, 1, False, STEPS) for name, model in models.items()}


@pytest.fixture(scope="module")
def parallel(models: dict[str, str]) -> dict[str, list[Result]]:
    """What every rank found, by case; cases of one world size share its processes, whose start costs seconds."""
    found: dict[str, list[Result]] = {}
    for world_size in sorted({case[1] for case in CASES.values()}):
        ranks = run_ranks(rank_results, world_size, models, world_size)
        found |= {name: [rank[name] for rank in ranks] for name in ranks[0]}
    return found


def plain_loss(network: Any) -> Tensor:
    """Weighted mean of the cross-entropies of all four micro-batches."""
    total, weights = torch.zeros((), dtype=torch.float64), 0.0
    for batch in micro_batches():
        for i, loss in target_losses(network, batch).items():
            total = total + float(batch.loss_weight[i]) * loss
        weights += batch.loss_weight[batch.labels >= 0].sum(dtype=float)
    return total / weights


@pytest.fixture(scope="module")
def truth(models: dict[str, str]) -> dict[str, Result]:
    results = {}
    for name, model in models.items():
        network = plain_network(model)
        loss = plain_loss(network)
        loss.backward()
        grads = {key: parameter.grad.clone() for key, parameter in network.named_parameters()}
        norm = torch.stack([grad.norm() for grad in grads.values()]).norm().item()
        results[name] = {"loss": loss.item(), "grads": grads, "norm": norm}
    return results


def assert_same_gradients(found: dict[str, Tensor], expected: dict[str, Tensor]) -> None:
    assert found.keys() == expected.keys()
    for name, gradient in expected.items():
        wanted = gradient.double()
        assert wanted.norm() > 0, name
        difference = (found[name].double() - wanted).norm() / wanted.norm()
        assert difference < RELATIVE, f"{name}: {difference:.2e}"


def test_the_case_is_as_hard_as_it_says() -> None:
    halves = [(batch.labels[: TOKENS // 2] >= 0, batch.labels[TOKENS // 2 :] >= 0) for batch in micro_batches()]
    counts = [(int(first.sum()), int(second.sum())) for first, second in halves]
    assert any(0 in pair for pair in counts), "a rank whose targets are all masked"
    assert len(set(counts)) == len(counts), "uneven over ranks and micro-batches"
    assert all(len(batch.cu_seqlens) > 2 for batch in micro_batches()[::2]), "packed documents"
    assert any(24 not in batch.cu_seqlens for batch in micro_batches()), "a document across the ranks"


@pytest.mark.parametrize("model", ["gqa", "mqa"])
def test_one_process_computes_the_truth(single: dict[str, Result], truth: dict[str, Result], model: str) -> None:
    found, expected = single[model], truth[model]
    assert found["loss"] == pytest.approx(expected["loss"], rel=RELATIVE)
    assert found["norm"] == pytest.approx(expected["norm"], rel=RELATIVE)
    assert_same_gradients(found["grads"], expected["grads"])


@pytest.mark.parametrize("case", CASES)
def test_loss_and_every_gradient_are_those_of_one_process(
    parallel: dict[str, list[Result]], single: dict[str, Result], truth: dict[str, Result], case: str
) -> None:
    model = CASES[case][0]
    for result in parallel[case]:
        for expected in (single[model], truth[model]):
            assert result["loss"] == pytest.approx(expected["loss"], rel=RELATIVE)
            assert result["norm"] == pytest.approx(expected["norm"], rel=RELATIVE)
            assert_same_gradients(result["grads"], expected["grads"])
        for key in ("targets", "highest"):
            assert result[key] == single[model][key]


@pytest.mark.parametrize("case", CASES)
def test_updates_are_those_of_one_process(
    parallel: dict[str, list[Result]], single: dict[str, Result], case: str
) -> None:
    expected = single[CASES[case][0]]
    assert len(set(expected["losses"])) == STEPS
    for result in parallel[case]:
        assert result["losses"] == pytest.approx(expected["losses"], rel=RELATIVE)
        for name, weight in expected["weights"].items():
            difference = (result["weights"][name] - weight).norm() / weight.norm()
            assert difference < 1e-4, f"{name}: {difference:.2e}"


@pytest.mark.parametrize("case", CASES)
def test_ranks_agree_to_the_bit(parallel: dict[str, list[Result]], case: str) -> None:
    first, *others = parallel[case]
    assert len(others) == CASES[case][1] - 1
    for other in others:
        for key in ("loss", "losses", "norm", "targets", "highest"):
            assert other[key] == first[key], key
        for name, weight in first["weights"].items():
            assert torch.equal(other["weights"][name], weight), name


def test_targets_and_positions_are_those_of_the_global_batch(single: dict[str, Result]) -> None:
    batches = micro_batches()
    assert single["gqa"]["targets"] == sum(int((batch.labels >= 0).sum()) for batch in batches)
    assert single["gqa"]["highest"] == max(float(batch.positions.max()) for batch in batches)


def test_clipping_acts_on_the_norm_of_the_global_gradient(
    single: dict[str, Result], truth: dict[str, Result], models: dict[str, str]
) -> None:
    """Above grad_clip, so the updates compared above went through it."""
    clip = recipe_for(models["gqa"], 1, 1, 1, False).train.grad_clip
    assert truth["gqa"]["norm"] > 2 * clip
    assert single["gqa"]["norm"] > 2 * clip


def test_the_reference_has_the_recipes_rope(models: dict[str, str]) -> None:
    from longspan.model.load import assert_rope

    network = plain_network(models["gqa"])
    assert_rope(network, RopeSettings("default", network.config.rope_parameters["rope_theta"]))
