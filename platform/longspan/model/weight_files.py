"""The safetensors weights of a model by their files' headers: names, shapes and types, no tensor.

`checks` compares them with config.json before anything is spent, `merge` averages what they name, and the export of a
quantised model reads the originals again.
"""

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from longspan import storage
from longspan.config.model import Model
from longspan.errors import ConfigError

SINGLE = "model.safetensors"
INDEX = "model.safetensors.index.json"
ITEM_BYTES = {"F64": 8, "F32": 4, "F16": 2, "BF16": 2}
"""Bytes per element of the safetensors types that weights to be trained or averaged can have."""
CONVERT = (
    "where you trust their origin, open them with transformers and write them anew with save_pretrained, which writes"
    " safetensors"
)
# Buffers that transformers once wrote; it computes them from config.json now.
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


def read_headers(where: str, path: str, revision: str | None = None) -> dict[str, TensorInfo]:
    """Every tensor of a model, by name, in the order of its files. On the hub, headers that are not in the cache are
    read by ranges.

    Args:
        where: what messages begin with.
        path: Hugging Face directory (local or s3://) or hub name.
        revision: on the hub.

    Raises:
        ConfigError: no safetensors weights, a file that is missing or damaged, or an index that is no index; says which
            and the mend.
    """
    folder = local_folder(path, revision)
    if folder is None:
        return _hub_headers(where, path, revision)
    tensors: dict[str, TensorInfo] = {}
    for file, names in shard_files(where, folder).items():
        tensors |= _read_header(where, folder / file, names)
    if not tensors:
        raise ConfigError(f"{where}: {folder} holds no tensor; the checkpoint is empty")
    return tensors


def local_folder(path: str, revision: str | None = None) -> Path | None:
    """The directory of a model: itself, the local copy of a remote one, or the cache's of a hub name whose weights it
    has; None where they would have to be fetched.
    """
    if storage.is_remote(path):
        return storage.local_directory(path)
    if Path(path).is_dir():
        return Path(path)
    from huggingface_hub import try_to_load_from_cache

    for name in (SINGLE, INDEX):
        found = try_to_load_from_cache(path, name, revision=revision)
        if isinstance(found, str):
            folder = Path(found).parent
            return folder if all((folder / file).is_file() for file in shard_files("hub", folder)) else None
    return None


def _hub_headers(where: str, name: str, revision: str | None) -> dict[str, TensorInfo]:
    from huggingface_hub import HfApi
    from huggingface_hub.errors import NotASafetensorsRepoError, SafetensorsParsingError

    try:
        found = HfApi().get_safetensors_metadata(name, revision=revision).files_metadata
    except NotASafetensorsRepoError:
        raise ConfigError(f"{where}: '{name}' has no safetensors weights on the hub; {CONVERT}") from None
    except SafetensorsParsingError as error:
        raise ConfigError(f"{where}: '{name}': a file on the hub is damaged ({_line(error)})") from None
    except Exception as error:  # of the network, in the classes of whatever client the hub's library has
        raise ConfigError(f"{where}: cannot read the weights of '{name}' on the hub ({_line(error)})") from None
    return {
        tensor: TensorInfo(file, tuple(info.shape), info.dtype)
        for file, metadata in sorted(found.items())
        for tensor, info in metadata.tensors.items()
        if not tensor.endswith(_NOT_WEIGHTS)
    }


