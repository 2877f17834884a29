"""Positions are not structure: what reaches the last token is decided by cu_seqlens, whatever the positions skip."""

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from longspan.errors import LongspanError
from longspan.model.attention import Documents
from longspan.model.load import open_model
from longspan.model.loss import CausalLMLoss
from longspan.model.probe import boundary_probe, require_structure
from tests.tiny import FAMILIES, tiny_model_directory, tiny_recipe

TOKENS = 24
BOUNDARY = 8
GAP = 16
"""Tokens from GAP on stand 40 positions later; tokens before BOUNDARY are another document where there are two."""
CPU = torch.device("cpu")


def skipped_positions(fractional: bool) -> Tensor:
    """[1, TOKENS]: one run of positions with two gaps, of whole or of broken numbers."""
    positions = torch.arange(TOKENS, dtype=torch.float32)
    positions[BOUNDARY:] += 7
    positions[GAP:] += 40
    return positions[None] * 0.75 + 0.3 if fractional else positions[None]


def influence(network: Any, positions: Tensor, **settings: Any) -> Tensor:
    """[TOKENS]: size of d (last hidden state, last token) / d (embedding of each token)."""
    ids = (torch.arange(TOKENS) * 7 + 3) % network.config.vocab_size
    embeddings = network.get_input_embeddings()(ids)[None].detach().requires_grad_()
    out = network.model(inputs_embeds=embeddings, position_ids=positions, **settings)
    out.last_hidden_state[0, -1].square().sum().backward()
    assert embeddings.grad is not None
    return embeddings.grad[0].norm(dim=-1)


def opened(directory: Path, checkpointing: bool = False) -> Any:
    recipe = tiny_recipe(directory, model={"gradient_checkpointing": checkpointing})
    return open_model(recipe.model, recipe.rope, recipe.data.target_length, seed=0)[0]


