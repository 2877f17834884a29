"""The result as a Hugging Face directory: safetensors, RoPE complete in config.json, and what lay beside the source.

It loads in plain transformers and vLLM.
"""

import json
import logging
import shutil
import tempfile
from functools import partial
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from longspan import storage
from longspan.checkpoint.adapter import fold, is_of_adapter, write_adapter
from longspan.checkpoint.beside import Beside
from longspan.model.companions import keeps_code
from longspan.model.limits import GENERATION, Window, move_config_limits, move_limits
from longspan.model.lora import adapter_of, is_lora_matrix
from longspan.rope import ROPE_KEYS, RopeSettings, config_keys, reader_notes

PREFIX = "model."
_logger = logging.getLogger(__name__)


def export_model(
    engine: Any, settings: RopeSettings, dtype: torch.dtype, uri: str, beside: Beside | None = None
) -> None:
    """Write the engine's weights to `uri` (local or s3://) with `settings` as RoPE; every rank must call it, rank 0
    writes, and needs `beside`.

    config.json is written last, so a directory that has one is whole. LoRA's matrices are folded into the weights, and
    also written by themselves, to `adapter` beside `uri`.
    """
    network, beside = engine.module.model, beside or Beside()
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
        trained = {name: value for name, value in weights.items() if is_of_adapter(adapter, name)}
        if adapter is not None:
            weights = fold(adapter, weights, dtype)
        with tempfile.TemporaryDirectory() as folder:
            save_model(network, weights, settings, Path(folder), beside)
            if adapter is not None:
                # On the base's own config.json the adapter would meet a RoPE that it was not trained for.
                config = partial(_copy, Path(folder, "config.json"))
                target = storage.join(storage.absolute(uri).rstrip("/").rpartition("/")[0], "adapter")
                write_adapter(adapter, trained, target, {**beside.adapter_files, "config.json": config})
            publish(Path(folder), uri)
        _tell(network, settings, uri)
    dist.barrier()


def _whole(parameter: Any) -> Tensor:
    """The parameter put together of all ranks' parts: float32 where it is trained, else as it is."""
    import deepspeed
    from deepspeed.utils import safe_get_full_fp32_param

    if parameter.requires_grad:
        return safe_get_full_fp32_param(parameter)
    with deepspeed.zero.GatheredParameters([parameter], enabled=hasattr(parameter, "ds_id")):
        return parameter.detach().cpu().clone()


def write_model(
    network: Any, weights: dict[str, Tensor], settings: RopeSettings, uri: str, beside: Beside | None = None
) -> None:
    """Write `weights` with the config of `network` as a Hugging Face directory."""
    with tempfile.TemporaryDirectory() as folder:
        save_model(network, weights, settings, Path(folder), beside or Beside())
        publish(Path(folder), uri)
    _tell(network, settings, uri)


def save_model(network: Any, weights: dict[str, Tensor], settings: RopeSettings, folder: Path, beside: Beside) -> None:
    """The files of a model in a local folder. A generation_config.json of the source stands in the place of the one
    that transformers makes out of config.json.
    """
    generation = network.generation_config
    # transformers refuses to save settings that it opened without a word (Llama 2's temperature without do_sample).
    network.generation_config = type(generation)()
    try:
        network.save_pretrained(folder, state_dict=weights)
    finally:
        network.generation_config = generation
    text = generation.to_json_string(use_diff=True)
    window = beside.window
    (folder / GENERATION).write_text(text if window is None else move_limits(GENERATION, text, window))
    for name, write in beside.files.items():
        write(folder / name)
    code = {name for name in beside.files if name.endswith(".py")}
    complete_config(folder / "config.json", settings, beside.window, code)


def publish(folder: Path, uri: str) -> None:
    """Put the files of a local folder in the place of what is at `uri`, config.json last."""
    names = sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())
    # First, so that what is there without it is no model; then the rest, which may be half of an earlier attempt.
    storage.delete(storage.join(uri, "config.json"))
    storage.delete_tree(uri)
    for name in [*(n for n in names if n != "config.json"), "config.json"]:
        storage.upload_file(str(folder / name), storage.join(uri, name))


def _tell(network: Any, settings: RopeSettings, uri: str) -> None:
    """Log what the model's readers must be told; its card says it too."""
    for note in reader_notes(settings, network.config.max_position_embeddings):
        _logger.warning("to serve %s: %s", uri, note)


def _copy(source: Path, target: Path) -> None:
    shutil.copyfile(source, target)


def complete_config(
    path: Path, settings: RopeSettings, window: Window | None = None, code: frozenset[str] | set[str] = frozenset()
) -> None:
    """Write `settings`, which may not be those of training, as the RoPE of a config.json, with the keys that its
    readers look for, move its other limits with the window, and turn the cache back on.

    `auto_map` goes unless the `code` (file names) that it names goes along.
    """
    config = json.loads(path.read_text())
    reached = config["max_position_embeddings"]
    config = {key: value for key, value in config.items() if key not in ROPE_KEYS} | config_keys(settings, reached)
    if window is not None:
        config = move_config_limits(config, window)
    if not keeps_code(config, code):
        del config["auto_map"]
    config["torch_dtype"] = config["dtype"]  # its name before transformers 5
    config["use_cache"] = True
    path.write_text(json.dumps(config, indent=2, sort_keys=True) + "\n")
