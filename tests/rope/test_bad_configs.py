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
    (without(YARN, "original_max_position_embeddings"), "rope.original_max_position_embeddings is missing"),
    (but(YARN, factor=0.25), "rope.factor is 0.25"),
    (but(LLAMA3, high_freq_factor=0.5), "rope.high_freq_factor is 0.5"),
    (but(YARN, original_max_position_embeddings=262_144), "rope.original_max_position_embeddings is 262144, beyond"),
    (but(YARN, betafast=4), "rope.betafast is not a known key; did you mean rope.beta_fast?"),
    ({"rope_parameters": {"rope_theta": 5e5, "factor": 4.0}}, "rope.rope_type is missing"),
    ({"rope_theta": 5e5, "rope_scaling": {"factor": 4.0}}, "rope.rope_type is missing"),
    (but(LINEAR, type="yarn"), "rope.rope_type: the config's rope_parameters has both"),
    (but(LINEAR, rope_type="ntk-aware"), "rope.rope_type is 'ntk-aware'"),
    (but(LINEAR, rope_type=["linear"]), "rope.rope_type is ['linear']"),
    ({"rope_theta": 5e5, "rope_scaling": "linear"}, "rope.rope_type: the config's rope_scaling is 'linear'"),
    ({"rope_theta": 5e5, "rope_scaling": [4.0]}, "rope.rope_type: the config's rope_scaling is [4.0]"),
    ({}, "rope.rope_theta is missing"),
    (without(LINEAR, "rope_theta"), "rope.rope_theta is missing"),
    (but(LINEAR, rope_theta="5e5"), "rope.rope_theta is '5e5'"),
    (but(LINEAR, rope_theta=float("nan")), "rope.rope_theta is nan"),
    (but(LINEAR, rope_theta=-1e4), "rope.rope_theta is -10000.0"),
    (but(LINEAR, rope_theta=10**400), "rope.rope_theta is 1000"),
    ({"rope_theta": 1e4, **but(LINEAR)}, "rope.rope_theta is 500000.0 in the config's rope_parameters but 10000.0"),
    (without(LINEAR, "factor"), "rope.factor is missing"),
    (but(LINEAR, factor=True), "rope.factor is True"),
    (but(LINEAR, factor=float("inf")), "rope.factor is inf"),
    (but(LINEAR, beta_fast=32), "rope.beta_fast does not apply to rope_type 'linear'"),
    (but(LINEAR, partial_rotary_factor=1.5), "rope.partial_rotary_factor is 1.5"),
    ({"max_position_embeddings": None, **but(DYNAMIC)}, "rope.original_max_position_embeddings is missing"),
    (but(YARN, original_max_position_embeddings="8k"), "rope.original_max_position_embeddings is '8k'"),
    (but(YARN, beta_fast=1, beta_slow=32), "rope.beta_fast is 1"),
    (but(YARN, attention_factor=0), "rope.attention_factor is 0"),
    (but(YARN, truncate="no"), "rope.truncate is 'no'"),
    (without(LLAMA3, "low_freq_factor"), "rope.low_freq_factor is missing"),
    (but(LLAMA3, original_max_position_embeddings=131_073), "rope.original_max_position_embeddings is 131073, beyond"),
    (without(LONGROPE, "long_factor"), "rope.long_factor is missing"),
    (without(LONGROPE, "short_factor"), "rope.short_factor is missing"),
    (but(LONGROPE, long_factor=[4.0] * 31), "rope.short_factor has 32 numbers but rope.long_factor 31"),
    (but(LONGROPE, long_factor=[4.0] * 64, short_factor=[1.0] * 64), "rope.short_factor has 64 numbers; the model rot"),
    (but(LONGROPE, long_factor=[0.5] * 32), "rope.long_factor[0] is 0.5"),
    (but(LONGROPE, long_factor="4"), "rope.long_factor is '4'"),
    (but(LONGROPE, original_max_position_embeddings=1), "rope.original_max_position_embeddings is 1"),
    ({**but(YARN), "rope_scaling": {**YARN, "factor": 4.0}}, "rope.rope_type: the config's rope_parameters"),
    ({"rope_parameters": {"full_attention": YARN}}, "rope.full_attention: the config's rope_parameters has one"),
]


@pytest.mark.parametrize(("config", "message"), BAD)
def test_refuses_and_names_the_key(config: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        from_hf({**MODEL, **config})
    assert str(caught.value).startswith(message)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("section", [LINEAR, DYNAMIC, YARN, LLAMA3, LONGROPE], ids=lambda section: section["rope_type"])
def test_the_sections_they_are_made_from_are_good(section: dict[str, Any]) -> None:
    assert from_hf({**MODEL, **but(section)}).rope_type == section["rope_type"]
    # Published YaRN configs of Qwen keep max_position_embeddings at the original window.
    assert from_hf({**MODEL, "max_position_embeddings": 8192, **but(section)}).rope_theta == 5e5
