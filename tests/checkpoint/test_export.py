"""What a run's checkpoint holds beside its weights: the source's own files, a card, and a config that readers share."""

import dataclasses
import json
import os
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file

from longspan import storage
from longspan.checkpoint import export
from longspan.checkpoint.beside import Beside, beside_export
from longspan.checkpoint.export import write_model
from longspan.config.corpus import Tokenizer
from longspan.config.recipe import Recipe
from longspan.corpus.manifest import MANIFEST_FILE, manifest_bytes
from longspan.corpus.tokenizer import store_tokenizer, train_tokenizer
from longspan.model.load import open_model, read_config, rope_of_run
from tests.corpus_files import random_documents, write_corpus
from tests.tiny import tiny_model_directory, tiny_recipe

GENERATION = '{"max_length":32, "temperature":0.6, "do_sample":true}\n'
"""Compact and short of the window of 64, as Llama-3-8B's: its own bytes are to be seen again."""


@pytest.fixture
def base(tmp_path: Path) -> Path:
    """A model with companions, and with limits that name its window of 64."""
    folder = tiny_model_directory(tmp_path / "model")
    config = json.loads((folder / "config.json").read_text())
    config |= {"seq_length": 64, "auto_map": {"AutoModelForCausalLM": "modeling_x.X"}}
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "generation_config.json").write_text(GENERATION)
    (folder / "tokenizer_config.json").write_text('{"model_max_length": 64, "tokenizer_class": "LlamaTokenizer"}')
    for name in ("tokenizer.model", "special_tokens_map.json", "chat_template.jinja", "LICENSE"):
        (folder / name).write_bytes(os.urandom(100))
    (folder / "modeling_x.py").write_text(
        "from transformers import LlamaForCausalLM\n\n\nclass X(LlamaForCausalLM): ...\n"
    )
    (folder / "README.md").write_text("---\nlicense: apache-2.0\nlanguage: [en]\n---\n# The base\n")
    return folder


def export_of(recipe: Recipe, target: Path | str) -> Beside:
    """The export of the recipe's model as it is before any step; what lay beside it."""
    network, _ = open_model(recipe.model, recipe.rope, recipe.data.target_length, seed=0)
    config = read_config(recipe.model)
    settings = rope_of_run(config, recipe.rope, recipe.data.target_length).exported
    beside = beside_export(recipe, config, settings)
    weights = {name: parameter.detach() for name, parameter in network.named_parameters()}
    write_model(network, weights, settings, str(target), beside)
    return beside


def read(path: Path) -> Any:
    return json.loads(path.read_text())


def test_companions_are_the_source_s_and_limits_those_of_the_new_window(base: Path, tmp_path: Path) -> None:
    target = tmp_path / "run" / "checkpoint"
    export_of(tiny_recipe(base), target)
    for name in ("tokenizer.model", "special_tokens_map.json", "chat_template.jinja", "LICENSE"):
        assert (target / name).read_bytes() == (base / name).read_bytes()
    assert (target / "generation_config.json").read_text() == GENERATION.replace("32", "256")
    assert read(target / "tokenizer_config.json") == {"model_max_length": 256, "tokenizer_class": "LlamaTokenizer"}
    config = read(target / "config.json")
    assert (config["max_position_embeddings"], config["seq_length"]) == (256, 256)
    assert set(os.listdir(target)) == {
        *("config.json", "generation_config.json", "model.safetensors", "README.md", "tokenizer_config.json"),
        *("tokenizer.model", "special_tokens_map.json", "chat_template.jinja", "LICENSE"),
    }


