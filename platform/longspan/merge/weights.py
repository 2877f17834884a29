"""The safetensors weights of one Hugging Face directory: names, shapes and types first, one tensor at a time after.

Reads what `merge` averages; sharded and single-file checkpoints look the same from outside.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from longspan.model.weight_files import TensorInfo, read_headers


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
        ConfigError: no safetensors weights, or a shard missing or damaged.
    """
    return Weights(side, directory, read_headers(f"merge: {side}", str(directory)))
