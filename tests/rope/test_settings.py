"""A RopeSettings cannot exist half-filled: everything that transformers only warns about is an error here."""

import math

import pytest

from longspan.errors import ConfigError
from longspan.rope import RopeSettings, from_mapping, validate

YARN = {"rope_type": "yarn", "rope_theta": 5e5, "factor": 16.0, "original_max_position_embeddings": 8192}
LLAMA3 = {
    "rope_type": "llama3",
    "rope_theta": 5e5,
    "factor": 8.0,
    "original_max_position_embeddings": 8192,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
}

LONGROPE = {
    "rope_type": "longrope",
    "rope_theta": 5e5,
    "factor": 16.0,
    "original_max_position_embeddings": 8192,
    "short_factor": [1.0, 1.0],
    "long_factor": [1.0, 16.0],
}


def test_yarn_fills_in_its_papers_limits() -> None:
    settings = from_mapping(YARN)
    assert (settings.beta_fast, settings.beta_slow) == (32.0, 1.0)
    assert from_mapping({**YARN, "beta_fast": 4, "beta_slow": 0.5}).beta_fast == 4


def test_none_counts_as_absent_in_a_mapping() -> None:
    assert from_mapping({"rope_type": "default", "rope_theta": 1e4, "factor": None}) == RopeSettings("default", 1e4)


@pytest.mark.parametrize(
    ("section", "message"),
    [
        ({**YARN, "betafast": 32}, r"rope\.betafast is not a known key; did you mean rope\.beta_fast\?"),
        ({**YARN, "zzz": 1}, r"rope\.zzz is not a known key; known keys are rope_type, rope_theta"),
        ({"rope_theta": 1e4}, r"rope\.rope_type is missing"),
        ({"rope_type": "default"}, r"rope\.rope_theta is missing"),
        ({**YARN, "rope_type": "proportional"}, r"rope\.rope_type is 'proportional'; longspan knows default, linear"),
        ({**YARN, "original_max_position_embeddings": None}, r"rope\.original_max_position_embeddings is missing"),
        ({**LLAMA3, "low_freq_factor": None}, r"rope\.low_freq_factor is missing; rope_type 'llama3' needs it"),
        ({"rope_type": "linear", "rope_theta": 1e4}, r"rope\.factor is missing"),
        ({"rope_type": "dynamic", "rope_theta": 1e4, "factor": 2}, r"rope\.original_max_position_embeddings is miss"),
        ({**LLAMA3, "beta_fast": 32}, r"rope\.beta_fast does not apply to rope_type 'llama3'"),
        ({"rope_type": "default", "rope_theta": 1e4, "factor": 2}, r"rope\.factor does not apply"),
        ({**YARN, "factor": 0.25}, r"rope\.factor is 0\.25; it must be 1 or more"),
        ({**YARN, "factor": "16"}, r"rope\.factor is '16'; it must be a number above 0"),
        ({**YARN, "factor": True}, r"rope\.factor is True; it must be a number above 0"),
        ({**YARN, "factor": float("nan")}, r"rope\.factor is nan"),
        ({**YARN, "rope_theta": float("inf")}, r"rope\.rope_theta is inf"),
        ({**YARN, "rope_theta": 0.5}, r"rope\.rope_theta is 0\.5; it must be above 1"),
        ({**YARN, "original_max_position_embeddings": 8192.5}, r"rope\.original_max_position_embeddings is 8192\.5"),
        ({**YARN, "original_max_position_embeddings": 0}, r"rope\.original_max_position_embeddings is 0"),
        ({**YARN, "beta_fast": 1, "beta_slow": 32}, r"rope\.beta_fast is 1; it must be above rope\.beta_slow \(32\)"),
        ({**LLAMA3, "high_freq_factor": 1.0}, r"rope\.high_freq_factor is 1\.0; it must be above"),
        ({**YARN, "attention_factor": -1.0}, r"rope\.attention_factor is -1\.0"),
        ({**YARN, "truncate": 1}, r"rope\.truncate is 1; it must be true or false"),
        ({**YARN, "partial_rotary_factor": 1.5}, r"rope\.partial_rotary_factor is 1\.5; it must be at most 1"),
        ({**YARN, "factor": 10**400}, r"rope\.factor is 10+; it must be a number above 0"),
        ({**LONGROPE, "long_factor": None}, r"rope\.long_factor is missing; rope_type 'longrope' needs it"),
        ({**LONGROPE, "short_factor": None}, r"rope\.short_factor is missing"),
        ({**LONGROPE, "factor": None}, r"rope\.factor is missing"),
        ({**LONGROPE, "original_max_position_embeddings": None}, r"rope\.original_max_position_embeddings is missing"),
        ({**LONGROPE, "original_max_position_embeddings": 1}, r"rope\.original_max_position_embeddings is 1; .* 2 or"),
        ({**LONGROPE, "long_factor": []}, r"rope\.long_factor is \(\); it must be a list with one number per pair"),
        ({**LONGROPE, "long_factor": 4.0}, r"rope\.long_factor is 4\.0; it must be a list"),
        ({**LONGROPE, "long_factor": [1.0, 0.5]}, r"rope\.long_factor\[1\] is 0\.5; it must be a number of 1 or more"),
        ({**LONGROPE, "long_factor": [1.0, float("nan")]}, r"rope\.long_factor\[1\] is nan"),
        ({**LONGROPE, "short_factor": [float("inf"), 1.0]}, r"rope\.short_factor\[0\] is inf"),
        ({**LONGROPE, "short_factor": ["1", 1.0]}, r"rope\.short_factor\[0\] is '1'"),
        ({**LONGROPE, "long_factor": [1.0]}, r"rope\.short_factor has 2 numbers but rope\.long_factor 1"),
        ({**LONGROPE, "beta_fast": 32}, r"rope\.beta_fast does not apply to rope_type 'longrope'"),
        ({**YARN, "long_factor": [1.0]}, r"rope\.long_factor does not apply to rope_type 'yarn'"),
    ],
)
def test_rejects_bad_settings_and_names_the_key(section: dict, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        from_mapping(section)


@pytest.mark.parametrize("section", [YARN, LLAMA3, LONGROPE])
@pytest.mark.parametrize("window", [4096, 8192])
def test_rejects_an_original_window_that_is_not_below_the_new_one(section: dict, window: int) -> None:
    with pytest.raises(ConfigError, match=r"rope\.original_max_position_embeddings is 8192, not below the new window"):
        validate(from_mapping(section), window)


def test_longrope_keeps_lists_as_tuples_and_always_has_its_attention_factor() -> None:
    settings = from_mapping(LONGROPE)
    assert settings.short_factor == (1.0, 1.0)
    assert settings.attention_factor == math.sqrt(1 + math.log(16) / math.log(8192))
    assert from_mapping({**LONGROPE, "factor": 1}).attention_factor == 1.0
    assert from_mapping({**LONGROPE, "attention_factor": 1.0}).attention_factor == 1.0
    assert hash(settings) == hash(from_mapping(LONGROPE))


def test_accepts_an_original_window_below_the_new_one() -> None:
    validate(from_mapping(YARN), 131_072)
    validate(RopeSettings("default", 1e4), 1)
    validate(RopeSettings("dynamic", 1e4, factor=2.0, original_max_position_embeddings=4096), 4096)
