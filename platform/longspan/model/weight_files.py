"""Which safetensors file of `model.path` holds which tensor: the quantised model's export reads the originals again."""

import json
from pathlib import Path

import torch

from longspan import storage
from longspan.config.model import Model
from longspan.errors import ConfigError


def tensor_files(model: Model) -> dict[str, Path]:
    """Tensor name to the local file that holds it; a hub name's files come from the cache that they were loaded from.

    Raises:
        ConfigError: there are no safetensors weights.
    """
    from safetensors import safe_open
    from transformers.utils import SAFE_WEIGHTS_INDEX_NAME, SAFE_WEIGHTS_NAME

    index = _local(model, SAFE_WEIGHTS_INDEX_NAME)
    single = _local(model, SAFE_WEIGHTS_NAME)
    if single is None and index is not None:
        places: dict[str, str] = json.loads(index.read_text(encoding="utf-8"))["weight_map"]
        files = {file: _local(model, file) for file in sorted(set(places.values()))}
        missing = [file for file, path in files.items() if path is None]
        if missing:
            raise ConfigError(f"model.path: '{model.path}' lacks {missing[0]}; fetch the model again")
        return {name: path for name, file in places.items() if (path := files[file]) is not None}
    if single is None:
        raise ConfigError(f"model.path: '{model.path}' has no safetensors weights")
    with safe_open(single, framework="pt") as opened:
        return dict.fromkeys(opened.keys(), single)


def read_tensor(files: dict[str, Path], name: str) -> torch.Tensor:
    """One tensor as its file has it, on the CPU."""
    from safetensors import safe_open

    with safe_open(files[name], framework="pt") as opened:
        return opened.get_tensor(name)


def _local(model: Model, file: str) -> Path | None:
    from transformers.utils import cached_file

    where = str(storage.local_directory(model.path)) if storage.is_remote(model.path) else model.path
    found = cached_file(where, file, revision=model.revision, _raise_exceptions_for_missing_entries=False)
    return None if found is None else Path(found)
