"""config.json as its readers take it: what vLLM and transformers 4 compute, written down here, is what was exported.

tests/readers asks the readers themselves; here is their arithmetic alone.
"""

import dataclasses
import math
from typing import Any

import numpy as np
import pytest

from longspan.errors import ConfigError
from longspan.rope import (
    RopeSettings,
    attention_scaling,
    config_keys,
    e2_inference,
    from_hf,
    inv_freq,
    reader_notes,
)

OLD, TARGET, HEAD_DIM = 4096, 32_768, 64
PLAIN = RopeSettings("default", 1e6)
LINEAR = RopeSettings("linear", 1e6, factor=8.0)
YARN = RopeSettings("yarn", 1e6, factor=8.0, original_max_position_embeddings=OLD)
LLAMA3 = RopeSettings(
    "llama3", 1e6, factor=8.0, original_max_position_embeddings=OLD, low_freq_factor=1.0, high_freq_factor=4.0
)
LONGROPE = RopeSettings(
    "longrope",
    1e6,
    factor=8.0,
    original_max_position_embeddings=OLD,
    short_factor=(1.0,) * 32,
    long_factor=tuple(8.0 ** (pair / 31) for pair in range(32)),
)
MIXED = dataclasses.replace(LONGROPE, attention_factor=1.0)
DYNAMIC = RopeSettings("dynamic", 1e6, factor=8.0, original_max_position_embeddings=OLD)
ONE_LIST = e2_inference(dataclasses.replace(YARN, factor=2.0, original_max_position_embeddings=2048), 8, OLD, HEAD_DIM)
FIXED = [
    PLAIN,
    LINEAR,
    dataclasses.replace(LINEAR, factor=7.3),
    dataclasses.replace(LINEAR, partial_rotary_factor=0.5),
    YARN,
    dataclasses.replace(YARN, attention_factor=1.0),
    dataclasses.replace(YARN, mscale=1.0, mscale_all_dim=0.7),
    # As a model's own scaling that is kept when the window grows.
    dataclasses.replace(YARN, factor=4.0, original_max_position_embeddings=1024, attention_factor=1.2),
    LLAMA3,
    ONE_LIST,
    dataclasses.replace(ONE_LIST, attention_factor=1.0),
]
CHOOSING = [LONGROPE, MIXED]
kinds = pytest.mark.parametrize("settings", [*FIXED, *CHOOSING], ids=lambda settings: settings.rope_type)


