"""Which files go along with a model, and that they go byte for byte."""

import json
import logging
from pathlib import Path

import pytest

from longspan import storage
from longspan.checkpoint.card import Origin, origin_of
from longspan.errors import ConfigError
from longspan.model import companions as module
from longspan.model.companions import (
    companion_names,
    companions,
    has_tokenizer,
    keeps_code,
    model_folder,
    tokenizer_note,
)
from longspan.model.limits import Window
from longspan.recipes.actions import base_directory
from tests.hub import COMMIT, serve_hub, use_hub

KEPT = (
    *("tokenizer.json", "tokenizer_config.json", "tokenizer.model", "special_tokens_map.json", "added_tokens.json"),
    *("vocab.json", "merges.txt", "vocab.txt", "qwen.tiktoken", "generation_config.json", "tekken.json"),
    *("chat_template.jinja", "chat_template.json", "additional_chat_templates/tools.jinja"),
    *("LICENSE", "LICENSE.txt", "NOTICE", "USE_POLICY.md"),
)
LEFT = (
    *("config.json", "model.safetensors", "model.safetensors.index.json", "pytorch_model-00001-of-00002.bin"),
    *("pytorch_model.bin.index.json", "tf_model.h5", "flax_model.msgpack", "model-q4.gguf", "onnx/model.onnx"),
    *(
        "onnx/config.json",
        "original/params.json",
        "original/tokenizer.model",
        "consolidated.safetensors",
        "params.json",
    ),
    *("optimizer.pt", "training_args.bin", "trainer_state.json", "all_results.json", "adapter_config.json"),
    *("README.md", ".gitattributes", ".secrets.json", "notes.txt", "modeling_x.py", "checkpoint-10/tokenizer.json"),
)
WINDOW = Window(64, 256)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name in (*KEPT, *LEFT):
        path = tmp_path / "model" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(f'{{"of": "{name}"}}\r\n'.encode())
    return tmp_path / "model"


def test_companions_go_along_byte_for_byte_and_nothing_else(folder: Path, tmp_path: Path) -> None:
    for name, write in companions(folder, WINDOW).items():
        write(tmp_path / "out" / name)
    found = {path.relative_to(tmp_path / "out").as_posix(): path for path in (tmp_path / "out").rglob("*.*")}
    found |= {name: tmp_path / "out" / name for name in ("LICENSE", "NOTICE")}
    assert set(found) == set(KEPT)
    assert all(path.read_bytes() == (folder / name).read_bytes() for name, path in found.items())


def test_links_of_the_hub_s_cache_are_followed(folder: Path, tmp_path: Path) -> None:
    snapshot = tmp_path / "snapshot"
    snapshot.mkdir()
    (snapshot / "tokenizer.model").symlink_to(folder / "tokenizer.model")
    companions(snapshot, WINDOW)["tokenizer.model"](tmp_path / "copy")
    assert not (tmp_path / "copy").is_symlink()
    assert (tmp_path / "copy").read_bytes() == (folder / "tokenizer.model").read_bytes()


