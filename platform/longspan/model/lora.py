"""LoRA and QLoRA: a frozen model with small trained matrices beside some of its linear layers.

`load.open_model` attaches them, `checkpoint.export` folds them into the weights, so that nothing after training knows
of them. LoRA is Hu et al., 2106.09685; QLoRA (the frozen layers in 4 bits) Dettmers et al., 2305.14314.
"""

import logging
from collections.abc import Collection
from dataclasses import dataclass
from importlib.util import find_spec
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from longspan.config.model import Lora, Model
from longspan.errors import ConfigError
from longspan.model.weight_files import tensor_files

BASE, MATRIX_A, MATRIX_B = "base", "lora_a", "lora_b"
_STREAM = 0x4C6F5241
_BLOCK = 64
"""Weights that share a scale in NF4."""
_ATTRIBUTE = "longspan_adapter"


class LoraLinear(nn.Module):
    """y = base(x) + scale * B A x, with A [rank, in] and B [out, rank] trained and `base` frozen.

    B begins at zero, so that the model begins as it was.
    """

    def __init__(self, base: nn.Module, a: Tensor, out_features: int, scale: float) -> None:
        super().__init__()
        self.base = base
        self.scale = scale
        self.lora_a = nn.Parameter(a)
        self.lora_b = nn.Parameter(a.new_zeros(out_features, a.shape[0]))

    def forward(self, x: Tensor) -> Tensor:
        return self.base(x) + self.scale * F.linear(F.linear(x, self.lora_a), self.lora_b)


@dataclass(frozen=True)
class Adapter:
    """What `attach` did to a model.

    Attributes:
        model, lora: of the recipe.
        targets: full names of the linear layers that got matrices.
        also_trained: full names of the modules that are trained whole.
        quantised: names of the parameters held in 4 bits, as the module tree now has them.
        tied: whether the output head is the input embedding.
    """

    model: Model
    lora: Lora
    targets: tuple[str, ...]
    also_trained: tuple[str, ...]
    quantised: frozenset[str]
    tied: bool

    @property
    def scale(self) -> float:
        return self.lora.alpha / self.lora.rank


def adapter_of(network: nn.Module) -> Adapter | None:
    return getattr(network, _ATTRIBUTE, None)


def is_lora_matrix(name: str) -> bool:
    return name.rpartition(".")[2] in (MATRIX_A, MATRIX_B)


def original_name(name: str) -> str:
    """The name that a parameter had before `attach`."""
    module, _, kind = name.rpartition(".")
    return f"{module.removesuffix(f'.{BASE}')}.{kind}"


def require_quantiser(lora: Lora | None) -> None:
    """Raises ConfigError where the recipe asks for 4-bit weights and bitsandbytes is not installed."""
    if lora is None or lora.quantize is None:
        return
    if find_spec("bitsandbytes") is None:
        raise ConfigError(
            f"model.lora.quantize: {lora.quantize} needs bitsandbytes, which is not installed; pip install"
            " 'longspan[qlora]'"
        )


def attach(network: Any, model: Model, lora: Lora, seed: int, device: torch.device) -> None:
    """Freeze `network` and put `LoraLinear` over its targets, in place; `adapter_of(network)` tells of it afterwards.

    A is uniform in +-1/sqrt(in), drawn from (seed, number of the target in the model). Matrices have the dtype of the
    layer that they stand beside. With `quantize`, the 4-bit layers are on `device` then.

    Raises:
        ConfigError: names that the model does not have, or that cannot be trained so; with `quantize`, weights files
            that hold other names than the model, or, on the CPU, a layer whose inputs are no multiple of 64.
    """
    check(network, model, lora, device)
    targets, also, four_bit = _chosen(network, lora)
    network.requires_grad_(False)
    shapes = {name: tuple(module.weight.shape) for name, module in targets.items()}
    dtypes = {name: module.weight.dtype for name, module in targets.items()}
    if four_bit:
        quantise(network, four_bit, device)
    for number, name in enumerate(targets):
        out_features, in_features = shapes[name]
        rng = np.random.default_rng([seed, _STREAM, number])
        drawn = rng.uniform(-1, 1, (lora.rank, in_features)) / in_features**0.5
        a = torch.from_numpy(drawn).to(dtypes[name])
        base = network.get_submodule(name)
        network.set_submodule(name, LoraLinear(base, a, out_features, lora.alpha / lora.rank))
    for module in also.values():
        module.requires_grad_(True)
    held = frozenset(f"{name}.{BASE}.weight" if name in targets else f"{name}.weight" for name in four_bit)
    setattr(network, _ATTRIBUTE, Adapter(model, lora, tuple(targets), tuple(also), held, _is_tied(network)))


