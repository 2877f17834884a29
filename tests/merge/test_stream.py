"""Files written tensor by tensor are read back by safetensors, equal to the last bit."""

from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file

from longspan.merge.stream import file_order, write_tensors
from longspan.model.weight_files import TensorInfo

TYPES = {torch.float64: "F64", torch.float32: "F32", torch.bfloat16: "BF16", torch.float16: "F16"}


def infos(tensors: dict[str, torch.Tensor]) -> dict[str, TensorInfo]:
    return {name: TensorInfo("", tuple(value.shape), TYPES[value.dtype]) for name, value in tensors.items()}


def test_every_type_and_shape_comes_back(tmp_path: Path) -> None:
    """Odd numbers of short elements before long ones would leave those unaligned, so they are put behind them."""
    tensors = {
        f"{TYPES[dtype]}{number}": torch.randn(shape, dtype=torch.float64).to(dtype)
        for dtype in reversed(TYPES)
        for number, shape in enumerate([(3,), (), (0, 4), (5, 7)])
    }
    path = tmp_path / "model.safetensors"
    write_tensors(path, infos(tensors), lambda name: tensors[name])
    with safe_open(path, framework="pt") as file:
        assert file.metadata() == {"format": "pt"}
        assert set(file.keys()) == tensors.keys()
        for name, value in tensors.items():
            assert torch.equal(file.get_tensor(name), value)


def test_a_tensor_that_is_a_view_is_written_as_it_looks(tmp_path: Path) -> None:
    view = torch.arange(12.0).reshape(3, 4).T
    write_tensors(tmp_path / "x", infos({"w": view}), lambda name: view)
    with safe_open(tmp_path / "x", framework="pt") as file:
        assert torch.equal(file.get_tensor("w"), view)


@pytest.mark.parametrize("dtype", TYPES)
def test_the_bytes_are_those_of_safetensors_own_writer(tmp_path: Path, dtype: torch.dtype) -> None:
    tensors = {f"layer.{number}": torch.randn(4, 3).to(dtype) for number in range(3)}
    write_tensors(tmp_path / "ours", infos(tensors), lambda name: tensors[name])
    save_file(tensors, tmp_path / "theirs", metadata={"format": "pt"})
    assert (tmp_path / "ours").read_bytes() == (tmp_path / "theirs").read_bytes()


def test_tensors_are_asked_for_one_after_another_in_the_order_of_the_file(tmp_path: Path) -> None:
    tensors = {"b": torch.ones(2).half(), "c": torch.ones(2), "a": torch.ones(2)}
    asked: list[str] = []
    write_tensors(tmp_path / "x", infos(tensors), lambda name: (asked.append(name), tensors[name])[1])
    assert asked == file_order(infos(tensors)) == ["c", "a", "b"]
