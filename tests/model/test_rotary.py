"""Mixed windows: every document meets the RoPE of its length, packed or alone (two ranks: `test_structure_sp`)."""

from pathlib import Path
from typing import Any

import pytest
import torch

from longspan.errors import ConfigError, DataError
from longspan.model.attention import Documents
from longspan.model.load import assert_rope
from longspan.model.loss import CausalLMLoss
from longspan.model.probe import boundary_probe
from longspan.rope import RopeSettings, to_hf
from longspan.rope.frequencies import attention_scaling
from tests.model.mixed_row import LENGTHS, NTK, YARN, hidden, opened, row
from tests.tiny import FAMILIES, tiny_model_directory


@pytest.fixture(scope="module")
def llama(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_model_directory(tmp_path_factory.mktemp("rotary") / "llama")


def plainly(path: Path, settings: RopeSettings, dtype: torch.dtype) -> Any:
    """The model in plain transformers with the RoPE of `settings`."""
    from transformers import AutoConfig, AutoModelForCausalLM

    config = AutoConfig.from_pretrained(str(path))
    config.rope_parameters, config.max_position_embeddings = to_hf(settings), 256
    network: Any = AutoModelForCausalLM.from_pretrained(str(path), config=config, dtype=torch.float32)
    return network.to(dtype)


@pytest.mark.parametrize("rope", [NTK, YARN], ids=["ntk", "yarn"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize("family", FAMILIES)
def test_a_document_in_a_row_is_what_it_is_alone(
    tmp_path: Path, family: str, dtype: torch.dtype, rope: dict[str, Any]
) -> None:
    path = tiny_model_directory(tmp_path / family, family)
    network, extended = opened(path, rope)
    found = hidden(network.to(dtype))
    short, long = (plainly(path, settings, dtype) for settings in (RopeSettings("default", 500.0), extended))
    start = 0
    for number, length in enumerate(LENGTHS):
        part = slice(start, start + length)
        right, wrong = (long, short) if number == 1 else (short, long)
        ids = row()[0][:, part]
        assert (right.model(input_ids=ids).last_hidden_state[0] - found[part]).abs().max() < 1e-5
        assert (wrong.model(input_ids=ids).last_hidden_state[0] - found[part]).abs().max() > 1e-4
        start += length


def test_the_gradients_of_a_row_are_those_of_its_documents(llama: Path) -> None:
    network, extended = opened(llama, NTK)
    hidden(network).square().sum().backward()
    short, long = (plainly(llama, settings, torch.float32) for settings in (RopeSettings("default", 500.0), extended))
    for ids, model in zip(row()[0].split(LENGTHS, dim=1), (short, long, short, short), strict=True):
        model.model(input_ids=ids).last_hidden_state.square().sum().backward()
    apart = dict(long.named_parameters())
    for name, parameter in short.named_parameters():
        if parameter.grad is None:
            continue
        both = parameter.grad + apart[name].grad
        found = network.get_parameter(name).grad
        assert (found - both).abs().max() <= 1e-4 * both.abs().max()
        assert found.abs().max() > 0


def test_checkpointing_and_the_probe_see_the_same_rope(llama: Path) -> None:
    network, _ = opened(llama, NTK)
    plain = hidden(network)
    network.train().gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
    again = hidden(network)
    assert torch.equal(plain, again)
    again.sum().backward()
    gap, boundary = boundary_probe(CausalLMLoss(network, 8), Documents((0,)), 96, torch.device("cpu"))
    assert gap > 0
    assert boundary == 0


def test_both_sets_of_frequencies_are_proven(llama: Path) -> None:
    network, settings = opened(llama, YARN)
    assert network.model.rotary_emb.attention_scaling == attention_scaling(settings) == 1.0
    assert_rope(network, settings)
    network.model.rotary_emb.original_inv_freq[-1] *= 1.001
    with pytest.raises(ConfigError, match=r"frequencies are not those of .*'default', 'rope_theta': 500"):
        assert_rope(network, settings)
    with pytest.raises(ConfigError, match=r"inv_freq of MixedRotary is torch\.bfloat16"):
        assert_rope(network.bfloat16(), settings)


def test_a_row_without_boundaries_or_with_too_long_a_document_is_refused(llama: Path) -> None:
    network, _ = opened(llama, NTK)
    with pytest.raises(ValueError, match="pass `documents`"):
        network.model(input_ids=row()[0], position_ids=row()[1], use_cache=False)
    with pytest.raises(DataError, match="document 0 of the sample spans 300 tokens"):
        hidden(network, documents=Documents((0, 300)))
