"""The result as a Hugging Face directory: safetensors, RoPE complete in config.json, tokenizer.

It loads in plain transformers and vLLM.
"""

import json
import tempfile
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from longspan import storage
from longspan.rope import RopeSettings, legacy_keys

PREFIX = "model."


def export_model(engine: Any, settings: RopeSettings, tokenizer: Any, dtype: torch.dtype, uri: str) -> None:
    """Write the engine's weights to `uri` (local or s3://); every rank must call it, rank 0 writes.

    config.json is written last, so a directory that has one is whole.
    """
    from deepspeed.utils import safe_get_full_fp32_param

    weights: dict[str, Tensor] = {}
    for name, parameter in engine.module.named_parameters():
        value = safe_get_full_fp32_param(parameter)
        if dist.get_rank() == 0:
            weights[name.removeprefix(PREFIX)] = value.detach().to(dtype).cpu().contiguous()
    if dist.get_rank() == 0:
        write_model(engine.module.model, weights, settings, tokenizer, uri)
    dist.barrier()


def write_model(network: Any, weights: dict[str, Tensor], settings: RopeSettings, tokenizer: Any, uri: str) -> None:
    """Write `weights` with the config of `network` as a Hugging Face directory."""
    with tempfile.TemporaryDirectory() as directory:
        network.save_pretrained(directory, state_dict=weights)
        if tokenizer is not None:
            tokenizer.save_pretrained(directory)
        complete_config(Path(directory, "config.json"), settings)
        names = sorted(path.name for path in Path(directory).iterdir() if path.is_file())
        storage.delete(storage.join(uri, "config.json"))
        for name in [*(n for n in names if n != "config.json"), "config.json"]:
            storage.upload_file(str(Path(directory, name)), storage.join(uri, name))


def complete_config(path: Path, settings: RopeSettings) -> None:
    """Add the RoPE keys that readers older than transformers 5 look for, and turn the cache back on."""
    config = json.loads(path.read_text())
    config |= legacy_keys(settings)
    config["use_cache"] = True
    path.write_text(json.dumps(config, indent=2, sort_keys=True) + "\n")