@pytest.fixture(scope="module", params=FAMILIES)
def directory(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_model_directory(tmp_path_factory.mktemp("structure") / request.param, request.param)


@pytest.fixture(scope="module")
def llama(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_model_directory(tmp_path_factory.mktemp("structure") / "one")


@pytest.mark.parametrize("fractional", [False, True], ids=["gaps", "fractions"])
@pytest.mark.parametrize("use_cache", [False, True], ids=["no-cache", "cache"])
@pytest.mark.parametrize("mode", ["eval", "train", "checkpointing"])
def test_a_gap_cuts_nothing_and_a_boundary_everything(
    directory: Path, mode: str, use_cache: bool, fractional: bool
) -> None:
    network = opened(directory, checkpointing=mode == "checkpointing").train(mode != "eval")
    positions = skipped_positions(fractional)

    whole = influence(network, positions, documents=Documents((0, TOKENS)), use_cache=use_cache)
    assert (whole > 0).all()

    packed = influence(network, positions, documents=Documents((0, BOUNDARY, TOKENS)), use_cache=use_cache)
    assert (packed[:BOUNDARY] == 0.0).all()
    assert (packed[BOUNDARY:] > 0).all()


@pytest.mark.parametrize("use_cache", [False, True], ids=["no-cache", "cache"])
def test_without_documents_a_row_is_one_document(llama: Path, use_cache: bool) -> None:
    """Evaluation and generation: the model's own forward, no `documents`."""
    network = opened(llama).eval()
    for fractional in (False, True):
        assert (influence(network, skipped_positions(fractional), use_cache=use_cache) > 0).all()


def test_influence_goes_through_the_cache_across_a_gap(llama: Path) -> None:
    network = opened(llama).eval()
    positions = skipped_positions(fractional=True)
    embeddings = network.get_input_embeddings()(torch.arange(TOKENS))[None].detach().requires_grad_()
    whole = network.model(inputs_embeds=embeddings, position_ids=positions, use_cache=False).last_hidden_state

    cache, parts = None, []
    # Across the gap: a chunk, one token, and the rest.
    for first, last in ((0, 12), (12, GAP), (GAP, GAP + 1), (GAP + 1, TOKENS)):
        out = network.model(
            inputs_embeds=embeddings[:, first:last],
            position_ids=positions[:, first:last],
            past_key_values=cache,
            use_cache=True,
        )
        cache = out.past_key_values
        parts.append(out.last_hidden_state)
    torch.testing.assert_close(torch.cat(parts, dim=1), whole, rtol=1e-4, atol=1e-5)
    parts[-1][0, -1].square().sum().backward()
    assert embeddings.grad is not None
    assert (embeddings.grad[0].norm(dim=-1) > 0).all()


def test_positions_still_reach_the_rotary_embedding(llama: Path) -> None:
    network = opened(llama).eval()
    ids, documents = torch.arange(TOKENS)[None], Documents((0, TOKENS))
    with torch.no_grad():
        plain, gapped, fractional = (
            network(input_ids=ids, position_ids=positions, documents=documents).logits
            for positions in (torch.arange(TOKENS)[None].float(), skipped_positions(False), skipped_positions(True))
        )
    assert not torch.allclose(plain, gapped, atol=1e-4)
    assert not torch.allclose(gapped, fractional, atol=1e-4)
    # RoPE is relative: the same gaps further on are the same model (up to float32 angles).
    with torch.no_grad():
        later = network(input_ids=ids, position_ids=skipped_positions(False) + 64, documents=documents).logits
    torch.testing.assert_close(later, gapped, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("fractional", [False, True], ids=["gaps", "fractions"])
def test_the_default_path_of_transformers_cuts_at_every_gap(directory: Path, fractional: bool) -> None:
    """The reason for an attention function of our own: gaps are taken for document boundaries, without a word."""
    from transformers import AutoModelForCausalLM

    network = AutoModelForCausalLM.from_pretrained(directory, dtype=torch.float32, attn_implementation="sdpa").train()
    reached = influence(network, skipped_positions(fractional), use_cache=False)
    # With fractions no two neighbours differ by 1, so every token is alone.
    last_piece = TOKENS - 1 if fractional else GAP
    assert (reached[:last_piece] == 0.0).all()
    assert (reached[last_piece:] > 0).all()
    # It is the positions that do it.
    assert (influence(network, torch.arange(TOKENS)[None], use_cache=False) > 0).all()


class LibraryLoss(CausalLMLoss):
    """The trainer's forward on a model whose attention has never heard of `documents`."""

    def hidden_states(self, input_ids: Tensor, positions: Tensor, documents: Documents) -> Tensor:
        network: Any = self.model
        return network.model(input_ids=input_ids, position_ids=positions, use_cache=False).last_hidden_state


def probe(forward: CausalLMLoss) -> None:
    require_structure(forward, Documents((0,)), 96, CPU, ranks=1, rank=0)


@pytest.mark.parametrize("checkpointing", [False, True], ids=["plain", "checkpointing"])
def test_the_probe_passes_for_every_family(directory: Path, checkpointing: bool) -> None:
    forward = CausalLMLoss(opened(directory, checkpointing), 8).train()
    gap, boundary = boundary_probe(forward, Documents((0,)), 96, CPU)
    assert gap > 0
    assert boundary == 0
    probe(forward)


def test_the_probe_refuses_the_default_path(directory: Path) -> None:
    from transformers import AutoModelForCausalLM

    network = AutoModelForCausalLM.from_pretrained(directory, dtype=torch.float32, attn_implementation="sdpa")
    with pytest.raises(LongspanError, match="a token before a gap in the positions has no influence after it"):
        probe(LibraryLoss(network, 8).train())


def test_the_probe_refuses_attention_across_documents(llama: Path) -> None:
    class NoBoundaries(CausalLMLoss):
        def hidden_states(self, input_ids: Tensor, positions: Tensor, documents: Documents) -> Tensor:
            return super().hidden_states(input_ids, positions, Documents((0, documents.num_tokens)))

    with pytest.raises(LongspanError, match=r"a token reaches into another document \(change \S+\); it must not"):
        probe(NoBoundaries(opened(llama), 8).train())
