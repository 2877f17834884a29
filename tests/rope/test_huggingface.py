"""The door to config.json: exports load to the same frequencies, and imports believe nothing that is incomplete."""

import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest
from transformers import AutoConfig, PhiConfig
from transformers.models.llama.modeling_llama import LlamaRotaryEmbedding

from longspan.errors import ConfigError
from longspan.rope import (
    RopeSettings,
    attention_scaling,
    config_keys,
    from_hf,
    hf_max_position_embeddings,
    inv_freq,
    to_hf,
)

TARGET = 131_072
YARN = RopeSettings("yarn", 5e5, factor=16.0, original_max_position_embeddings=8192)
LONGROPE = RopeSettings(
    "longrope",
    5e5,
    factor=16.0,
    original_max_position_embeddings=8192,
    short_factor=(1.0,) * 32,
    long_factor=tuple(16.0 ** (i / 31) for i in range(32)),
)
ALL_TYPES = [
    RopeSettings("default", 48.88e6),
    RopeSettings("linear", 1e4, factor=4.0),
    RopeSettings("dynamic", 5e5, factor=16.0, original_max_position_embeddings=8192),
    YARN,
    dataclasses.replace(YARN, attention_factor=1.1, truncate=False, beta_fast=4.0),
    RopeSettings(
        "llama3", 5e5, factor=8.0, original_max_position_embeddings=8192, low_freq_factor=1.0, high_freq_factor=4.0
    ),
    LONGROPE,
]
all_types = pytest.mark.parametrize("settings", ALL_TYPES, ids=lambda settings: settings.rope_type)


def config_json(settings: RopeSettings, *, new: bool = True, old: bool = True) -> dict:
    """With `rope_parameters`, `rope_scaling`, or both."""
    keys = config_keys(settings, TARGET)
    left_out = ([] if new else ["rope_parameters"]) + ([] if old else ["rope_theta", "rope_scaling"])
    sizes = {"model_type": "llama", "hidden_size": 128, "num_attention_heads": 2}
    return sizes | {key: value for key, value in keys.items() if key not in left_out}


@all_types
@pytest.mark.parametrize(("new", "old"), [(True, False), (False, True), (True, True)])
def test_exports_load_to_the_same_frequencies(settings: RopeSettings, new: bool, old: bool, tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps(config_json(settings, new=new, old=old)))
    loaded = AutoConfig.from_pretrained(tmp_path)
    reference = LlamaRotaryEmbedding(loaded)
    np.testing.assert_allclose(inv_freq(settings, 64), reference.inv_freq.numpy(), rtol=2e-6)
    assert reference.attention_scaling == attention_scaling(settings)
    assert loaded.max_position_embeddings == hf_max_position_embeddings(settings, TARGET)
    loaded.save_pretrained(tmp_path / "again")
    saved_again = json.loads((tmp_path / "again" / "config.json").read_text())
    assert from_hf(saved_again) == settings


@all_types
def test_exports_always_carry_type_and_base(settings: RopeSettings) -> None:
    parameters = to_hf(settings)
    assert parameters["rope_type"] == settings.rope_type
    assert parameters["rope_theta"] == settings.rope_theta
    assert ("original_max_position_embeddings" in parameters) == (settings.rope_type in ("yarn", "llama3", "longrope"))
    assert json.loads(json.dumps(parameters)) == parameters


def test_the_type_has_two_names_and_the_base_a_second_place() -> None:
    scaling = {
        "rope_type": "yarn",
        "factor": 16.0,
        "original_max_position_embeddings": 8192,
        "beta_fast": 32.0,
        "beta_slow": 1.0,
    }
    assert config_keys(YARN, TARGET) == {
        "max_position_embeddings": TARGET,
        "rope_theta": 5e5,
        "rope_scaling": {"type": "yarn", **scaling},
        "rope_parameters": {"rope_theta": 5e5, **scaling},
    }
    plain = config_keys(RopeSettings("default", 5e5), TARGET)
    assert (plain["rope_theta"], plain["rope_scaling"]) == (5e5, None)


def test_a_longrope_without_factor_takes_the_ratio_of_its_windows_as_in_transformers() -> None:
    left_out = ("factor", "attention_factor")
    parameters = {key: value for key, value in to_hf(LONGROPE).items() if key not in left_out}
    assert from_hf({"max_position_embeddings": TARGET, "rope_parameters": parameters}) == LONGROPE
    with pytest.raises(ConfigError, match=r"^config\.json: rope_parameters\.factor is missing"):
        from_hf({"rope_parameters": parameters})


def test_dynamic_keeps_the_original_window_in_the_config() -> None:
    dynamic = ALL_TYPES[2]
    assert hf_max_position_embeddings(dynamic, TARGET) == 8192
    assert hf_max_position_embeddings(YARN, TARGET) == TARGET


@pytest.mark.parametrize("key", ["type", "rope_type"])
def test_reads_legacy_scaling_under_either_name_of_its_type(key: str) -> None:
    config = {"rope_theta": 1e4, "rope_scaling": {key: "linear", "factor": 4.0}}
    assert from_hf(config) == RopeSettings("linear", 1e4, factor=4.0)


def test_reads_a_base_without_scaling() -> None:
    assert from_hf({"rope_theta": 1e6, "rope_scaling": None}) == RopeSettings("default", 1e6)
    assert from_hf({"rope_theta": 1e6, "partial_rotary_factor": 0.5}).partial_rotary_factor == 0.5
    assert from_hf({"rope_parameters": {"rope_theta": 1e6}}) == RopeSettings("default", 1e6)
    assert from_hf({"rope_theta": 1e6, "rope_parameters": {"rope_type": "default"}}) == RopeSettings("default", 1e6)


def test_reads_a_window_outside_the_rope_dictionary() -> None:
    parameters = to_hf(YARN)
    parameters.pop("original_max_position_embeddings")
    config = {"rope_parameters": parameters, "original_max_position_embeddings": 4096}
    assert from_hf(config).original_max_position_embeddings == 4096


def test_a_partial_rotation_inside_the_dictionary_wins_as_in_transformers() -> None:
    config = {"partial_rotary_factor": 0.5, "rope_parameters": {**to_hf(YARN), "partial_rotary_factor": 0.25}}
    assert from_hf(config).partial_rotary_factor == 0.25
    loaded = PhiConfig(max_position_embeddings=TARGET, **config)
    assert loaded.rope_parameters["partial_rotary_factor"] == 0.25


def test_ignores_a_window_that_the_type_does_not_read() -> None:
    parameters = {**to_hf(ALL_TYPES[1]), "original_max_position_embeddings": 4096}
    assert from_hf({"rope_parameters": parameters}) == ALL_TYPES[1]
