"""The checkpoint of an E2-LLM run at the scale of another window: the same bytes, another config, limits and card."""

import json
import logging
import os
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from longspan import storage
from longspan.checkpoint.beside import beside_export
from longspan.checkpoint.export import write_model
from longspan.cli import app
from longspan.config.load import to_yaml
from longspan.config.recipe import Recipe
from longspan.errors import ConfigError
from longspan.launch import export as module
from longspan.launch.export import export_scale
from longspan.model.load import open_model, read_config, rope_of_run
from tests.tiny import tiny_model_directory, tiny_recipe

SCALINGS: dict[str, dict[str, Any]] = {
    "plain": {"rope_type": "default", "rope_theta": 500.0},
    "linear": {"rope_type": "linear", "rope_theta": 500.0, "factor": 2.0},
    "llama3": {
        "rope_type": "llama3",
        "rope_theta": 500.0,
        "factor": 2.0,
        "original_max_position_embeddings": 32,
        "low_freq_factor": 1.0,
        "high_freq_factor": 4.0,
    },
}


def finished_run(base: Path, run: Path | str, target: int = 256, **sections: Any) -> Recipe:
    """A run directory as training leaves it, without its training."""
    e2llm = {"rope": {"type": "e2llm"}, "positions": {"type": "e2llm", "window": 64}}
    data = {"sample_length": 32, "target_length": target}
    recipe = tiny_recipe(base, output=str(run), **{**e2llm, "data": data, **sections})
    network, _ = open_model(recipe.model, recipe.rope, target, seed=0)
    config = read_config(recipe.model)
    settings = rope_of_run(config, recipe.rope, target).exported
    weights = {name: parameter.detach() for name, parameter in network.named_parameters()}
    write_model(network, weights, settings, storage.join(run, "checkpoint"), beside_export(recipe, config, settings))
    storage.write_text(storage.join(run, "recipe.yaml"), to_yaml(recipe))
    return recipe


def base_of(folder: Path, scaling: str = "plain") -> Path:
    base = tiny_model_directory(folder / "base", rope_parameters=SCALINGS[scaling])
    (base / "generation_config.json").write_text('{"max_length":64,"top_p":0.9}')
    (base / "tokenizer_config.json").write_text('{"tokenizer_class": "LlamaTokenizer"}')
    (base / "additional_chat_templates").mkdir()
    for name in ("tokenizer.model", "additional_chat_templates/tools.jinja"):
        (base / name).write_bytes(os.urandom(64))
    (base / "README.md").write_text("---\nlicense: mit\n---\n")
    return base


def contents(folder: Path | str) -> dict[str, bytes]:
    return {name: storage.read_bytes(storage.join(folder, name)) for name in storage.list_files(folder)}


