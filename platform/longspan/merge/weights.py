"""The safetensors weights of one Hugging Face directory: names, shapes and types first, one tensor at a time after.

Reads what `merge` averages; sharded and single-file checkpoints look the same from outside.
"""

import json
import math
from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
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


class Weights:
    """A checkpoint's tensors; a context manager that keeps its files mapped while open.

    Attributes:
        side: how messages name it (`a` or `b`).
        tensors: name to `TensorInfo`, in the order in which the files hold them.

    Raises:
        CheckpointError: no safetensors weights, or a shard missing or damaged.
    """

    def __init__(self, side: str, directory: Path) -> None:
        self.side = side
        self._directory = directory
        self._stack = ExitStack()
        self._files: dict[str, Any] = {}
        self.tensors: Mapping[str, TensorInfo] = {}

    def __enter__(self) -> "Weights":
        try:
            self.tensors = self._open()
        except BaseException:
            self._stack.close()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._files.clear()
        self._stack.close()

    def read(self, name: str) -> Any:
        """The tensor, a torch.Tensor on the CPU; nothing of it is kept here."""
        return self._files[self.tensors[name].file].get_tensor(name)

    def _open(self) -> dict[str, TensorInfo]:
        from safetensors import SafetensorError, safe_open

        promised = shard_files(self.side, self._directory)
        tensors: dict[str, TensorInfo] = {}
        for file, names in promised.items():
            path = self._directory / file
            if not path.is_file():
                raise CheckpointError(f"merge: {self.side}: {path} is missing; the checkpoint is incomplete")
            try:
                opened = self._stack.enter_context(safe_open(path, framework="pt", device="cpu"))
            except (SafetensorError, OSError) as error:
                raise CheckpointError(f"merge: {self.side}: {path} is damaged ({error}); copy it again") from None
            self._files[file] = opened
            found = set(opened.keys())
            if names is not None and names - found:
                raise CheckpointError(
                    f"merge: {self.side}: {path} does not hold {min(names - found)}, which {INDEX} says it does"
                )
            for name in sorted(found if names is None else names):
                if not name.endswith(_NOT_WEIGHTS):
                    view = opened.get_slice(name)
                    tensors[name] = TensorInfo(file, tuple(view.get_shape()), view.get_dtype())
        if not tensors:
            raise CheckpointError(f"merge: {self.side}: {self._directory} holds no tensor; the checkpoint is empty")
        return tensors


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