def test_the_type_of_the_weights_has_both_names_and_code_goes_with_its_trust(
    base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("transformers.dynamic_module_utils.HF_MODULES_CACHE", str(tmp_path / "modules"))
    for dtype, trusted in (("float32", False), ("bfloat16", True)):
        target = tmp_path / dtype
        export_of(tiny_recipe(base, model={"dtype": dtype, "trust_remote_code": trusted}), target)
        config = read(target / "config.json")
        assert config["dtype"] == config["torch_dtype"] == dtype
        assert {str(value.dtype) for value in load_file(target / "model.safetensors").values()} == {f"torch.{dtype}"}
        assert ("auto_map" in config) is trusted
        assert (target / "modeling_x.py").exists() is trusted
        assert config["architectures"] == ["X" if trusted else "LlamaForCausalLM"]


def test_generate_takes_a_prompt_beyond_the_old_window(base: Path, tmp_path: Path) -> None:
    import torch
    from transformers import AutoModelForCausalLM

    export_of(tiny_recipe(base), tmp_path / "out")
    prompt = torch.arange(100)[None] % 96
    with pytest.raises(ValueError, match="max_length"):
        AutoModelForCausalLM.from_pretrained(base).generate(prompt, do_sample=False)
    model = AutoModelForCausalLM.from_pretrained(tmp_path / "out")
    assert 100 < model.generate(prompt, do_sample=False, eos_token_id=None).shape[1] <= 256


def test_a_model_without_a_tokenizer_gets_the_corpus_s(tmp_path: Path) -> None:
    folder = tiny_model_directory(tmp_path / "model", vocab_size=300)
    texts = ["the quick brown fox " * 20]
    data = tmp_path / "data"
    manifest = write_corpus(str(data), {"text": random_documents(0, [50])})
    info = store_tokenizer(train_tokenizer(texts, Tokenizer(train_vocab_size=265)), str(data))
    (data / MANIFEST_FILE).write_bytes(
        manifest_bytes(dataclasses.replace(manifest, tokenizer=info, sentence_end_ids=()))
    )
    export_of(tiny_recipe(folder, data), tmp_path / "out")
    for name in info.files:
        assert (tmp_path / "out" / name).read_bytes() == (data / "tokenizer" / name).read_bytes()


@pytest.mark.parametrize("settings", [{"temperature": 0.9, "top_p": 0.6}, {"length_penalty": 2.0}])
@pytest.mark.parametrize("place", ["generation_config.json", "config.json"])
def test_generation_settings_that_transformers_opens_but_does_not_save(
    tmp_path: Path, settings: dict[str, float], place: str
) -> None:
    """Llama 2 came with the first: its export would end in an error after the last step."""
    base = tiny_model_directory(tmp_path / "model")
    (base / "generation_config.json").unlink()
    (base / "tokenizer.json").touch()
    known = read(base / place) if (base / place).exists() else {}
    (base / place).write_text(json.dumps({**known, **settings}))
    export_of(tiny_recipe(base), tmp_path / "out")
    found = read(tmp_path / "out" / "generation_config.json")
    assert {key: found[key] for key in settings} == settings


def test_a_source_without_generation_settings_keeps_what_its_config_says(base: Path, tmp_path: Path) -> None:
    (base / "generation_config.json").unlink()
    config = read(base / "config.json") | {"max_length": 64, "top_k": 7}
    (base / "config.json").write_text(json.dumps(config))
    export_of(tiny_recipe(base), tmp_path / "out")
    found = read(tmp_path / "out" / "generation_config.json")
    assert (found["max_length"], found["top_k"]) == (256, 7)


def test_a_kill_before_any_file_leaves_no_model_that_opens(
    base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Over an earlier export, and before each of the files: config.json is there when all others are, and only then."""
    target, recipe = tmp_path / "out", tiny_recipe(base)
    export_of(recipe, target)
    whole = {name: (target / name).read_bytes() for name in os.listdir(target)}
    upload = storage.upload_file
    for left in range(len(whole)):
        written: list[str] = []

        def stop(source: str, uri: str, left: int = left, written: list[str] = written) -> None:
            if len(written) == left:
                raise KeyboardInterrupt
            written.append(uri)
            upload(source, uri)

        monkeypatch.setattr(export.storage, "upload_file", stop)
        with pytest.raises(KeyboardInterrupt):
            export_of(recipe, target)
        assert not (target / "config.json").exists()
        assert len(storage.list_files(str(target))) == left
    monkeypatch.undo()
    export_of(recipe, target)
    assert {name: (target / name).read_bytes() for name in os.listdir(target)} == whole


def test_into_a_store_and_from_one(base: Path, s3_bucket: str, tmp_path: Path) -> None:
    storage.upload_tree(str(base), f"{s3_bucket}/models/base")
    export_of(tiny_recipe(f"{s3_bucket}/models/base"), f"{s3_bucket}/run/checkpoint")
    export_of(tiny_recipe(base), tmp_path / "out")
    names = storage.list_files(f"{s3_bucket}/run/checkpoint")
    assert sorted(names) == sorted(os.listdir(tmp_path / "out"))
    for name in set(names) - {"README.md"}:
        assert storage.read_bytes(f"{s3_bucket}/run/checkpoint/{name}") == (tmp_path / "out" / name).read_bytes()
    card = storage.read_text(f"{s3_bucket}/run/checkpoint/README.md")
    assert s3_bucket not in card
    assert "base_model: base" in card
