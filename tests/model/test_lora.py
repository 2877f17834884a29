"""LoRA against W + alpha / rank * B A written out in float64, and what it freezes, draws and refuses."""

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.func import functional_call

from longspan.errors import ConfigError
from longspan.model import lora
from longspan.model.attention import Documents
from longspan.model.load import open_model
from longspan.model.lora import LoraLinear, adapter_of, is_lora_matrix, original_name
from longspan.model.loss import CausalLMLoss
from longspan.model.weight_files import read_tensor, tensor_files
from tests.tiny import FAMILIES, tiny_model_directory, tiny_recipe

TOKENS = 24


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_model_directory(tmp_path_factory.mktemp("lora") / "model")


def opened(path: Path, seed: int = 0, dtype: str = "float32", checkpointing: bool = False, **settings: Any) -> Any:
    """The network; with LoRA where there are `settings`."""
    values = {"dtype": dtype, "gradient_checkpointing": checkpointing, "lora": settings or None}
    recipe = tiny_recipe(path, model=values)
    return open_model(recipe.model, recipe.rope, recipe.data.target_length, seed)[0]


def batch() -> tuple[Tensor, ...]:
    """Two documents in one row, with gaps in the positions."""
    ids = torch.arange(TOKENS)[None] * 5 % 90
    positions = torch.arange(TOKENS, dtype=torch.float32)[None] * 3
    return ids, positions, ids.roll(-1), torch.linspace(0.5, 1.5, TOKENS)[None]


def loss_of(network: Any) -> CausalLMLoss:
    return CausalLMLoss(network, loss_chunk=10).train()


def randomise(network: Any) -> None:
    generator = torch.Generator().manual_seed(3)
    for parameter in network.parameters():
        if parameter.requires_grad:
            parameter.data = torch.randn(parameter.shape, generator=generator).to(parameter.dtype) * 0.2


@pytest.mark.parametrize("family", FAMILIES)
def test_loss_and_gradients_are_those_of_the_sum_of_weights(tmp_path: Path, family: str) -> None:
    path = tiny_model_directory(tmp_path / "model", family)
    settings: dict[str, Any] = {"rank": 3, "alpha": 7.5, "targets": ["q_proj", "v_proj", "down_proj"]}
    network = opened(path, checkpointing=True, **settings)
    randomise(network)
    network.double()
    ours = loss_of(network)(*batch(), Documents((0, 10, TOKENS)))
    ours.backward()

    plain = opened(path).double()
    matrices = {n: p.detach().clone().requires_grad_() for n, p in network.named_parameters() if is_lora_matrix(n)}
    weights: dict[str, Tensor] = dict(plain.named_parameters())
    for name in [name for name in matrices if name.endswith(".lora_a")]:
        layer = name.removesuffix(".lora_a")
        product = matrices[f"{layer}.lora_b"] @ matrices[name]
        weights[f"{layer}.weight"] = weights[f"{layer}.weight"].detach() + 7.5 / 3 * product
    named = {f"model.{name}": value for name, value in weights.items()}
    expected = functional_call(loss_of(plain), named, (*batch(), Documents((0, 10, TOKENS))))
    expected.backward()
    # The loss itself is summed in float32.
    torch.testing.assert_close(ours, expected, rtol=1e-6, atol=0)
    for name, parameter in network.named_parameters():
        if name in matrices:
            torch.testing.assert_close(parameter.grad, matrices[name].grad, rtol=1e-4, atol=1e-6)
        else:
            assert parameter.grad is None, name
    assert len(matrices) == 2 * 3 * 2


def test_a_model_begins_as_it_was(model: Path) -> None:
    documents = Documents((0, TOKENS))
    plain = loss_of(opened(model))(*batch(), documents)
    assert torch.equal(loss_of(opened(model, rank=4))(*batch(), documents), plain)