@pytest.mark.parametrize(
    ("scaling", "window"),
    [
        ("plain", 64),
        ("plain", 128),
        ("plain", 1000),
        ("linear", 64),
        ("linear", 1000),
        ("llama3", 65),
        ("llama3", 1000),
    ],
)
def test_is_what_a_run_to_that_window_would_have_exported(tmp_path: Path, scaling: str, window: int) -> None:
    base = base_of(tmp_path, scaling)
    finished_run(base, tmp_path / "run")
    finished_run(base, tmp_path / "other", target=window)
    result = export_scale(str(tmp_path / "run"), window, str(tmp_path / "out"))
    assert (result["window"], result["scale"]) == (window, -(-window // 64))
    found, expected = contents(tmp_path / "out"), contents(tmp_path / "other" / "checkpoint")
    card, other_card = (files.pop("README.md").decode() for files in (found, expected))
    assert found.keys() == expected.keys()
    if scaling == "llama3":  # its frequencies are divided twice, each time rounded
        configs = [json.loads(files.pop("config.json")) for files in (found, expected)]
        factors = [config["rope_parameters"].pop("long_factor") for config in configs]
        assert factors[0] == pytest.approx(factors[1], rel=1e-6)
        for config in configs:
            config["rope_parameters"].pop("short_factor")
            config.pop("rope_scaling")
        assert configs[0] == configs[1]
    assert found == expected
    assert f"\n{window:,} tokens" in card
    assert card.split("---")[1] == other_card.split("---")[1]


def test_loads_at_its_scale_in_plain_transformers(tmp_path: Path) -> None:
    import torch
    from transformers import AutoModelForCausalLM

    finished_run(base_of(tmp_path), tmp_path / "run")
    export_scale(str(tmp_path / "run"), 512, str(tmp_path / "out"))
    ids = torch.arange(90)[None]
    with torch.no_grad():
        found = AutoModelForCausalLM.from_pretrained(tmp_path / "out")(ids).logits
        own = AutoModelForCausalLM.from_pretrained(tmp_path / "base")
        expected = own(ids, position_ids=ids / 8).logits
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)


def test_weights_in_several_files_go_along_with_their_index(tmp_path: Path) -> None:
    from transformers import AutoModelForCausalLM

    finished_run(base_of(tmp_path), tmp_path / "run")
    checkpoint = tmp_path / "run" / "checkpoint"
    AutoModelForCausalLM.from_pretrained(checkpoint).save_pretrained(tmp_path / "sharded", max_shard_size="20KB")
    (checkpoint / "model.safetensors").unlink()
    shards = {path.name: path.read_bytes() for path in (tmp_path / "sharded").glob("model*")}
    assert len(shards) > 2
    for name, content in shards.items():
        (checkpoint / name).write_bytes(content)
    export_scale(str(tmp_path / "run"), 128, str(tmp_path / "out"))
    assert {path.name: path.read_bytes() for path in (tmp_path / "out").glob("model*")} == shards
    AutoModelForCausalLM.from_pretrained(tmp_path / "out")


def test_from_a_store_into_a_store(tmp_path: Path, s3_bucket: str) -> None:
    base = base_of(tmp_path)
    finished_run(base, tmp_path / "run")
    finished_run(base, f"{s3_bucket}/run")
    export_scale(f"{s3_bucket}/run", 128, f"{s3_bucket}/out")
    export_scale(str(tmp_path / "run"), 128, str(tmp_path / "out"))
    assert contents(f"{s3_bucket}/out") == contents(tmp_path / "out")


def test_a_kill_leaves_no_model_in_a_store(tmp_path: Path, s3_bucket: str, monkeypatch: pytest.MonkeyPatch) -> None:
    finished_run(base_of(tmp_path), tmp_path / "run")

    def stop(*_: Any) -> None:
        raise KeyboardInterrupt

    for name in ("complete_config", "_fetch"):
        with monkeypatch.context() as patch:
            patch.setattr(module, name, stop)
            for output in (f"{s3_bucket}/{name}", str(tmp_path / name)):
                with pytest.raises(KeyboardInterrupt):
                    export_scale(str(tmp_path / "run"), 128, output)
                assert not storage.exists(storage.join(output, "config.json"))
            assert not list(tmp_path.glob(f"*{name}*"))


def test_a_scale_beyond_those_trained_is_said(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    finished_run(base_of(tmp_path), tmp_path / "run")
    with caplog.at_level(logging.WARNING, logger=module.__name__):
        export_scale(str(tmp_path / "run"), 256, str(tmp_path / "trained"))
        assert not caplog.text
        export_scale(str(tmp_path / "run"), 257, str(tmp_path / "beyond"))
    assert "the scale of 257 tokens is 5, and the run trained scales to 4" in caplog.text


def test_what_cannot_be_exported_is_one_line_with_a_mend(tmp_path: Path) -> None:
    base = base_of(tmp_path)
    finished_run(base, tmp_path / "run")
    finished_run(base, tmp_path / "ntk", rope={"type": "ntk"}, positions={"type": "longrecipe"})
    finished_run(base, tmp_path / "unfinished")
    (tmp_path / "unfinished" / "checkpoint" / "config.json").unlink()
    for run, window, output, message in (
        ("nowhere", 128, "out", r"no recipe.yaml; give a run directory"),
        ("ntk", 128, "out", r"rope.type: ntk, whose checkpoint has one RoPE .* Take .*ntk/checkpoint as it is"),
        ("unfinished", 128, "out", r"has no checkpoint yet; finish it with `longspan train .*/recipe.yaml`"),
        ("run", 63, "out", r"--window 63 is below the model's own window of 64"),
        ("run", 128, "base", r"^output: .*/base exists and is not empty"),
        ("run", 128, "run/checkpoint", r"^output: .*/run/checkpoint exists and is not empty"),
    ):
        with pytest.raises(ConfigError, match=message):
            export_scale(str(tmp_path / run), window, str(tmp_path / output))
        assert not (tmp_path / "out").exists()


def test_the_command(tmp_path: Path) -> None:
    finished_run(base_of(tmp_path), tmp_path / "run")
    arguments = ["export", str(tmp_path / "run"), "--window", "128", "--output", str(tmp_path / "out")]
    ended = CliRunner().invoke(app, arguments)
    assert ended.exit_code == 0
    assert "window 128, scale 2" in ended.output
    ended = CliRunner().invoke(app, arguments)
    assert ended.exit_code == 2
    assert "exists and is not empty" in ended.output
