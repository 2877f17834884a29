"""The trainer's loss against cross-entropy over all logits at once: value and every gradient, for any chunk size."""

from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from longspan.model.attention import Documents
from longspan.model.load import open_model
from longspan.model.loss import IGNORE, CausalLMLoss
from tests.tiny import tiny_model_directory, tiny_recipe

TOKENS = 20
DOCUMENTS = Documents((0, 7, TOKENS))


@pytest.fixture(scope="module", params=[False, True], ids=["untied", "tied"])
def network(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Any:
    directory = tiny_model_directory(tmp_path_factory.mktemp("loss") / "model", tie_word_embeddings=request.param)
    recipe = tiny_recipe(directory)
    return open_model(recipe.model, recipe.rope, recipe.data.target_length, seed=0)[0].double().train()


def batch(seed: int, masked: float) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """input_ids, positions, labels and weights [1, TOKENS]; `masked` is the share of tokens without a target."""
    generator = torch.Generator().manual_seed(seed)
    ids, labels = torch.randint(96, (2, 1, TOKENS), generator=generator)
    labels = labels.masked_fill(torch.rand(1, TOKENS, generator=generator) < masked, IGNORE)
    weight = torch.rand(1, TOKENS, generator=generator) * 3
    positions = torch.arange(TOKENS, dtype=torch.float32)[None] * 2.5
    return ids, positions, labels, weight


def plain_loss(network: Any, ids: Tensor, positions: Tensor, labels: Tensor, weight: Tensor) -> Tensor:
    logits = network(input_ids=ids, position_ids=positions, documents=DOCUMENTS).logits[0]
    valid = labels[0] != IGNORE
    losses = -logits.log_softmax(-1)[torch.arange(TOKENS), labels[0].clamp(min=0)]
    return (losses * weight[0])[valid].sum()


def value_and_gradients(network: nn.Module, loss: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
    network.zero_grad()
    loss.backward()
    return loss.detach(), {name: p.grad.clone() for name, p in network.named_parameters() if p.grad is not None}


@given(
    chunk=st.integers(1, TOKENS + 3),
    seed=st.integers(0, 2**16),
    masked=st.sampled_from([0.0, 0.5, 0.95]),
)
@settings(deadline=None, max_examples=40)
def test_equals_cross_entropy_on_all_logits(network: Any, chunk: int, seed: int, masked: float) -> None:
    tensors = batch(seed, masked)
    loss, gradients = value_and_gradients(network, CausalLMLoss(network, chunk)(*tensors, DOCUMENTS))
    expected, wanted = value_and_gradients(network, plain_loss(network, *tensors))
    # The logits are cast to float32 before the softmax, as in training.
    torch.testing.assert_close(loss.double(), expected, rtol=1e-6, atol=1e-6)
    assert gradients.keys() == wanted.keys() == dict(network.named_parameters()).keys()
    for name, gradient in wanted.items():
        assert (gradients[name] - gradient).norm() <= 1e-6 * gradient.norm() + 1e-9, name


def test_the_sum_is_float32_and_a_row_without_targets_has_zero_gradients(network: Any) -> None:
    ids, positions, _, weight = batch(0, 0.0)
    loss = CausalLMLoss(network, 6)(ids, positions, torch.full_like(ids, IGNORE), weight, DOCUMENTS)
    assert loss.dtype == torch.float32
    # Its backward still runs: under sequence parallelism the other ranks wait for this one.
    value, gradients = value_and_gradients(network, loss)
    assert value == 0
    assert all((gradient == 0).all() for gradient in gradients.values())
    assert gradients.keys() == dict(network.named_parameters()).keys()


def test_no_more_than_a_chunk_of_logits_is_made(network: Any) -> None:
    sizes: list[int] = []
    handle = network.lm_head.register_forward_hook(lambda module, inputs, output: sizes.append(output.shape[-2]))
    try:
        CausalLMLoss(network, 6)(*batch(1, 0.2), DOCUMENTS).backward()
    finally:
        handle.remove()
    # Once forward; once more for the backward, since no logits were kept.
    assert sizes[:4] == [6, 6, 6, 2]
    assert sorted(sizes[4:]) == [2, 6, 6, 6]


def test_agrees_with_the_loss_of_transformers_on_a_plain_row(tmp_path: Path) -> None:
    recipe = tiny_recipe(tiny_model_directory(tmp_path / "model"))
    network: Any = open_model(recipe.model, recipe.rope, recipe.data.target_length, seed=0)[0]
    ids = torch.randint(96, (1, TOKENS), generator=torch.Generator().manual_seed(3))
    # transformers shifts by itself and takes the mean.
    expected = network(input_ids=ids, labels=ids).loss
    labels = F.pad(ids[:, 1:], (0, 1), value=IGNORE)
    weight = (labels != IGNORE).float()
    positions = torch.arange(TOKENS, dtype=torch.float32)[None]
    loss = CausalLMLoss(network, 8)(ids, positions, labels, weight, Documents((0, TOKENS)))
    torch.testing.assert_close(loss / (TOKENS - 1), expected)