def test_defaults_train_the_attention_only(model: Path) -> None:
    network = opened(model, rank=4)
    layers = {name for name, module in network.named_modules() if isinstance(module, LoraLinear)}
    assert {name.rpartition(".")[2] for name in layers} == {"q_proj", "k_proj", "v_proj", "o_proj"}
    trained = {name for name, parameter in network.named_parameters() if parameter.requires_grad}
    assert trained == {f"{layer}.{matrix}" for layer in layers for matrix in ("lora_a", "lora_b")}
    found = adapter_of(network)
    assert found is not None
    assert set(found.targets) == layers
    assert (found.also_trained, found.quantised, found.scale) == ((), frozenset(), 8)
    assert {original_name(name) for name in dict(network.named_parameters()) if not is_lora_matrix(name)} == set(
        dict(opened(model).named_parameters())
    )


def test_modules_trained_whole(model: Path) -> None:
    network = opened(model, targets=["q_proj"], also_train=["norm", "embed_tokens", "mlp"])
    trained = {n for n, p in network.named_parameters() if p.requires_grad and not is_lora_matrix(n)}
    linears = {f"model.layers.{layer}.mlp.{kind}_proj.weight" for layer in (0, 1) for kind in ("gate", "up", "down")}
    assert trained == {"model.norm.weight", "model.embed_tokens.weight", *linears}


def test_a_is_drawn_from_the_seed(model: Path) -> None:
    first, again, other = (opened(model, seed, rank=8) for seed in (0, 0, 1))
    names = [name for name, _ in first.named_parameters() if name.endswith("lora_a")]
    matrices = [dict(network.named_parameters()) for network in (first, again, other)]
    for name in names:
        assert torch.equal(matrices[0][name], matrices[1][name])
        assert not torch.equal(matrices[0][name], matrices[2][name])
        bound = matrices[0][name].shape[1] ** -0.5
        assert 0.9 * bound < matrices[0][name].abs().max() <= bound
    assert not torch.equal(matrices[0][names[0]], matrices[0][names[1]])
    assert {p.dtype for n, p in opened(model, dtype="bfloat16", rank=2).named_parameters()} == {torch.bfloat16}


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (
            {"targets": ["w_proj"]},
            r"model.lora.targets: LlamaForCausalLM has no linear layer 'w_proj'; it has down_proj, gate_proj, k_proj",
        ),
        (
            {"also_train": ["wte"]},
            r"model.lora.also_train: LlamaForCausalLM has no module 'wte'; it has .*embed_tokens, .*, norm, ",
        ),
        ({"also_train": ["self_attn"]}, r"also_train: model.layers.0.self_attn holds model.layers.0.self_attn.q_proj"),
    ],
)
def test_names_that_do_not_fit_the_model(model: Path, settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        opened(model, **settings)


def test_a_tied_head_gets_no_matrices(tmp_path: Path) -> None:
    path = tiny_model_directory(tmp_path / "model", tie_word_embeddings=True)
    with pytest.raises(ConfigError, match=r"model.lora.targets: the output head of this model is its input embedding"):
        opened(path, targets=["lm_head"])


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"lora": {"rank": 0}}, "model.lora.rank"),
        ({"lora": {"targets": []}}, "model.lora.targets"),
        ({"lora": {"targets": ["layers.0.q_proj"]}}, "model.lora.targets"),
        ({"lora": {"also_train": ["k_proj"]}}, "'k_proj' is in both 'targets' and 'also_train'"),
        ({"lora": {"quantize": "int8"}}, "model.lora.quantize"),
        ({"lora": {"quantize": "nf4"}, "weights": "random"}, "needs weights: pretrained"),
    ],
)
def test_settings_that_are_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        tiny_recipe("nowhere", model=changes)


def wide(directory: Path, family: str = "llama", **changes: Any) -> Path:
    """A model whose layers have whole blocks of 64 inputs."""
    sizes = {"hidden_size": 64, "intermediate_size": 128, "head_dim": 16, **changes}
    return tiny_model_directory(directory, family, **sizes)


