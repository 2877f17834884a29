"""A model told by content: the same wherever it lies, cheap in a store, and every difference by file and key."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import save_file

from longspan import storage
from longspan.config.model import Lora, Model
from longspan.errors import ConfigError
from longspan.model.identity import identify, identity_digest, model_changes
from tests.s3 import FaultProxy

MEBIBYTE = 1 << 20


@pytest.fixture
def model(tmp_path: Path) -> Path:
    folder = tmp_path / "model"
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps({"model_type": "llama", "rope_parameters": {"rope_theta": 10000}}))
    (folder / "tokenizer.json").write_text("{}")
    (folder / "README.md").write_text("what people read is no part of it")
    save_file({f"w{n}": torch.arange(MEBIBYTE, dtype=torch.float32) + n for n in range(2)}, folder / "a.safetensors")
    return folder


def test_it_is_of_the_content_and_not_of_the_place(model: Path, tmp_path: Path) -> None:
    shutil.copytree(model, tmp_path / "copy")
    (tmp_path / "copy" / "README.md").unlink()
    one, two = identify(Model(path=str(model))), identify(Model(path=str(tmp_path / "copy")))
    assert one == two
    assert identity_digest(one) == identity_digest(json.loads(json.dumps(two)))
    assert model_changes(one, two) == []


def test_in_a_store_it_takes_kilobytes(model: Path, s3_bucket: str, fault_proxy: Callable[..., FaultProxy]) -> None:
    storage.upload_tree(model, f"{s3_bucket}/model")
    proxy = fault_proxy()
    found = identify(Model(path=f"{s3_bucket}/model"))
    assert found == identify(Model(path=str(model)))
    assert proxy.num_body_bytes < 400_000 < 8 * MEBIBYTE
    assert proxy.num_requests <= 12


def test_random_weights_are_of_no_file(model: Path) -> None:
    assert identify(Model(path=str(model), weights="random"))["weights"] == {}


def test_a_frozen_base_is_read_to_its_last_byte_and_a_trained_one_is_not(model: Path) -> None:
    """What is trained wholly comes from the checkpoint; samples of its file tell another model, not another byte."""
    kinds: dict[str, Any] = {"trained": Model(path=str(model)), "frozen": Model(path=str(model), lora=Lora())}
    before = {kind: identify(value) for kind, value in kinds.items()}
    path = model / "a.safetensors"
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)
    assert model_changes(before["trained"], identify(kinds["trained"])) == []
    assert model_changes(before["frozen"], identify(kinds["frozen"])) == ["a.safetensors: other weights"]


def test_other_weights_of_the_same_shapes_are_noticed_without_reading_them_all(model: Path) -> None:
    before = identify(Model(path=str(model)))
    save_file({f"w{n}": torch.arange(MEBIBYTE, dtype=torch.float32) * 1.5 for n in range(2)}, model / "a.safetensors")
    assert model_changes(before, identify(Model(path=str(model)))) == ["a.safetensors: other weights"]


values = st.recursive(
    st.none() | st.booleans() | st.integers(-9, 9) | st.text("abc", max_size=2),
    lambda inner: (
        st.dictionaries(st.text("xyz", min_size=1, max_size=2), inner, max_size=3) | st.lists(inner, max_size=2)
    ),
    max_leaves=6,
)
configs = st.dictionaries(st.text("xyz", min_size=1, max_size=2), values, max_size=4)


@given(configs, configs)
def test_two_configs_differ_exactly_where_it_is_told(old: dict[str, Any], new: dict[str, Any]) -> None:
    told = model_changes({"config": old, "files": {}, "weights": {}}, {"config": new, "files": {}, "weights": {}})
    assert all(change.startswith("config.json: ") for change in told)
    if old == new:
        assert told == []


def test_a_model_of_the_hub_is_its_commit(model: Path) -> None:
    directory, hub = identify(Model(path=str(model))), {"commit": "a" * 40}
    assert identify(Model(path="org/name", revision="a" * 40)) == hub
    assert model_changes(hub, {"commit": "b" * 40}) == [f"revision was {'a' * 40}, is {'b' * 40}"]
    assert model_changes(directory, hub) == ["was a directory, is a hub model"]


@pytest.mark.parametrize("damage", [b"", b"\x00" * 8, b"\xff" * 100, b"\x10" + b"\x00" * 7 + b"short"])
def test_a_weight_file_that_is_none_is_said(model: Path, damage: bytes) -> None:
    (model / "a.safetensors").write_bytes(damage)
    with pytest.raises(
        ConfigError, match=r"^model\.path: .*a\.safetensors is no safetensors file, or was cut off; fetch"
    ):
        identify(Model(path=str(model)))
