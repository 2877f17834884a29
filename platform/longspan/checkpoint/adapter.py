"""LoRA's matrices at the end of a run: folded into the weights, and in files of their own; `export` calls both.

The files are laid out as peft writes them (its checkpoint format guide), which vLLM reads too.
"""

import json
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor

from longspan import storage
from longspan.model.companions import Write
from longspan.model.lora import BASE, MATRIX_A, MATRIX_B, Adapter, is_lora_matrix, original_name
from longspan.model.weight_files import read_tensor, tensor_files

CONFIG_FILE = "adapter_config.json"
WEIGHTS_FILE = "adapter_model.safetensors"
_PREFIX = "base_model.model."


def fold(adapter: Adapter, weights: dict[str, Tensor], dtype: torch.dtype) -> dict[str, Tensor]:
    """Plain weights under their old names: W + alpha / rank * B A, added in float32 and rounded to `dtype` once.

    What was held in 4 bits is read from the model's own files, so its rounding does not reach the result. Takes the
    tensors out of `weights`, to hold each once.
    """
    files = tensor_files(adapter.model) if adapter.quantised else {}
    for name in sorted(adapter.quantised):
        weights[name] = read_tensor(files, original_name(name))
    for module in adapter.targets:
        a, b = weights.pop(f"{module}.{MATRIX_A}"), weights.pop(f"{module}.{MATRIX_B}")
        base = weights.pop(f"{module}.{BASE}.weight")
        weights[f"{module}.weight"] = base.float().addmm_(b.float(), a.float(), alpha=adapter.scale)
    return {original_name(name): weights.pop(name).to(dtype) for name in list(weights)}


def is_of_adapter(adapter: Adapter | None, name: str) -> bool:
    """Whether a parameter of the model with its matrices is one that `write_adapter` writes."""
    if adapter is None:
        return False
    return is_lora_matrix(name) or any(name.startswith(f"{module}.") for module in adapter.also_trained)


def write_adapter(
    adapter: Adapter, weights: dict[str, Tensor], uri: str, files: Mapping[str, Write] | None = None
) -> None:
    """Write what was trained, alone, as peft does; adapter_config.json last.

    It belongs on the model of `model.path` opened with the config.json that is among `files`, that of the run's
    checkpoint, which has the RoPE. vLLM takes adapters without `also_train` only.

    Args:
        weights: by the names of the model with its matrices, before `fold`; at least those of `is_of_adapter`.
        files: what lies beside them, by its names.
    """
    tensors = {
        f"{_PREFIX}{module}.{key}.weight": weights[f"{module}.{matrix}"]
        for module in adapter.targets
        for key, matrix in (("lora_A", MATRIX_A), ("lora_B", MATRIX_B))
    }
    whole = list(adapter.also_trained)
    for module in adapter.also_trained:
        tensors |= {f"{_PREFIX}{name}": value for name, value in weights.items() if name.startswith(f"{module}.")}
    if adapter.tied and "model.embed_tokens" in whole:
        # peft gives the embedding a copy of its own, and the head would stay with the old one.
        whole.append("lm_head")
        tensors[f"{_PREFIX}lm_head.weight"] = weights["model.embed_tokens.weight"].clone()
    with tempfile.TemporaryDirectory() as directory:
        save_file(tensors, Path(directory, WEIGHTS_FILE), metadata={"format": "pt"})
        for name, write in (files or {}).items():
            write(Path(directory, name))
        storage.delete(storage.join(uri, CONFIG_FILE))
        storage.delete_tree(uri)
        storage.upload_tree(directory, uri)
    storage.write_text(storage.join(uri, CONFIG_FILE), json.dumps(_config(adapter, whole), indent=2) + "\n")


def _config(adapter: Adapter, whole: list[str]) -> dict[str, Any]:
    lora, model = adapter.lora, adapter.model
    return {
        "base_model_name_or_path": model.path,
        "bias": "none",
        "fan_in_fan_out": False,
        "inference_mode": True,
        "lora_alpha": int(lora.alpha) if lora.alpha == int(lora.alpha) else lora.alpha,
        "lora_dropout": 0.0,
        "modules_to_save": whole or None,
        "peft_type": "LORA",
        "r": lora.rank,
        "revision": model.revision,
        "target_modules": list(lora.targets),
        "task_type": "CAUSAL_LM",
        "use_dora": False,
        "use_rslora": False,
    }
