"""Training under shifted sparse attention: loss and gradients of a float64 model with a dense mask for each head."""

from itertools import pairwise
from typing import Any

import pytest
import torch

from longspan.errors import TopologyError
from longspan.feed.batch import MicroBatch
from longspan.model.load import open_model
from longspan.model.loss import CausalLMLoss
from longspan.train.engine import attention_layout
from longspan.train.world import join_world, start_single_process
from tests.ranks import run_ranks
from tests.tiny import tiny_model_directory
from tests.train.plain_model import plain_network, target_losses
from tests.train.sp_case import TOKENS, gradients, micro_batches, recipe_for

RELATIVE = 1e-5
HEADS = 4
S2 = {"type": "s2", "groups": 4}
GROUP = TOKENS // 4


def visible(batch: MicroBatch) -> torch.Tensor:
    """[heads, tokens, tokens], token by token."""
    mask = torch.zeros(HEADS, TOKENS, TOKENS, dtype=torch.bool)
    for head in range(HEADS):
        shift = 0 if head < HEADS // 2 else GROUP // 2
        for begin, end in pairwise(batch.cu_seqlens.tolist()):
            for i in range(begin, end):
                first = (i - shift) // GROUP * GROUP + shift
                mask[head, i, max(begin, first) : i + 1] = True
    return mask


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(tiny_model_directory(tmp_path_factory.mktemp("groups") / "model", "qwen3"))


@pytest.fixture(scope="module")
def truth(model: str) -> dict[str, Any]:
    network = plain_network(model)
    total, weights = torch.zeros((), dtype=torch.float64), 0.0
    for batch in micro_batches():
        for i, loss in target_losses(network, batch, visible(batch)).items():
            total, weights = total + float(batch.loss_weight[i]) * loss, weights + float(batch.loss_weight[i])
    (total / weights).backward()
    grads = {name: parameter.grad.clone() for name, parameter in network.named_parameters()}
    return {"loss": total.item() / weights, "grads": grads}


def assert_truth(found: dict[str, Any], truth: dict[str, Any]) -> None:
    assert found["loss"] == pytest.approx(truth["loss"], rel=RELATIVE)
    for name, wanted in truth["grads"].items():
        assert wanted.norm() > 0, name
        assert (found["grads"][name].double() - wanted).norm() < RELATIVE * wanted.norm(), name


@pytest.mark.parametrize("checkpointing", [False, True])
def test_one_process_computes_the_truth(model: str, truth: dict[str, Any], checkpointing: bool) -> None:
    start_single_process(use_gpu=False)
    assert_truth(gradients(model, 1, 1, 1, checkpointing, 0, pattern=S2), truth)
    whole = gradients(model, 1, 1, 1, False, 0)
    assert abs(whole["loss"] - truth["loss"]) > 10 * RELATIVE * truth["loss"], "the groups change something"


def test_ranks_that_share_heads_compute_the_truth(model: str, truth: dict[str, Any]) -> None:
    """Rank 0 has the heads of the first half, rank 1 those of the second."""
    for found in run_ranks(gradients, 2, model, 2, 2, 1, True, 0, False, micro_batches, S2):
        assert_truth(found, truth)


def test_heads_that_do_not_halve_are_refused(tmp_path_factory: pytest.TempPathFactory) -> None:
    start_single_process(use_gpu=False)
    path = str(tiny_model_directory(tmp_path_factory.mktemp("mqa") / "model", num_key_value_heads=1))
    recipe = recipe_for(path, 1, 1, 1, False, S2)
    network, _ = open_model(recipe.model, recipe.rope, recipe.data.target_length, seed=0)
    with pytest.raises(TopologyError, match="the model's num_key_value_heads 1 do not halve; leave the pattern out"):
        attention_layout(CausalLMLoss(network, 8), recipe, join_world(1, use_gpu=False))
