"""theta = (1 - weight) * A + weight * B, tensor by tensor, into a standard Hugging Face directory.

The last stage of LongRecipe (2409.00509, section 4), where A is the original and B the extended and replayed model.
Called by the command line and by `recipes`; reads and writes whole directories, local or on S3.
"""

import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from longspan import storage
from longspan.errors import CheckpointError, ConfigError
from longspan.merge import compatible
from longspan.merge.output import Put, check_free, new_directory
from longspan.merge.weights import INDEX, ITEM_BYTES, SINGLE, TensorInfo, Weights

SHARD_BYTES = 2 << 30
"""Bytes of weights in one output file, and so about what a merge holds in memory."""
CHUNK_ELEMENTS = 1 << 24
"""Elements averaged at once in float32 (64 MiB a side)."""
DTYPES = {"float32": "F32", "bfloat16": "BF16", "float16": "F16"}
COMPANIONS = (
    "generation_config.json",
    "tokenizer.json",
    "tokenizer_config.json",
    "tokenizer.model",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.json",
    "vocab.txt",
    "merges.txt",
    "chat_template.jinja",
    "chat_template.json",
)
"""Files that go along unchanged from the side whose config.json is kept."""


def merge_checkpoints(
    a: str,
    b: str,
    output: str,
    *,
    weight: float = 0.5,
    rope: str | None = None,
    dtype: str | None = None,
    shard_bytes: int = SHARD_BYTES,
) -> dict[str, Any]:
    """Write (1 - weight) * a + weight * b to `output`.

    Args:
        a, b: Hugging Face directories with safetensors weights, local or s3://; LongRecipe's original and extended
            model.
        output: directory to make, local or s3://; must be absent or empty.
        weight: share of B in the result, in [0, 1]: 0 gives a, 1 gives b, 0.5 is LongRecipe's plain average.
        rope: `a` or `b`, the side whose config.json (RoPE, max_position_embeddings, sliding window) and tokenizer the
            result keeps; needed only where the two differ.
        dtype: `float32`, `bfloat16` or `float16` of the result; the tensors' own type when left out. The average itself
            is computed in float32.
        shard_bytes: most bytes of weights in one file.

    Returns:
        {a, b, output, weight, rope, dtype, tensors, parameters, bytes, files}, JSON-able.

    Raises:
        ConfigError: an argument out of range, an output that is not empty, or RoPE settings that differ without `rope`.
        CheckpointError: the two cannot be averaged (see `merge.compatible`), or one is incomplete or not safetensors.
        StorageError: something cannot be read or written.
    """
    _check_arguments(weight, rope, dtype)
    check_free(output)
    directories = [_directory(side, uri) for side, uri in (("a", a), ("b", b))]
    configs = [compatible.read_config(side, directory) for side, directory in zip("ab", directories, strict=True)]
    compatible.check_architecture(configs[0], configs[1])
    compatible.check_vocabulary(directories[0], directories[1])
    kept = compatible.choose_side(configs[0], configs[1], rope)
    with Weights("a", directories[0]) as from_a, Weights("b", directories[1]) as from_b:
        names = compatible.check_tensors(from_a, from_b, bool(configs[0].get("tie_word_embeddings")))
        types = {name: _result_type(name, from_a.tensors[name], from_b.tensors[name], dtype) for name in names}
        sizes = {name: from_a.tensors[name].num_elements * ITEM_BYTES[types[name]] for name in names}
        shards = plan_shards(sizes, shard_bytes)
        with new_directory(output) as put:
            _write_weights(put, from_a, from_b, weight, types, shards, sum(sizes.values()))
            _write_companions(put, directories["ab".index(kept)], set(types.values()))
    return {
        "a": a,
        "b": b,
        "output": output,
        "weight": weight,
        "rope": kept,
        "dtype": _torch_name(set(types.values())),
        "tensors": len(names),
        "parameters": sum(from_a.tensors[name].num_elements for name in names),
        "bytes": sum(sizes.values()),
        "files": len(shards),
    }


def _check_arguments(weight: float, rope: str | None, dtype: str | None) -> None:
    if not 0 <= weight <= 1:
        raise ConfigError(f"merge: --weight {weight}: must be in [0, 1], the share of b in the result")
    if rope not in (None, "a", "b"):
        raise ConfigError(f"merge: --rope {rope}: must be a or b, the side whose RoPE settings the result keeps")
    if dtype is not None and dtype not in DTYPES:
        raise ConfigError(f"merge: --dtype {dtype}: must be one of {', '.join(DTYPES)}")


