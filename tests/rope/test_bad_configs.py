"""Bad RoPE in a model's config.json: refused before a model is loaded, with a message that names the key.

Most of them transformers loads, with a warning or without one.
"""

from typing import Any

import pytest

from longspan.errors import ConfigError
from longspan.rope import from_hf

MODEL = {"hidden_size": 128, "num_attention_heads": 2, "max_position_embeddings": 131_072}
LINEAR = {"rope_type": "linear", "rope_theta": 5e5, "factor": 4.0}
DYNAMIC = {"rope_type": "dynamic", "rope_theta": 5e5, "factor": 4.0}
YARN = {"rope_type": "yarn", "rope_theta": 5e5, "factor": 16.0, "original_max_position_embeddings": 8192}
LLAMA3 = {**YARN, "rope_type": "llama3", "low_freq_factor": 1.0, "high_freq_factor": 4.0}
LONGROPE = {**YARN, "rope_type": "longrope", "short_factor": [1.0] * 32, "long_factor": [4.0] * 32}


def but(section: dict[str, Any], **changes: Any) -> dict[str, Any]:
    return {"rope_parameters": {**section, **changes}}


def without(section: dict[str, Any], key: str) -> dict[str, Any]:
    return {"rope_parameters": {name: value for name, value in section.items() if name != key}}


BAD = [
    (without(YARN, "original_max_position_embeddings"), "rope_parameters.original_max_position_embeddings is missing"),
    (but(YARN, factor=0.25), "rope_parameters.factor is 0.25"),
    (but(LLAMA3, high_freq_factor=0.5), "rope_parameters.high_freq_factor is 0.5"),
    (
        but(YARN, original_max_position_embeddings=262_144),
        "rope_parameters.original_max_position_embeddings is 262144, beyond",
    ),
    (but(YARN, betafast=4), "rope_parameters.betafast is not a known key; did you mean rope_parameters.beta_fast?"),
    ({"rope_parameters": {"rope_theta": 5e5, "factor": 4.0}}, "rope_parameters.rope_type is missing"),
    ({"rope_theta": 5e5, "rope_scaling": {"factor": 4.0}}, "rope_scaling.rope_type is missing"),
    (but(LINEAR, type="yarn"), "rope_parameters has both rope_type and type: 'linear' and 'yarn'"),
    (but(LINEAR, rope_type="ntk-aware"), "rope_parameters.rope_type is 'ntk-aware'"),
    (but(LINEAR, rope_type=["linear"]), "rope_parameters.rope_type is ['linear']"),
    ({"rope_theta": 5e5, "rope_scaling": "linear"}, "rope_scaling is 'linear'"),
    ({"rope_theta": 5e5, "rope_scaling": [4.0]}, "rope_scaling is [4.0]"),
    ({}, "rope_theta is missing, and so is rope_parameters"),
    (without(LINEAR, "rope_theta"), "rope_parameters.rope_theta is missing"),
    (but(LINEAR, rope_theta="5e5"), "rope_parameters.rope_theta is '5e5'"),
    (but(LINEAR, rope_theta=float("nan")), "rope_parameters.rope_theta is nan"),
    (but(LINEAR, rope_theta=-1e4), "rope_parameters.rope_theta is -10000.0"),
    (but(LINEAR, rope_theta=10**400), "rope_parameters.rope_theta is 1000"),
    (
        {"rope_theta": 1e4, **but(LINEAR)},
        "rope_parameters.rope_theta is 500000.0, but rope_theta at the top level 10000.0",
    ),
    (without(LINEAR, "factor"), "rope_parameters.factor is missing"),
    (but(LINEAR, factor=True), "rope_parameters.factor is True"),
    (but(LINEAR, factor=float("inf")), "rope_parameters.factor is inf"),
    (but(LINEAR, beta_fast=32), "rope_parameters.beta_fast does not apply to rope_type 'linear'"),
    (but(LINEAR, partial_rotary_factor=1.5), "rope_parameters.partial_rotary_factor is 1.5"),
    ({"max_position_embeddings": None, **but(DYNAMIC)}, "rope_parameters.original_max_position_embeddings is missing"),
    (but(YARN, original_max_position_embeddings="8k"), "rope_parameters.original_max_position_embeddings is '8k'"),
    (but(YARN, beta_fast=1, beta_slow=32), "rope_parameters.beta_fast is 1"),
    (but(YARN, attention_factor=0), "rope_parameters.attention_factor is 0"),
    (but(YARN, truncate="no"), "rope_parameters.truncate is 'no'"),
    (without(LLAMA3, "low_freq_factor"), "rope_parameters.low_freq_factor is missing"),
    (
        but(LLAMA3, original_max_position_embeddings=131_073),
        "rope_parameters.original_max_position_embeddings is 131073, beyond",
    ),
    (without(LONGROPE, "long_factor"), "rope_parameters.long_factor is missing"),
    (without(LONGROPE, "short_factor"), "rope_parameters.short_factor is missing"),
    (
        but(LONGROPE, long_factor=[4.0] * 31),
        "rope_parameters.short_factor has 32 numbers but rope_parameters.long_factor 31",
    ),
    (
        but(LONGROPE, long_factor=[4.0] * 64, short_factor=[1.0] * 64),
        "rope_parameters.short_factor has 64 numbers; the model rot",
    ),
    (but(LONGROPE, long_factor=[0.5] * 32), "rope_parameters.long_factor[0] is 0.5"),
    (but(LONGROPE, long_factor="4"), "rope_parameters.long_factor is '4'"),
    (but(LONGROPE, original_max_position_embeddings=1), "rope_parameters.original_max_position_embeddings is 1"),
    ({**but(YARN), "rope_scaling": {**YARN, "factor": 4.0}}, "rope_parameters ({"),
    ({"rope_parameters": {"full_attention": YARN}}, "rope_parameters.full_attention: rope_parameters has one"),
    ({"rope_theta": "5e5"}, "rope_theta is '5e5'"),
    ({"rope_theta": 5e5, "partial_rotary_factor": 2}, "partial_rotary_factor is 2"),
    ({"rope_theta": 5e5, "rope_scaling": {"type": "ntk", "factor": 2.0}}, "rope_scaling.type is 'ntk'"),
    ({"rope_theta": 5e5, "rope_scaling": {"type": "linear", "factor": 0.5}}, "rope_scaling.factor is 0.5"),
    (
        {"original_max_position_embeddings": 262_144, **but(YARN)},
        "original_max_position_embeddings is 262144, beyond max_position_embeddings of 131072",
    ),
    (
        {"original_max_position_embeddings": 262_144, **without(YARN, "original_max_position_embeddings")},
        "original_max_position_embeddings is 262144, beyond max_position_embeddings of 131072",
    ),
]


@pytest.mark.parametrize(("config", "message"), BAD)
def test_refuses_and_names_the_key(config: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        from_hf({**MODEL, **config})
    assert str(caught.value).startswith(f"config.json: {message}")
    assert "rope." not in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("section", [LINEAR, DYNAMIC, YARN, LLAMA3, LONGROPE], ids=lambda section: section["rope_type"])
def test_the_sections_they_are_made_from_are_good(section: dict[str, Any]) -> None:
    assert from_hf({**MODEL, **but(section)}).rope_type == section["rope_type"]
    # Published YaRN configs of Qwen keep max_position_embeddings at the original window.
    assert from_hf({**MODEL, "max_position_embeddings": 8192, **but(section)}).rope_theta == 5e5