def check(network: Any, model: Model, lora: Lora, device: torch.device | None) -> None:
    """What `attach` refuses, of a network that may be on the meta device; `device` where it is known.

    Raises:
        ConfigError: see `attach`.
    """
    targets, also, four_bit = _chosen(network, lora)
    _check_apart(network, targets, also, _is_tied(network))
    if four_bit:
        _check_files(model, four_bit)
    for name in sorted(four_bit):
        width = network.get_submodule(name).in_features
        if device is not None and device.type == "cpu" and width % _BLOCK:
            # Its CPU kernel takes each row's blocks to begin with the row, and reads other weights without a word.
            raise ConfigError(
                f"model.lora.quantize: {name} has {width} inputs, and bitsandbytes on the CPU reads 4-bit weights"
                f" wrongly where that is no multiple of {_BLOCK}; leave quantize out, or train on a GPU"
            )


def _chosen(network: Any, lora: Lora) -> tuple[dict[str, Any], dict[str, Any], set[str]]:
    """Linear layers that get matrices, modules that are trained whole, and the names of those held in 4 bits."""
    linears = {name: module for name, module in network.named_modules() if isinstance(module, nn.Linear)}
    targets = _named(linears, lora.targets, "model.lora.targets", "linear layer", network)
    owners = {name: m for name, m in network.named_modules() if name and any(True for _ in m.parameters())}
    also = _named(owners, lora.also_train, "model.lora.also_train", "module", network)
    if lora.quantize is None:
        return targets, also, set()
    four_bit = {name for name, module in linears.items() if module is not network.get_output_embeddings()}
    four_bit -= {name for name in four_bit if any(f"{name}.".startswith(f"{whole}.") for whole in also)}
    return targets, also, four_bit


def _is_tied(network: Any) -> bool:
    return bool(getattr(network.config, "tie_word_embeddings", False))


def _named(modules: dict[str, Any], wanted: list[str], field: str, kind: str, network: nn.Module) -> dict[str, Any]:
    """Those of `modules` whose name ends with one that is wanted, in the order of the model."""
    known = {name.rpartition(".")[2] for name in modules}
    unknown = [name for name in wanted if name not in known]
    if unknown:
        names = ", ".join(sorted(name for name in known if not name.isdigit()))
        raise ConfigError(f"{field}: {type(network).__name__} has no {kind} '{unknown[0]}'; it has {names}")
    return {name: module for name, module in modules.items() if name.rpartition(".")[2] in wanted}


def _check_apart(network: Any, targets: dict[str, Any], also: dict[str, Any], tied: bool) -> None:
    for whole in also:
        inside = [name for name in targets if name.startswith(f"{whole}.")]
        if inside:
            raise ConfigError(
                f"model.lora.also_train: {whole} holds {inside[0]}, one of model.lora.targets; leave one out"
            )
    if tied and any(module is network.get_output_embeddings() for module in targets.values()):
        raise ConfigError(
            "model.lora.targets: the output head of this model is its input embedding, so it can have no matrices"
            " of its own; leave it out, or train embed_tokens whole with also_train"
        )


def _check_files(model: Model, linears: Collection[str]) -> None:
    files = tensor_files(model)
    missing = sorted(f"{name}.weight" for name in linears if f"{name}.weight" not in files)
    if missing:
        raise ConfigError(
            f"model.lora.quantize: the safetensors files of '{model.path}' hold no {missing[0]}, which the export reads"
            " again; write the model anew with transformers' save_pretrained"
        )


def quantise(network: Any, linears: Collection[str], device: torch.device) -> None:
    """Put bitsandbytes' NF4 layers, with their block constants quantised too, in place of the linear layers named.

    Layer by layer, so that `device` never holds more than one in full. Computes in the dtype that the layer had. A
    weight moves by at most 0.152 (half the widest step between two NF4 values) of the largest of its block of 64, and
    by what the rounding of that largest adds.
    """
    # It asks for a kernel that computes without gradients only, which no run does.
    logging.getLogger("bitsandbytes.backends.cpu.ops").setLevel(logging.ERROR)
    from bitsandbytes.nn import Linear4bit, Params4bit

    settings: dict[str, Any] = {"compress_statistics": True, "quant_type": "nf4", "blocksize": _BLOCK}
    for name in sorted(linears):
        old = network.get_submodule(name)
        new = Linear4bit(
            old.in_features,
            old.out_features,
            bias=old.bias is not None,
            compute_dtype=old.weight.dtype,
            device="meta",
            compress_statistics=True,
            quant_type="nf4",
        )
        new.weight = Params4bit(old.weight.data, requires_grad=False, module=new, **settings)
        if old.bias is not None:
            new.bias = nn.Parameter(old.bias.data, requires_grad=False)
        network.set_submodule(name, new.to(device))
