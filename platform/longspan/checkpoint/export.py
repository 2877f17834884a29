"""The result as a Hugging Face directory: safetensors, RoPE complete in config.json, tokenizer.

It loads in plain transformers and vLLM.
"""

import json
import logging
import tempfile
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from longspan import storage
from longspan.checkpoint.adapter import fold, write_adapter
from longspan.model.lora import adapter_of, is_lora_matrix
from longspan.rope import ROPE_KEYS, RopeSettings, config_keys, reader_notes

PREFIX = "model."
_logger = logging.getLogger(__name__)


def export_model(engine: Any, settings: RopeSettings, tokenizer: Any, dtype: torch.dtype, uri: str) -> None:
    """Write the engine's weights to `uri` (local or s3://) with `settings` as RoPE; every rank must call it, rank 0
    writes.

    config.json is written last, so a directory that has one is whole. LoRA's matrices are folded into the weights, and
    also written by themselves, to `adapter` beside `uri`.
    """
    network = engine.module.model
    adapter = adapter_of(network)
    weights: dict[str, Tensor] = {}
    for name, parameter in engine.module.named_parameters():
        short = name.removeprefix(PREFIX)
        if adapter is not None and short in adapter.quantised:
            continue  # the files of model.path have it, and better
        value = _whole(parameter)
        if dist.get_rank() == 0:
            kept = torch.float32 if is_lora_matrix(name) else dtype
            weights[short] = value.detach().to(kept).cpu().contiguous()
    if dist.get_rank() == 0:
        if adapter is not None:
            folder = storage.absolute(uri).rstrip("/").rpartition("/")[0]
            write_adapter(adapter, weights, storage.join(folder, "adapter"))
            weights = fold(adapter, weights, dtype)
        write_model(network, weights, settings, tokenizer, uri)
    dist.barrier()


def _whole(parameter: Any) -> Tensor:
    """The parameter put together of all ranks' parts: float32 where it is trained, else as it is."""
    import deepspeed
    from deepspeed.utils import safe_get_full_fp32_param

    if parameter.requires_grad:
        return safe_get_full_fp32_param(parameter)
    with deepspeed.zero.GatheredParameters([parameter], enabled=hasattr(parameter, "ds_id")):
        return parameter.detach().cpu().clone()


def write_model(network: Any, weights: dict[str, Tensor], settings: RopeSettings, tokenizer: Any, uri: str) -> None:
    """Write `weights` with the config of `network` as a Hugging Face directory; logs what its readers must be told."""
    with tempfile.TemporaryDirectory() as directory:
        network.save_pretrained(directory, state_dict=weights)
        if tokenizer is not None:
            tokenizer.save_pretrained(directory)
        complete_config(Path(directory, "config.json"), settings)
        names = sorted(path.name for path in Path(directory).iterdir() if path.is_file())
        # First, so that what is there without it is no model; then the rest, which may be half of an earlier attempt.
        storage.delete(storage.join(uri, "config.json"))
        storage.delete_tree(uri)
        for name in [*(n for n in names if n != "config.json"), "config.json"]:
            storage.upload_file(str(Path(directory, name)), storage.join(uri, name))
    for note in reader_notes(settings, network.config.max_position_embeddings):
        _logger.warning("to serve %s: %s", uri, note)


def complete_config(path: Path, settings: RopeSettings) -> None:
    """Write `settings`, which may not be those of training, as the RoPE of a config.json, with the keys that its
    readers look for, and turn the cache back on.
    """
    config = json.loads(path.read_text())
    window = config["max_position_embeddings"]
    config = {key: value for key, value in config.items() if key not in ROPE_KEYS} | config_keys(settings, window)
    config["use_cache"] = True
    path.write_text(json.dumps(config, indent=2, sort_keys=True) + "\n")
