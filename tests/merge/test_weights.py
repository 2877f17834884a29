"""Checkpoints that are missing, incomplete, damaged or pickled are refused by file."""

import json
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import save_file

from longspan.errors import CheckpointError, ConfigError
from longspan.merge import merge_checkpoints
from longspan.merge.weights import open_weights
from longspan.model.weight_files import INDEX, SINGLE


def refused(directory: Path) -> str:
    with pytest.raises(ConfigError) as caught:
        open_weights("b", directory)
    assert "\n" not in str(caught.value)
    assert "b: " in str(caught.value)
    return str(caught.value)


def shard(directory: Path, weight_map: dict[str, Any]) -> None:
    """Turn a single file into a sharded checkpoint with this index."""
    (directory / SINGLE).rename(directory / "model-00001-of-00001.safetensors")
    (directory / INDEX).write_text(json.dumps({"weight_map": weight_map}))


def test_lists_tensors_without_reading_them(pair: tuple[Path, Path]) -> None:
    weights = open_weights("a", pair[0])
    info = weights.tensors["lm_head.weight"]
    assert (info.file, info.shape, info.dtype, info.num_bytes) == (SINGLE, (64, 32), "F32", 8192)
    assert weights.read("lm_head.weight").shape == (64, 32)


def test_a_missing_directory_and_missing_files(pair: tuple[Path, Path], tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"a: .*nowhere is no directory"):
        merge_checkpoints(str(tmp_path / "nowhere"), str(pair[1]), str(tmp_path / "out"))
    (pair[0] / "config.json").unlink()
    with pytest.raises(CheckpointError, match=r"a: .* has no config.json"):
        merge_checkpoints(*map(str, pair), str(tmp_path / "out"))
    (pair[0] / "adapter_config.json").write_text("{}")
    with pytest.raises(CheckpointError, match=r"a: .* it is an adapter; give the model that it is folded into"):
        merge_checkpoints(str(pair[0]), str(pair[1]), str(tmp_path / "out"))
    (pair[1] / SINGLE).unlink()
    assert f"holds neither {SINGLE} nor {INDEX}" in refused(pair[1])


@pytest.mark.parametrize("name", ["pytorch_model.bin", "pytorch_model-00001-of-00002.bin", "consolidated.00.pth"])
def test_pickled_weights(pair: tuple[Path, Path], name: str) -> None:
    (pair[1] / SINGLE).rename(pair[1] / name)
    assert f"{name} is pickled" in refused(pair[1])


def test_a_damaged_file(pair: tuple[Path, Path]) -> None:
    data = (pair[1] / SINGLE).read_bytes()
    (pair[1] / SINGLE).write_bytes(data[:-10])
    assert f"{SINGLE} is damaged" in refused(pair[1])


def test_a_file_without_tensors(pair: tuple[Path, Path]) -> None:
    save_file({}, pair[1] / SINGLE)
    assert "holds no tensor" in refused(pair[1])


def test_a_missing_shard_and_a_tensor_that_is_not_in_its_shard(pair: tuple[Path, Path]) -> None:
    first = "model-00001-of-00001.safetensors"
    shard(pair[1], {"lm_head.weight": first, "model.norm.weight": "model-00002-of-00002.safetensors"})
    assert "model-00002-of-00002.safetensors is missing" in refused(pair[1])
    (pair[1] / INDEX).write_text(json.dumps({"weight_map": {"lm_head.weight": first, "ghost": first}}))
    assert f"{first} does not hold ghost" in refused(pair[1])


@pytest.mark.parametrize("file", ["../a/model.safetensors", "/etc/passwd", "weights.bin"])
def test_an_index_that_points_elsewhere(pair: tuple[Path, Path], file: str) -> None:
    shard(pair[1], {"lm_head.weight": file})
    assert f"puts lm_head.weight into '{file}'" in refused(pair[1])


@pytest.mark.parametrize("index", ["no json", "[]", '{"weight_map": 3}'])
def test_an_index_that_is_none(pair: tuple[Path, Path], index: str) -> None:
    shard(pair[1], {})
    (pair[1] / INDEX).write_text(index)
    assert "is not a safetensors index with a weight_map" in refused(pair[1])