def shard_files(where: str, directory: Path) -> dict[str, set[str] | None]:
    """File names of a checkpoint's weights to the tensor names that each must hold (None: whatever it holds).

    Raises:
        ConfigError: no safetensors weights, or an index that is damaged or points outside the directory.
    """
    if (directory / SINGLE).is_file():
        return {SINGLE: None}
    index = directory / INDEX
    if index.is_file():
        try:
            weight_map = json.loads(index.read_text(encoding="utf-8"))["weight_map"]
            entries = [(str(name), str(file)) for name, file in weight_map.items()]
        except (ValueError, KeyError, TypeError, AttributeError):
            raise ConfigError(f"{where}: {index} is not a safetensors index with a weight_map; copy it again") from None
        files: dict[str, set[str] | None] = {}
        for name, file in sorted(entries, key=lambda entry: (entry[1], entry[0])):
            # The name comes from a file that others may have written.
            if Path(file).name != file or not file.endswith(".safetensors"):
                raise ConfigError(
                    f"{where}: {index} puts {name} into '{file}', which is no safetensors file beside it; fetch the"
                    " model again"
                )
            names = files.setdefault(file, set())
            assert names is not None
            names.add(name)
        return files
    raise ConfigError(f"{where}: {_what_else(directory)}")


def _what_else(directory: Path) -> str:
    """What a directory without safetensors weights holds in their place, and the mend."""
    pickled = sorted([*directory.glob("pytorch_model*.bin*"), *directory.glob("*.pt"), *directory.glob("*.pth")])
    if pickled:
        return f"{pickled[0]} is pickled, which can run code when opened; {CONVERT}"
    other = sorted([*directory.glob("*.gguf"), *directory.glob("*.safetensors"), *directory.glob("*.h5")])
    held = f" (it holds {other[0].name}, in another layout)" if other else ""
    return f"{directory} holds neither {SINGLE} nor {INDEX}{held}; give a Hugging Face model directory"


def _read_header(where: str, path: Path, names: set[str] | None) -> dict[str, TensorInfo]:
    from safetensors import SafetensorError, safe_open

    if not path.is_file():
        raise ConfigError(f"{where}: {path} is missing; the checkpoint is incomplete, fetch the model again")
    try:
        with safe_open(path, framework="pt", device="cpu") as file:
            views = {name: file.get_slice(name) for name in sorted(file.keys())}
            found = {name: TensorInfo(path.name, tuple(v.get_shape()), v.get_dtype()) for name, v in views.items()}
    except (SafetensorError, OSError) as error:
        raise ConfigError(f"{where}: {path} is damaged ({_line(error)}); copy it again") from None
    if names is not None and names - found.keys():
        raise ConfigError(
            f"{where}: {path} does not hold {min(names - found.keys())}, which {INDEX} says it does; fetch the model"
            " again"
        )
    wanted = found.keys() if names is None else names
    return {name: info for name, info in found.items() if name in wanted and not name.endswith(_NOT_WEIGHTS)}


def _line(error: Exception) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0]


def tensor_files(model: Model) -> dict[str, Path]:
    """Tensor name to the local file that holds it; a hub name's files come from the cache that they were loaded from.

    Raises:
        ConfigError: see `read_headers`.
    """
    folder = local_folder(model.path, model.revision)
    if folder is None:
        raise ConfigError(f"model.path: the weights of '{model.path}' are not in the hub's cache any more; fetch them")
    return {name: folder / info.file for name, info in read_headers("model.path", str(folder)).items()}


def read_tensor(files: Mapping[str, Path], name: str) -> Any:
    """One torch.Tensor as its file has it, on the CPU."""
    from safetensors import safe_open

    with safe_open(files[name], framework="pt") as opened:
        return opened.get_tensor(name)


def is_copy(folder: Path, headers: Mapping[str, TensorInfo], name: str, other: str, rows: int = 4096) -> bool:
    """Whether two matrices of a local model hold the same numbers (as float32); reads `rows` rows at a time."""
    import torch
    from safetensors import safe_open

    if not {name, other} <= headers.keys() or headers[name].shape != headers[other].shape:
        return False
    files = [safe_open(folder / headers[each].file, framework="pt") for each in (name, other)]
    with files[0] as one, files[1] as two:
        left, right = one.get_slice(name), two.get_slice(other)
        begins = range(0, left.get_shape()[0], rows)
        return all(torch.equal(left[at : at + rows].float(), right[at : at + rows].float()) for at in begins)