def average(a: Any, b: Any, weight: float, dtype: str) -> Any:
    """(1 - weight) * a + weight * b of two equally shaped torch tensors, in float32, as safetensors type `dtype`.

    Works through the tensors in chunks: beside the result only a few tens of MiB are held in float32.
    """
    import torch

    result = torch.empty(a.shape, dtype=_torch_dtype(dtype))
    # float64 in gives float64 arithmetic; everything else is widened to float32.
    wide = torch.float64 if dtype == "F64" else torch.float32
    flat_a, flat_b, flat = a.reshape(-1), b.reshape(-1), result.view(-1)
    for start in range(0, flat.numel(), CHUNK_ELEMENTS):
        part = slice(start, start + CHUNK_ELEMENTS)
        flat[part] = flat_a[part].to(wide) * (1 - weight) + flat_b[part].to(wide) * weight
    return result


def averaged(
    a: Weights, b: Weights, weight: float, types: Mapping[str, str], names: Sequence[str]
) -> Iterator[tuple[str, Any]]:
    """Name and averaged tensor, one after another; at any time one tensor of each side is held."""
    for name in names:
        yield name, average(a.read(name), b.read(name), weight, types[name])


def plan_shards(sizes: Mapping[str, int], shard_bytes: int) -> list[list[str]]:
    """Tensor names in order, cut into files of at most `shard_bytes`; a larger tensor has a file of its own.

    Raises ConfigError for `shard_bytes` below 1.
    """
    if shard_bytes < 1:
        raise ConfigError(f"merge: shard_bytes {shard_bytes}: must be at least 1")
    shards: list[list[str]] = []
    room = 0
    for name, size in sizes.items():
        if not shards or size > room:
            shards.append([])
            room = shard_bytes
        shards[-1].append(name)
        room -= size
    return shards


def _directory(side: str, uri: str) -> Path:
    if storage.is_remote(uri):
        if not storage.exists(storage.join(uri, "config.json")):
            raise CheckpointError(f"merge: {side}: {uri} has no config.json; give a Hugging Face model directory")
        return Path(storage.local_directory(uri))
    path = Path(storage.absolute(uri))
    if not path.is_dir():
        raise CheckpointError(f"merge: {side}: {uri} is no directory; give a Hugging Face model directory")
    return path


def _result_type(name: str, a: TensorInfo, b: TensorInfo, dtype: str | None) -> str:
    if dtype is not None:
        return DTYPES[dtype]
    if a.dtype != b.dtype:
        raise ConfigError(
            f"merge: tensor {name} is {a.dtype} in a and {b.dtype} in b; say --dtype bfloat16 or another for the result"
        )
    return a.dtype


def _write_weights(
    put: Put, a: Weights, b: Weights, weight: float, types: Mapping[str, str], shards: list[list[str]], total: int
) -> None:
    from safetensors.torch import save_file

    weight_map: dict[str, str] = {}
    for number, names in enumerate(shards, start=1):
        file = SINGLE if len(shards) == 1 else f"model-{number:05d}-of-{len(shards):05d}.safetensors"
        weight_map |= dict.fromkeys(names, file)

        def write(path: Path, names: list[str] = names) -> None:
            save_file(dict(averaged(a, b, weight, types, names)), path, metadata={"format": "pt"})

        put(file, write)
    if len(shards) > 1:
        parameters = sum(a.tensors[name].num_elements for name in weight_map)
        index = {"metadata": {"total_parameters": parameters, "total_size": total}, "weight_map": weight_map}
        put(INDEX, lambda path: _write_json(path, index))


def _write_companions(put: Put, directory: Path, types: set[str]) -> None:
    """Tokenizer and generation files, then config.json with the type of the weights: the file that makes it a model."""
    for name in COMPANIONS:
        source = directory / name
        if source.is_file():
            content = source.read_bytes()
            put(name, lambda path, content=content: _write_bytes(path, content))  # type: ignore[misc]
    config = json.loads((directory / "config.json").read_text(encoding="utf-8"))
    # Both names: transformers 5 reads the first, older readers the second.
    config["dtype"] = config["torch_dtype"] = _torch_name(types)
    put("config.json", lambda path: _write_json(path, config))


def _write_json(path: Path, value: Any) -> None:
    path.write_text(json.dumps(value, indent=2, sort_keys=True) + "\n", encoding="utf-8")


def _write_bytes(path: Path, content: bytes) -> None:
    path.write_bytes(content)


def _torch_name(types: set[str]) -> str:
    """Name of the result's type; the widest where tensors differ (norms kept in float32)."""
    names = {"F64": "float64", "F32": "float32", "BF16": "bfloat16", "F16": "float16"}
    return names[max(types, key=lambda kind: ITEM_BYTES[kind])]


def _torch_dtype(dtype: str) -> Any:
    import torch

    return getattr(torch, _torch_name({dtype}))