@pytest.mark.parametrize(("family", "dtype"), [("llama", "float32"), ("llama", "bfloat16"), ("qwen2", "float32")])
def test_four_bits_compute_what_their_values_say(tmp_path: Path, family: str, dtype: str) -> None:
    from bitsandbytes.functional import dequantize_4bit

    path = wide(tmp_path / "model", family)
    settings: dict[str, Any] = {"rank": 3, "alpha": 7.5, "targets": ["q_proj", "down_proj"], "also_train": ["norm"]}
    network = opened(path, dtype=dtype, checkpointing=True, quantize="nf4", **settings)
    plain = opened(path, dtype=dtype, checkpointing=True, **settings)
    held = adapter_of(network)
    assert held is not None
    assert len(held.quantised) == 2 * 7
    parameters, originals = dict(network.named_parameters()), dict(plain.named_parameters())
    assert {name for name, value in parameters.items() if value.dtype == torch.uint8} == held.quantised
    for name in held.quantised:
        weight: Any = parameters[name]
        original = originals[name]
        assert weight.numel() * 2 == original.numel()
        assert not weight.requires_grad
        values = dequantize_4bit(weight.data, weight.quant_state)
        # Half the widest step of NF4, as far as the largest of a block is known: itself in 8 bits, values in `dtype`.
        largest = original.detach().float().view(-1, 64).abs().amax(1, keepdim=True)
        moved = (values.float() - original.detach().float()).view(-1, 64).abs()
        assert (moved <= 0.16 * largest).all()
        assert moved.mean() > 0.01 * largest.mean()
        original.data = values.to(original.dtype)
    randomise(network)
    randomise(plain)
    losses = [loss_of(each)(*batch(), Documents((0, 10, TOKENS))) for each in (network, plain)]
    for loss in losses:
        loss.backward()
    assert torch.equal(*losses)
    trained = [name for name, value in parameters.items() if value.requires_grad]
    assert len(trained) == 2 * 2 * 2 + 1
    for name in trained:
        assert parameters[name].grad.abs().max() > 0
        torch.testing.assert_close(parameters[name].grad, originals[name].grad, rtol=0, atol=0)


def test_whole_modules_and_the_head_are_not_held_in_four_bits(tmp_path: Path) -> None:
    path = wide(tmp_path / "model")
    network = opened(path, targets=["q_proj"], also_train=["mlp"], quantize="nf4")
    held = {name for name, value in network.named_parameters() if value.dtype == torch.uint8}
    kinds = ("q_proj.base", "k_proj", "v_proj", "o_proj")
    assert held == {f"model.layers.{layer}.self_attn.{kind}.weight" for layer in (0, 1) for kind in kinds}


def test_rows_of_broken_blocks_are_refused_on_the_cpu(tmp_path: Path) -> None:
    path = wide(tmp_path / "model", intermediate_size=96)
    with pytest.raises(ConfigError, match=r"model.lora.quantize: model.layers.0.mlp.down_proj has 96 inputs, .* of 64"):
        opened(path, quantize="nf4")


def test_four_bits_need_the_library(model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lora, "find_spec", lambda name: None)
    with pytest.raises(
        ConfigError, match=r"needs bitsandbytes, which is not installed; pip install 'longspan\[qlora\]'"
    ):
        opened(model, quantize="nf4")


@pytest.mark.parametrize("shard", ["10GB", "20KB"])
def test_tensors_are_found_in_the_files_of_the_model(tmp_path: Path, model: Path, shard: str) -> None:
    network = opened(model)
    network.save_pretrained(tmp_path / "again", max_shard_size=shard)
    settings = tiny_recipe(tmp_path / "again").model
    files = tensor_files(settings)
    assert (len(set(files.values())) > 1) == (shard == "20KB")
    expected = network.state_dict()
    assert files.keys() == expected.keys()
    assert all(torch.equal(read_tensor(files, name), value) for name, value in expected.items())
    sorted(set(files.values()))[-1].unlink()
    with pytest.raises(ConfigError, match=r"^model.path: .*(model-0000.* is missing|holds neither model.safetens)"):
        tensor_files(settings)
