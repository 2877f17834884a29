"""theta = (1 - weight) * A + weight * B, tensor by tensor, into a standard Hugging Face directory.

The last stage of LongRecipe (2409.00509, section 4), where A is the original and B the extended and replayed model.
Called by the command line and by `recipes`; reads and writes whole directories, local or on S3.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from longspan import storage
from longspan.checkpoint.card import as_file, merge_card, origin_of
from longspan.errors import CheckpointError, ConfigError
from longspan.merge import compatible
from longspan.merge.output import Put, check_free, new_directory
from longspan.merge.stream import write_tensors
from longspan.merge.vocabulary import Rows, match_vocabularies
from longspan.merge.weights import Weights, open_weights
from longspan.model.companions import companions
from longspan.model.limits import Window
from longspan.model.weight_files import INDEX, ITEM_BYTES, SINGLE, TensorInfo
from longspan.rope import from_hf, reader_notes

SHARD_BYTES = 2 << 30
"""Bytes of weights in one output file."""
CHUNK_ELEMENTS = 1 << 20
"""Elements averaged at once in float32 (4 MiB a side)."""
DTYPES = {"float32": "F32", "bfloat16": "BF16", "float16": "F16"}
TOKEN_KEYS = ("vocab_size", "bos_token_id", "eos_token_id", "pad_token_id")
"""config.json keys that go with the vocabulary."""


def merge_checkpoints(
    a: str,
    b: str,
    output: str,
    *,
    weight: float = 0.5,
    rope: str | None = None,
    vocabulary: str | None = None,
    dtype: str | None = None,
    shard_bytes: int = SHARD_BYTES,
) -> dict[str, Any]:
    """Write (1 - weight) * a + weight * b to `output`.

    Args:
        a, b: Hugging Face directories with safetensors weights, local or s3://; the original and the extended model.
        output: directory to make, local or s3://; must be absent or empty.
        weight: share of B in the result, in [0, 1]: 0 gives a, 1 gives b, 0.5 is LongRecipe's plain average.
        rope: `a` or `b`, the side whose config.json (RoPE, max_position_embeddings, sliding window) and tokenizer the
            result keeps; needed only where the two differ.
        vocabulary: `a` or `b`, the side whose tokens (and tokenizer) the result keeps; needed only where the two
            differ. Rows of tokens that the other side has too are averaged, the others are this side's.
        dtype: `float32`, `bfloat16` or `float16`; the tensors' own when left out. The average is computed in float32.
        shard_bytes: most bytes of weights in one file.

    Returns:
        {a, b, output, weight, rope, vocabulary (None where both are alike), dtype, tensors, parameters, bytes, files}.

    Raises:
        HeldError: another driver writes to the output; LeaseLostError: one has taken it over.
        ConfigError: an argument out of range, an output that is not empty, RoPE settings that differ without `rope`, or
            vocabularies that differ without `vocabulary`.
        CheckpointError: the two cannot be averaged (see `merge.compatible`), one is incomplete or not safetensors, or a
            tensor of the result is not finite.
        StorageError: something cannot be read or written.
    """
    _check_arguments(weight, rope, vocabulary, dtype)
    with storage.hold(output, "merge"):
        return _merge(a, b, output, weight, rope, vocabulary, dtype, shard_bytes)


def _merge(
    a: str,
    b: str,
    output: str,
    weight: float,
    rope: str | None,
    vocabulary: str | None,
    dtype: str | None,
    shard_bytes: int,
) -> dict[str, Any]:
    check_free(output)
    directories = (_directory("a", a), _directory("b", b))
    configs = (compatible.read_config("a", directories[0]), compatible.read_config("b", directories[1]))
    compatible.check_architecture(*configs)
    rows = match_vocabularies(directories, configs, vocabulary)
    kept = compatible.choose_side(*configs, rope)
    mix = _open_mix(directories, bool(configs[0].get("tie_word_embeddings")), weight, dtype, rows)
    shards = plan_shards({name: info.num_bytes for name, info in mix.result.items()}, shard_bytes)
    with new_directory(output) as put:
        _write_weights(put, mix, shards)
        card = _card(output, (a, b), directories, configs, kept, mix)
        _write_companions(put, directories, configs, kept, mix, card)
    return {
        "a": a,
        "b": b,
        "output": output,
        "weight": weight,
        "rope": kept,
        "vocabulary": None if rows is None else rows.side,
        "dtype": mix.dtype,
        "tensors": len(mix.result),
        "parameters": mix.num_parameters,
        "bytes": mix.num_bytes,
        "files": len(shards),
    }


def _check_arguments(weight: float, rope: str | None, vocabulary: str | None, dtype: str | None) -> None:
    if not 0 <= weight <= 1:
        raise ConfigError(f"merge: --weight {weight}: must be in [0, 1], the share of b in the result")
    if rope not in (None, "a", "b"):
        raise ConfigError(f"merge: --rope {rope}: must be a or b, the side whose RoPE settings the result keeps")
    if vocabulary not in (None, "a", "b"):
        raise ConfigError(f"merge: --vocabulary {vocabulary}: must be a or b, the side whose tokens the result keeps")
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


@dataclass(frozen=True)
class Mix:
    """(1 - weight) * a + weight * b, by `rows` where the vocabularies differ; `result` is what each tensor becomes."""

    a: Weights
    b: Weights
    weight: float
    rows: Rows | None
    result: Mapping[str, TensorInfo]

    @property
    def num_parameters(self) -> int:
        return sum(info.num_elements for info in self.result.values())

    @property
    def num_bytes(self) -> int:
        return sum(info.num_bytes for info in self.result.values())

    @property
    def dtype(self) -> str:
        """torch's name of the result's type; the widest where tensors differ (norms kept in float32)."""
        return _torch_name(max((info.dtype for info in self.result.values()), key=ITEM_BYTES.__getitem__))

    def tensor(self, name: str) -> Any:
        """The averaged tensor; one tensor of each side is held for it.

        Raises:
            CheckpointError: it is not finite: an input is not, or the type is too narrow.
        """
        import torch

        dtype = self.result[name].dtype
        if self.rows is not None and name in (compatible.HEAD, compatible.EMBEDDING):
            result = _average_rows(self.a.read(name), self.b.read(name), self.weight, dtype, self.rows)
        else:
            result = average(self.a.read(name), self.b.read(name), self.weight, dtype)
        if not torch.isfinite(result).all():
            wider = (
                " or too large for float16; try bfloat16 (--dtype, in a pipeline's stage dtype)"
                if dtype == "F16"
                else ""
            )
            raise CheckpointError(
                f"merge: tensor {name} of the result is not finite: that of a or b is damaged or diverged{wider}"
            )
        return result


def _average_rows(a: Any, b: Any, weight: float, dtype: str, rows: Rows) -> Any:
    import torch

    other = torch.from_numpy(rows.other)
    shared = other >= 0
    mine, theirs = (a, b) if rows.side == "a" else (b, a)
    result = mine.to(_torch_dtype(dtype), copy=True)
    both = (mine[shared], theirs[other[shared]])
    result[shared] = average(*(both if rows.side == "a" else both[::-1]), weight, dtype)
    return result


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


def _open_mix(directories: tuple[Path, Path], tied: bool, weight: float, dtype: str | None, rows: Rows | None) -> Mix:
    """The two checkpoints, checked tensor by tensor, and what becomes of each."""
    a, b = open_weights("a", directories[0]), open_weights("b", directories[1])
    result = {}
    for name in compatible.check_tensors(a, b, tied, by_token=rows is not None):
        like = (b if rows is not None and rows.side == "b" else a).tensors[name]
        result[name] = replace(like, dtype=_result_type(name, a.tensors[name], b.tensors[name], dtype))
    return Mix(a, b, weight, rows, result)


def _result_type(name: str, a: TensorInfo, b: TensorInfo, dtype: str | None) -> str:
    if dtype is not None:
        return DTYPES[dtype]
    if a.dtype != b.dtype:
        raise ConfigError(
            f"merge: tensor {name} is {a.dtype} in a and {b.dtype} in b; say the result's type, for example bfloat16"
            " (--dtype, in a pipeline's stage dtype)"
        )
    return a.dtype


def _write_weights(put: Put, mix: Mix, shards: list[list[str]]) -> None:
    weight_map: dict[str, str] = {}
    for number, names in enumerate(shards, start=1):
        file = SINGLE if len(shards) == 1 else f"model-{number:05d}-of-{len(shards):05d}.safetensors"
        weight_map |= dict.fromkeys(names, file)

        def write(path: Path, names: list[str] = names) -> None:
            write_tensors(path, {name: mix.result[name] for name in names}, mix.tensor)

        put(file, write)
    if len(shards) > 1:
        totals = {"total_parameters": mix.num_parameters, "total_size": mix.num_bytes}
        index = {"metadata": totals, "weight_map": weight_map}
        put(INDEX, lambda path: _write_json(path, index))


def _write_companions(
    put: Put,
    directories: tuple[Path, Path],
    configs: tuple[dict[str, Any], dict[str, Any]],
    kept: str,
    mix: Mix,
    card: str,
) -> None:
    """The companion files of the side whose vocabulary is kept, else of the one whose config.json is; then that
    config.json with the type of the weights and those tokens: the file that makes it a model.
    """
    position, speaker = "ab".index(kept), "ab".index(kept if mix.rows is None else mix.rows.side)
    window = Window(*(configs[side]["max_position_embeddings"] for side in (speaker, position)))
    for name, write in {**companions(directories[speaker], window), **as_file(card)}.items():
        put(name, write)
    config, tokens = _config(directories[position]), _config(directories[speaker])
    config |= {key: tokens[key] for key in TOKEN_KEYS if key in tokens}
    config.pop("auto_map", None)  # its code is a stranger's and stays behind
    # Both names: transformers 5 reads the first, older readers the second.
    config["dtype"] = config["torch_dtype"] = mix.dtype
    put("config.json", lambda path: _write_json(path, config))


def _card(
    output: str,
    paths: tuple[str, str],
    directories: tuple[Path, Path],
    configs: tuple[dict[str, Any], dict[str, Any]],
    kept: str,
    mix: Mix,
) -> str:
    config = configs["ab".index(kept)]
    origins = {side: origin_of(paths[i], None, directories[i]) for i, side in enumerate("ab")}
    choices = [("weight of b", f"{mix.weight:g}"), ("RoPE of", kept)]
    choices += [] if mix.rows is None else [("vocabulary of", mix.rows.side)]
    settings, window = from_hf(config), config["max_position_embeddings"]
    rows = [*choices, ("type of the weights", mix.dtype), ("parameters", f"{mix.num_parameters:,}")]
    name = Path(output.rstrip("/").removesuffix("/checkpoint")).name
    return merge_card(name, origins, settings, window, rows, reader_notes(settings, window))


def _config(directory: Path) -> dict[str, Any]:
    config: dict[str, Any] = json.loads((directory / "config.json").read_text(encoding="utf-8"))
    return config


def _write_json(path: Path, value: Any) -> None:
    path.write_text(json.dumps(value, indent=2, sort_keys=True) + "\n", encoding="utf-8")


def _torch_name(dtype: str) -> str:
    return {"F64": "float64", "F32": "float32", "BF16": "bfloat16", "F16": "float16"}[dtype]


def _torch_dtype(dtype: str) -> Any:
    import torch

    return getattr(torch, _torch_name(dtype))
