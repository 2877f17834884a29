"""The same structure where two ranks hold halves of one row: all cases in one pair of processes."""

from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
from torch import Tensor, nn

from longspan.errors import LongspanError
from longspan.model.attention import Documents, longspan_attention
from longspan.model.load import open_model
from longspan.model.loss import CausalLMLoss
from longspan.model.probe import boundary_probe, require_structure
from longspan.train.engine import attention_layout
from longspan.train.world import join_world
from tests.model.mixed_row import BOUNDARIES, NTK, hidden, opened
from tests.model.mixed_row import TOKENS as ROW
from tests.ranks import run_ranks
from tests.tiny import tiny_model_directory, tiny_recipe

TOKENS = 24
BOUNDARY = 8
"""On rank 0; so are both sides of the first gap, and the second gap is where the ranks meet."""
CASES = [
    (name, checkpointing, fractional)
    for name in ("gqa", "mqa")
    for checkpointing in (False, True)
    for fractional in (False, True)
]


def influence(network: Any, layout: Documents, cu_seqlens: tuple[int, ...], rank: int, fractional: bool) -> Tensor:
    """[TOKENS / 2]: size of d (last hidden state of the last rank) / d (embedding of each of this rank's tokens)."""
    positions = torch.arange(TOKENS, dtype=torch.float32)
    positions[6:] += 5
    positions[TOKENS // 2 :] += 40
    if fractional:
        positions = positions * 0.75 + 0.3
    mine = slice(rank * TOKENS // 2, (rank + 1) * TOKENS // 2)
    embeddings = network.get_input_embeddings()((torch.arange(TOKENS) * 7 + 3)[mine] % 96)[None].detach()
    embeddings.requires_grad_()
    documents = Documents(cu_seqlens, layout.kernel, layout.sequence_parallel)
    out = network.model(
        inputs_embeds=embeddings, position_ids=positions[mine][None], documents=documents, use_cache=False
    )
    # Both ranks go backward, since attention exchanges gradients; only the last one has any.
    (out.last_hidden_state[0, -1].square().sum() * float(rank == 1)).backward()
    assert embeddings.grad is not None
    return embeddings.grad[0].norm(dim=-1)


def own_slice(
    module: nn.Module, query: Tensor, key: Tensor, value: Tensor, documents: Documents, scaling: float
) -> Tensor:
    return longspan_attention(module, query, key, value, None, scaling=scaling)[0]


def mixed_windows(model: str, recipe: Any, world: Any) -> dict[str, Tensor]:
    """This rank's half of a row of short and long documents: states, and gradients of the sum of their squares."""
    network, _ = opened(model, NTK, world.sequence_rank)
    layout = attention_layout(CausalLMLoss(network, 8), recipe, world)
    half = slice(world.rank * ROW // 2, (world.rank + 1) * ROW // 2)
    states = hidden(network, half, Documents(BOUNDARIES, layout.kernel, layout.sequence_parallel))
    states.square().sum().backward()
    require_structure(CausalLMLoss(network, 8), layout, 96, world.device, 2, world.rank)
    grads = {name: p.grad.detach() for name, p in network.named_parameters() if p.grad is not None}
    return {**grads, "states": states.detach()}


def rank_results(models: dict[str, str]) -> dict[str, Any]:
    world = join_world(2, use_gpu=False)
    results: dict[str, Any] = {"influence": {}, "probe": {}}
    for name, checkpointing, fractional in CASES:
        recipe = tiny_recipe(
            models[name],
            model={"gradient_checkpointing": checkpointing},
            parallel={"launch": "ray", "num_workers": 2, "sequence_parallel": 2},
        )
        network, _ = open_model(recipe.model, recipe.rope, recipe.data.target_length, seed=0)
        forward = CausalLMLoss(network, 8).train()
        layout = attention_layout(forward, recipe, world)
        results["influence"][name, checkpointing, fractional] = [
            influence(network, layout, cu_seqlens, world.rank, fractional)
            for cu_seqlens in ((0, TOKENS), (0, BOUNDARY, TOKENS))
        ]
        results["probe"][name, checkpointing] = boundary_probe(forward, layout, 96, world.device, 2, world.rank)
        require_structure(forward, layout, 96, world.device, 2, world.rank)
    results["mixed"] = mixed_windows(models["gqa"], recipe, world)
    # Only the last rank can tell that a slice attends to itself alone; the first one must hear of it.
    lost = Documents((0,), "sdpa", own_slice)
    try:
        require_structure(forward, lost, 96, world.device, 2, world.rank)
    except LongspanError as error:
        results["error"] = str(error)
    dist.barrier()
    return results


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    folder: Path = tmp_path_factory.mktemp("structure-sp")
    return {
        "gqa": str(tiny_model_directory(folder / "gqa")),
        "mqa": str(tiny_model_directory(folder / "mqa", "qwen3", num_key_value_heads=1)),
    }


@pytest.fixture(scope="module")
def ranks(models: dict[str, str]) -> list[dict[str, Any]]:
    return run_ranks(rank_results, 2, models)


@pytest.mark.parametrize(("name", "checkpointing", "fractional"), CASES)
def test_influence_crosses_gaps_and_ranks_but_no_boundary(
    ranks: list[dict[str, Any]], name: str, checkpointing: bool, fractional: bool
) -> None:
    (whole, packed), (whole_last, packed_last) = (
        result["influence"][name, checkpointing, fractional] for result in ranks
    )
    assert (whole > 0).all()
    assert (whole_last > 0).all()
    assert (packed[:BOUNDARY] == 0.0).all()
    assert (packed[BOUNDARY:] > 0).all()
    assert (packed_last > 0).all()


def test_the_probe_sees_it_on_the_last_rank(ranks: list[dict[str, Any]]) -> None:
    for gap, boundary in ranks[1]["probe"].values():
        assert gap > 0
        assert boundary == 0


def test_documents_of_two_ropes_are_turned_alike_on_one_rank_and_two(
    ranks: list[dict[str, Any]], models: dict[str, str]
) -> None:
    first, second = (result["mixed"] for result in ranks)
    network, _ = opened(models["gqa"], NTK)
    states = hidden(network)
    states.square().sum().backward()
    assert (torch.cat([first["states"], second["states"]]) - states).abs().max() < 1e-5
    for name, parameter in network.named_parameters():
        if parameter.grad is not None:
            together = first[name] + second[name]
            assert (together - parameter.grad).abs().max() <= 1e-4 * parameter.grad.abs().max(), name


def test_every_rank_refuses_when_one_does(ranks: list[dict[str, Any]]) -> None:
    for result in ranks:
        assert "attention probe: a token before a gap in the positions has no influence" in result["error"]