def in_vllm(config: dict[str, Any], served: int | None = None) -> tuple[np.ndarray, float, int, int]:
    """vLLM 0.32 with --max-model-len `served`: inverse frequencies, scale of cos and sin, window, angles it has."""
    rope, window = config["rope_scaling"] or config["rope_parameters"], config["max_position_embeddings"]
    rope_type, original = rope["rope_type"], rope.get("original_max_position_embeddings")
    longest = window if rope_type in ("default", "llama3", "yarn", "longrope") else int(window * rope["factor"])
    if served is None:
        served = config.get("original_max_position_embeddings", longest) if rope_type == "longrope" else longest
    rotated = int(HEAD_DIM * rope.get("partial_rotary_factor", config.get("partial_rotary_factor", 1)))
    plain = config["rope_theta"] ** (-np.arange(0, rotated, 2) / rotated)
    match rope_type:
        case "default":
            return plain, 1.0, served, window
        case "llama3":
            turns, low, high = original * plain / (2 * math.pi), rope["low_freq_factor"], rope["high_freq_factor"]
            kept = np.clip((turns - low) / (high - low), 0, 1)
            return plain * (kept + (1 - kept) / rope["factor"]), 1.0, served, window
        case "yarn":
            factor = rope["factor"]
            first, last = (
                math.log(original / (beta * 2 * math.pi)) * rotated / 2 / math.log(config["rope_theta"])
                for beta in (rope["beta_fast"], rope["beta_slow"])
            )
            first, last = max(math.floor(first), 0), min(math.ceil(last), rotated - 1)
            ramp = np.clip((np.arange(rotated // 2) - first) / (last - first), 0, 1)
            scale = rope.get("attention_factor")
            if scale is None and "mscale" in rope:
                scale = np.divide(*(0.1 * rope[key] * math.log(factor) + 1 for key in ("mscale", "mscale_all_dim")))
            scale = 0.1 * math.log(factor) + 1 if scale is None else scale
            return plain * (1 - ramp + ramp / factor), scale, served, original * factor
        case "longrope":
            is_long = served > original
            formula = math.sqrt(1 + max(math.log(window / original), 0) / math.log(original))
            scale = rope.get("long_mscale" if is_long else "short_mscale", formula)
            factors = rope["long_factor" if is_long else "short_factor"]
            return plain / np.array(factors), scale, served, window if is_long else original
        case _:
            raise AssertionError(rope_type)


@kinds
def test_vllm_computes_what_was_exported(settings: RopeSettings) -> None:
    config = config_keys(settings, TARGET)
    frequencies, scale, window, angles = in_vllm(config)
    chooses = settings in CHOOSING
    assert window == (OLD if chooses else TARGET)
    assert window <= angles < 2 * window
    np.testing.assert_allclose(frequencies, inv_freq(settings, HEAD_DIM, sequence_length=window), rtol=1e-6)
    assert scale == pytest.approx(attention_scaling(settings), rel=1e-9)
    assert bool(reader_notes(settings, TARGET)) is chooses


@pytest.mark.parametrize("settings", CHOOSING, ids=["longrope", "mixed"])
def test_vllm_computes_the_long_factors_when_told_the_window(settings: RopeSettings) -> None:
    (note,) = reader_notes(settings, TARGET)
    assert f"--max-model-len {TARGET}" in note
    assert f"at most {OLD} tokens" in note
    frequencies, scale, _, angles = in_vllm(config_keys(settings, TARGET), served=TARGET)
    assert angles == TARGET
    np.testing.assert_allclose(frequencies, inv_freq(settings, HEAD_DIM, sequence_length=TARGET), rtol=1e-6)
    assert scale == pytest.approx(attention_scaling(settings), rel=1e-9)


@pytest.mark.parametrize("settings", [*CHOOSING, ONE_LIST], ids=["longrope", "mixed", "one list"])
@pytest.mark.parametrize("length", [OLD, OLD + 1, TARGET])
def test_transformers_4_chooses_the_same_list(settings: RopeSettings, length: int) -> None:
    """It takes the original window from the top level alone, and the new one where there is none."""
    config = config_keys(settings, TARGET)
    original = config.get("original_max_position_embeddings", config["max_position_embeddings"])
    factors = config["rope_scaling"]["long_factor" if length > original else "short_factor"]
    plain = config["rope_theta"] ** (-np.arange(0, HEAD_DIM, 2) / HEAD_DIM)
    np.testing.assert_allclose(
        plain / np.array(factors), inv_freq(settings, HEAD_DIM, sequence_length=length), rtol=1e-6
    )
    assert config["rope_scaling"]["attention_factor"] == attention_scaling(settings)


def test_keys_that_transformers_does_not_know_are_written_only_where_they_are_needed() -> None:
    """It names them in its log."""
    alone = {"short_mscale", "long_mscale", "attn_factor"}
    for settings in (PLAIN, LINEAR, YARN, LLAMA3, LONGROPE):
        assert not alone & config_keys(settings, TARGET)["rope_parameters"].keys()
    assert config_keys(MIXED, TARGET)["rope_scaling"]["long_mscale"] == 1.0
    relative = config_keys(dataclasses.replace(YARN, attention_factor=1.0), TARGET)["rope_scaling"]["attn_factor"]
    assert relative == pytest.approx(1 / (0.1 * math.log(8) + 1))


def test_a_list_that_is_there_twice_has_no_window_to_choose_by() -> None:
    """At the top level it would be vLLM's window; transformers 4 needs it there where it has to choose."""
    assert "original_max_position_embeddings" not in config_keys(ONE_LIST, TARGET)
    assert config_keys(LONGROPE, TARGET)["original_max_position_embeddings"] == OLD


@pytest.mark.parametrize(
    ("settings", "change", "message"),
    [
        (MIXED, {"long_mscale": 1.19}, r"rope_scaling\.long_mscale is 1\.19 for vLLM, .* makes it 1;"),
        (MIXED, {"short_mscale": None, "long_mscale": "1"}, r"rope_scaling\.long_mscale is '1' for vLLM"),
        (YARN, {"attn_factor": 0.8}, r"rope_scaling\.attn_factor is 0\.8 for vLLM, .* makes it 1;"),
    ],
)
def test_a_scale_for_one_reader_alone_is_refused(settings: RopeSettings, change: dict[str, Any], message: str) -> None:
    config = config_keys(settings, TARGET)
    del config["rope_parameters"]
    config["rope_scaling"] |= change
    with pytest.raises(ConfigError, match=message):
        from_hf(config)


def test_a_config_that_says_both_scales_alike_is_read() -> None:
    config = config_keys(YARN, TARGET)
    for section in ("rope_parameters", "rope_scaling"):
        config[section]["attn_factor"] = 1.0
    assert from_hf(config) == YARN


def test_linear_keeps_its_bits_in_the_form_that_every_reader_takes() -> None:
    from transformers import AutoConfig
    from transformers.models.llama.modeling_llama import LlamaRotaryEmbedding

    for settings in (LINEAR, dataclasses.replace(LINEAR, factor=7.3)):
        found = {}
        for name, keys in (
            ("written", config_keys(settings, TARGET)),
            ("plain", {"rope_parameters": {"rope_type": "linear", "rope_theta": 1e6, "factor": settings.factor}}),
        ):
            config = AutoConfig.for_model("llama", hidden_size=128, num_attention_heads=2, **keys)
            found[name] = LlamaRotaryEmbedding(config).inv_freq.numpy()
        np.testing.assert_array_equal(found["written"], found["plain"])


def test_what_no_key_says_is_said_with_the_flag_that_mends_it() -> None:
    (note,) = reader_notes(DYNAMIC, TARGET)
    assert "--max-model-len 32768" in note
    assert '"max_trained_positions": 4096' in note
    (note,) = reader_notes(dataclasses.replace(YARN, factor=1.2, original_max_position_embeddings=20_000), TARGET)
    assert "--max-model-len 24000" in note
    assert reader_notes(dataclasses.replace(DYNAMIC, factor=1.0), TARGET) == ()
