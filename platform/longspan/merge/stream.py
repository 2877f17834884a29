"""A safetensors file written tensor by tensor: the header says beforehand what comes, so nothing waits for the rest.

`merge` writes its result with it. safetensors' own writer takes all tensors of a file at once.
"""

import json
import struct
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from longspan.model.weight_files import ITEM_BYTES, TensorInfo


def file_order(infos: Mapping[str, TensorInfo]) -> list[str]:
    """Names by falling size of an element, then as given: so that every tensor is aligned to its own elements."""
    return sorted(infos, key=lambda name: -ITEM_BYTES[infos[name].dtype])


def write_tensors(path: Path, infos: Mapping[str, TensorInfo], make: Callable[[str], Any]) -> None:
    """Write a safetensors file, holding one tensor at a time.

    Args:
        infos: type and shape of every tensor of the file (their own `file` is no matter).
        make: name -> the torch tensor on the CPU, of that type and shape; called once for each, in `file_order`.

    Raises:
        OSError: the file cannot be written.
    """
    import torch

    names = file_order(infos)
    with path.open("wb") as file:
        file.write(_header(infos, names))
        for name in names:
            tensor = make(name)
            if tensor.numel():
                file.write(memoryview(tensor.contiguous().reshape(-1).view(torch.uint8).numpy()))
            del tensor


def _header(infos: Mapping[str, TensorInfo], names: Sequence[str]) -> bytes:
    """Length and JSON of a safetensors header, padded so that the data begins at a multiple of 8 bytes."""
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    end = 0
    for name in names:
        begin, end = end, end + infos[name].num_bytes
        header[name] = {"dtype": infos[name].dtype, "shape": list(infos[name].shape), "data_offsets": [begin, end]}
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    return struct.pack("<Q", len(text)) + text
