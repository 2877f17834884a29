"""The safetensors weights of one Hugging Face directory: names, shapes and types first, one tensor at a time after.

Reads what `merge` averages; sharded and single-file checkpoints look the same from outside.
"""

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from longspan.errors import CheckpointError

SINGLE = "model.safetensors"
INDEX = "model.safetensors.index.json"
ITEM_BYTES = {"F64": 8, "F32": 4, "F16": 2, "BF16": 2}
"""Bytes per element of the safetensors types that can be averaged."""
# Buffers that transformers once wrote; it computes them from config.json now, and they are not to be averaged.
_NOT_WEIGHTS = "rotary_emb.inv_freq"


@dataclass(frozen=True)
class TensorInfo:
    """Where a tensor lies (file name), its shape, and its safetensors type (`BF16`, `F32`, ...)."""

    file: str
    shape: tuple[int, ...]
    dtype: str

    @property
    def num_elements(self) -> int:
        return math.prod(self.shape)

    @property
    def num_bytes(self) -> int:
        return self.num_elements * ITEM_BYTES[self.dtype]


@dataclass(frozen=True)
class Weights:
    """A checkpoint's tensors, each read by itself.

    Attributes:
        side: how messages name it (`a` or `b`).
        tensors: name to `TensorInfo`, in the order in which the files hold them.
    """

    side: str
    directory: Path
    tensors: Mapping[str, TensorInfo]

    def read(self, name: str) -> Any:
        """The tensor, a torch.Tensor on the CPU. Its file is mapped as long as the tensor lives, so that the pages of
        those before count no longer as this process's memory.
        """
        from safetensors import safe_open

        with safe_open(self.directory / self.tensors[name].file, framework="pt", device="cpu") as file:
            return file.get_tensor(name)


def open_weights(side: str, directory: Path) -> Weights:
    """What the checkpoint in a directory holds, by its files' headers.

    Raises:
        CheckpointError: no safetensors weights, or a shard missing or damaged.
    """
    tensors: dict[str, TensorInfo] = {}
    for file, names in shard_files(side, directory).items():
        tensors |= _read_header(side, directory / file, names)
    if not tensors:
        raise CheckpointError(f"merge: {side}: {directory} holds no tensor; the checkpoint is empty")
    return Weights(side, directory, tensors)


def _read_header(side: str, path: Path, names: set[str] | None) -> dict[str, TensorInfo]:
    from safetensors import SafetensorError, safe_open

    if not path.is_file():
        raise CheckpointError(f"merge: {side}: {path} is missing; the checkpoint is incomplete")
    try:
        with safe_open(path, framework="pt", device="cpu") as file:
            views = {name: file.get_slice(name) for name in sorted(file.keys())}
            found = {name: TensorInfo(path.name, tuple(v.get_shape()), v.get_dtype()) for name, v in views.items()}
    except (SafetensorError, OSError) as error:
        raise CheckpointError(f"merge: {side}: {path} is damaged ({error}); copy it again") from None
    if names is not None and names - found.keys():
        raise CheckpointError(
            f"merge: {side}: {path} does not hold {min(names - found.keys())}, which {INDEX} says it does"
        )
    wanted = found.keys() if names is None else names
    return {name: info for name, info in found.items() if name in wanted and not name.endswith(_NOT_WEIGHTS)}


def shard_files(side: str, directory: Path) -> dict[str, set[str] | None]:
    """File names of a checkpoint's weights to the tensor names that each must hold (None: whatever it holds).

    Raises:
        CheckpointError: no safetensors weights, or an index that is damaged or points outside the directory.
    """
    if (directory / SINGLE).is_file():
        return {SINGLE: None}
    index = directory / INDEX
    if index.is_file():
        try:
            weight_map = json.loads(index.read_text(encoding="utf-8"))["weight_map"]
            entries = [(str(name), str(file)) for name, file in weight_map.items()]
        except (ValueError, KeyError, TypeError, AttributeError):
            raise CheckpointError(f"merge: {side}: {index} is not a safetensors index with a weight_map") from None
        files: dict[str, set[str] | None] = {}
        for name, file in sorted(entries, key=lambda entry: (entry[1], entry[0])):
            # The name comes from a file that others may have written.
            if Path(file).name != file or not file.endswith(".safetensors"):
                raise CheckpointError(
                    f"merge: {side}: {index} puts {name} into '{file}', which is no safetensors file beside it"
                )
            names = files.setdefault(file, set())
            assert names is not None
            names.add(name)
        return files
    pickled = sorted([*directory.glob("pytorch_model*.bin*"), *directory.glob("*.pt"), *directory.glob("*.pth")])
    if pickled:
        raise CheckpointError(
            f"merge: {side}: {pickled[0]} is pickled, which can run code when opened; convert the weights to"
            " safetensors (save_pretrained of a current transformers does)"
        )
    raise CheckpointError(
        f"merge: {side}: {directory} holds neither {SINGLE} nor {INDEX}; give a Hugging Face model directory"
    )
