"""Models by their hub names: headers are read by ranges, and what the hub refuses is one line."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from longspan.config.model import Model
from longspan.errors import ConfigError
from longspan.model.checks import check_model
from longspan.model.load import read_config
from longspan.model.weight_files import read_headers
from tests.hub import serve_hub, use_hub
from tests.tiny import tiny_model_directory

Hub = tuple[Path, list[tuple[str, int]]]


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    root = tmp_path / "hub"
    tiny_model_directory(root / "tiny", vocab_size=4096)
    with serve_hub(root) as (url, requests):
        use_hub(monkeypatch, url, tmp_path / "cache")
        yield root, requests


def planned(name: str, revision: str | None = None) -> None:
    model = Model(path=name, revision=revision, dtype="float32")
    check_model(model, read_config(model))


def test_a_model_is_checked_by_its_headers_not_by_its_weights(hub: Hub) -> None:
    root, requests = hub
    planned("owner/tiny")
    size = (root / "tiny" / "model.safetensors").stat().st_size
    fetched = sum(length for name, length in requests if name.endswith(".safetensors"))
    assert 0 < fetched < size / 4
    assert read_headers("", "owner/tiny") == read_headers("", str(root / "tiny"))


@pytest.mark.parametrize(
    ("name", "revision", "message"),
    [
        (
            "owner/gated",
            None,
            "'owner/gated' is gated on the hub; accept its terms there, and give HF_TOKEN a token that",
        ),
        (
            "owner/absent",
            None,
            "'owner/absent' is no directory here, and no model on the hub that can be seen without a",
        ),
        (
            "owner/tiny",
            "nowhere",
            "'owner/tiny' has no revision 'nowhere' on the hub; give a commit, tag or branch that",
        ),
    ],
)
def test_what_the_hub_refuses_is_one_line(hub: Hub, name: str, revision: str | None, message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        planned(name, revision)
    assert str(caught.value).startswith(f"model.path: {message}")
    assert "\n" not in str(caught.value)


def test_weights_that_the_hub_has_in_another_form_only(hub: Hub) -> None:
    root, _ = hub
    (root / "tiny" / "model.safetensors").rename(root / "tiny" / "pytorch_model.bin")
    with pytest.raises(
        ConfigError, match=r"^model.path: 'owner/tiny' has no safetensors weights on the hub; where you"
    ):
        planned("owner/tiny")


def test_a_hub_that_cannot_be_reached_when_the_weights_are_asked_for(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    config = read_config(Model(path="owner/tiny"))
    use_hub(monkeypatch, "http://127.0.0.1:9")
    with pytest.raises(
        ConfigError, match=r"^model.path: cannot read the weights of 'owner/tiny' on the hub \("
    ) as caught:
        check_model(Model(path="owner/tiny"), config)
    assert "\n" not in str(caught.value)