def test_what_is_too_large_for_a_companion_is_left_and_said(
    folder: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(module, "_LARGEST", 100)
    (folder / "tekken.json").write_bytes(b" " * 101)
    with caplog.at_level(logging.WARNING):
        assert "tekken.json" not in companion_names(folder)
    assert str(folder / "tekken.json") in caplog.text


def test_code_goes_along_only_where_it_is_trusted_and_auto_map_with_it(folder: Path, tmp_path: Path) -> None:
    values = {"auto_map": {"AutoTokenizer": ["modeling_x.Tokenizer", None]}, "model_max_length": 64, "é": "ü"}
    (folder / "tokenizer_config.json").write_text(json.dumps(values))
    for remote_code in (True, False):
        files = companions(folder, WINDOW, remote_code)
        assert ("modeling_x.py" in files) is remote_code
        files["tokenizer_config.json"](tmp_path / "written.json")
        written = json.loads((tmp_path / "written.json").read_text())
        assert written.pop("auto_map", None) == (values["auto_map"] if remote_code else None)
        assert written == {"model_max_length": 256, "é": "ü"}


@pytest.mark.parametrize(
    ("auto_map", "code", "keeps"),
    [
        (None, set(), True),
        ({"AutoModel": "modeling_x.X"}, {"modeling_x.py"}, True),
        ({"AutoModel": "modeling_x.X"}, set(), False),
        ({"AutoModel": "modeling_x.X"}, {"other.py"}, False),
        ({"AutoTokenizer": ["a.Slow", "b.Fast"]}, {"a.py"}, False),
        ({"AutoModel": "org/repo--modeling_x.X"}, set(), False),
        (["a.Slow", None], {"a.py"}, True),
    ],
)
def test_auto_map_needs_the_code_that_it_names(auto_map: object, code: set[str], keeps: bool) -> None:
    assert keeps_code({} if auto_map is None else {"auto_map": auto_map}, code) is keeps


def test_a_damaged_file_is_nobody_s_to_mend(folder: Path, tmp_path: Path) -> None:
    for content in (b'{"model_max_length": 64', b"\xff\xfe{}", b"[64]"):
        (folder / "tokenizer_config.json").write_bytes(content)
        companions(folder, WINDOW)["tokenizer_config.json"](tmp_path / "copy")
        assert (tmp_path / "copy").read_bytes() == content


@pytest.mark.parametrize("name", ["tokenizer.json", "tokenizer.model", "vocab.json", "qwen.tiktoken"])
def test_a_folder_with_any_tokenizer_has_one(tmp_path: Path, name: str) -> None:
    (tmp_path / "special_tokens_map.json").touch()
    assert not has_tokenizer(tmp_path)
    (tmp_path / name).touch()
    assert has_tokenizer(tmp_path)


@pytest.mark.parametrize(
    ("content", "note"),
    [
        ('{"tokenizer_class": "TokenizersBackend"}', "opens them with PreTrainedTokenizerFast"),
        ('{"tokenizer_class": "TokenizersBackend", "extra_special_tokens": []}', "does not open them"),
        ('{"tokenizer_class": "PreTrainedTokenizerFast", "extra_special_tokens": {}}', None),
        ("damaged", None),
        (None, None),
    ],
)
def test_a_tokenizer_that_one_reader_does_not_open_is_told(
    tmp_path: Path, content: str | None, note: str | None
) -> None:
    if content is not None:
        (tmp_path / "tokenizer_config.json").write_text(content)
    found = tokenizer_note(tmp_path)
    assert found is None if note is None else note in (found or "")


def test_from_a_store(folder: Path, s3_bucket: str) -> None:
    storage.upload_tree(folder, f"{s3_bucket}/model")
    assert companion_names(model_folder(f"{s3_bucket}/model")) == sorted(KEPT)


def test_from_the_hub_through_its_cache(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with serve_hub(folder.parent) as (url, requests):
        use_hub(monkeypatch, url, tmp_path / "cache")
        found = model_folder("org/model", "v1")
        assert companion_names(found) == sorted(KEPT)
        assert origin_of("org/model", None, found).name == "org/model"
        assert origin_of(str(found), None, found) == Origin("org/model", COMMIT)
        names = {name for name, _ in requests}
        assert not {name for name in names if name.endswith((".safetensors", ".bin", ".py")) or "original" in name}
        assert "modeling_x.py" in companion_names(model_folder("org/model", "v1", remote_code=True), remote_code=True)
        requests.clear()
        model_folder("org/model", COMMIT)
        assert not requests
        merged = base_directory("org/model", "v1")
        assert {name for name, _ in requests} == {"model.safetensors"}
        assert not {"consolidated.safetensors", "original"} & {path.name for path in Path(merged).iterdir()}
        with pytest.raises(ConfigError, match="'org/none' cannot be fetched from the hub"):
            model_folder("org/none")


def test_without_a_way_to_the_hub_what_is_cached_goes_along(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    from huggingface_hub import snapshot_download

    with serve_hub(folder.parent) as (url, _):
        use_hub(monkeypatch, url, tmp_path / "cache")
        snapshot_download("org/model", allow_patterns=["config.json", "tokenizer.json"])
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    assert companion_names(model_folder("org/model")) == ["tokenizer.json"]
    assert "only those that are in its cache go along" in caplog.text


def test_a_name_that_the_hub_does_not_give_is_an_error_with_a_mend(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(
        ConfigError, match=r"model.path: the tokenizer and other files of 'no/model' cannot .* give that"
    ):
        model_folder("no/model")
