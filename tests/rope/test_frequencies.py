"""Frequencies equal those that transformers computes, for every type, size and base."""

import dataclasses

import numpy as np
import pytest
import torch
from transformers import LlamaConfig, PhiConfig
from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS
from transformers.models.llama.modeling_llama import LlamaRotaryEmbedding
from transformers.models.phi.modeling_phi import PhiRotaryEmbedding

from longspan.errors import ConfigError
from longspan.rope import RopeSettings, attention_scaling, hf_max_position_embeddings, inv_freq, to_hf
from longspan.rope.frequencies import scale_periods, theta_powers

# Seen on x86: one unit in the last place (1.2e-7), which the blend of "llama3" with factor 32 magnifies to 1e-6.
RTOL = 5e-7
RTOL_LLAMA3 = 2e-6
YARN = RopeSettings("yarn", 5e5, factor=16.0, original_max_position_embeddings=8192)
LONGROPE = RopeSettings(
    "longrope",
    5e5,
    factor=16.0,
    original_max_position_embeddings=8192,
    short_factor=tuple(1 + i / 100 for i in range(64)),
    long_factor=tuple(17.3 ** (i / 63) for i in range(64)),
)
VARIANTS = [
    RopeSettings("default", 5e5),
    RopeSettings("linear", 5e5, factor=4.0),
    RopeSettings("dynamic", 5e5, factor=8.0, original_max_position_embeddings=8192),
    YARN,
    dataclasses.replace(YARN, truncate=False),
    dataclasses.replace(YARN, beta_fast=4.0, beta_slow=1.0, attention_factor=1.25),
    dataclasses.replace(YARN, mscale=0.707, mscale_all_dim=1.0),
    dataclasses.replace(YARN, mscale=0.707),
    dataclasses.replace(YARN, factor=1.0),
    RopeSettings(
        "llama3", 5e5, factor=8.0, original_max_position_embeddings=8192, low_freq_factor=1.0, high_freq_factor=4.0
    ),
    RopeSettings(
        "llama3", 5e5, factor=32.0, original_max_position_embeddings=8192, low_freq_factor=1.0, high_freq_factor=4.0
    ),
]


def fit(settings: RopeSettings, head_dim: int) -> RopeSettings:
    """The factor lists cut to the pairs of a head."""
    short, long = settings.short_factor, settings.long_factor
    if short is None or long is None:
        return settings
    return dataclasses.replace(settings, short_factor=short[: head_dim // 2], long_factor=long[: head_dim // 2])


def tiny_llama(settings: RopeSettings, head_dim: int) -> LlamaConfig:
    return LlamaConfig(
        hidden_size=2 * head_dim,
        num_attention_heads=2,
        max_position_embeddings=hf_max_position_embeddings(settings, 131_072),
        rope_parameters=to_hf(settings),
    )


@pytest.mark.parametrize("settings", [*VARIANTS, LONGROPE], ids=repr)
@pytest.mark.parametrize("head_dim", [64, 80, 128])
@pytest.mark.parametrize("theta", [500.0, 1e4, 5e5, 131.46e6])
def test_same_bits_as_transformers_from_the_same_powers(settings: RopeSettings, head_dim: int, theta: float) -> None:
    """torch's own float32 power is the only thing that can differ, and it differs from machine to machine."""
    settings = fit(dataclasses.replace(settings, rope_theta=theta), head_dim)
    powers = (theta ** (torch.arange(0, head_dim, 2, dtype=torch.int64).float() / head_dim)).numpy()
    reference = LlamaRotaryEmbedding(tiny_llama(settings, head_dim))
    np.testing.assert_array_equal(scale_periods(settings, powers), reference.inv_freq.numpy())
    np.testing.assert_allclose(theta_powers(theta, head_dim), powers, rtol=1.2e-7)
    assert attention_scaling(settings) == reference.attention_scaling


@pytest.mark.parametrize("settings", [*VARIANTS, LONGROPE], ids=repr)
@pytest.mark.parametrize("head_dim", [16, 96, 128])
@pytest.mark.parametrize("theta", [500.0, 1e4, 5e5, 131.46e6])
def test_equals_transformers(settings: RopeSettings, head_dim: int, theta: float) -> None:
    settings = fit(dataclasses.replace(settings, rope_theta=theta), head_dim)
    reference = LlamaRotaryEmbedding(tiny_llama(settings, head_dim))
    ours = inv_freq(settings, head_dim)
    assert ours.dtype == np.float32
    assert ours.shape == (head_dim // 2,)
    rtol = RTOL_LLAMA3 if settings.rope_type == "llama3" else RTOL
    np.testing.assert_allclose(ours, reference.inv_freq.numpy(), rtol=rtol)
    assert attention_scaling(settings) == reference.attention_scaling


@pytest.mark.parametrize("original", [40, 128, 300])
@pytest.mark.parametrize("theta", [500.0, 1e4])
def test_equals_transformers_for_a_tiny_window(original: int, theta: float) -> None:
    """Where YaRN's ramp is cut off at either end."""
    settings = dataclasses.replace(YARN, rope_theta=theta, original_max_position_embeddings=original)
    reference = LlamaRotaryEmbedding(tiny_llama(settings, 32))
    np.testing.assert_allclose(inv_freq(settings, 32), reference.inv_freq.numpy(), rtol=RTOL)


def test_equals_transformers_where_the_yarn_ramp_has_no_width() -> None:
    settings = dataclasses.replace(YARN, rope_theta=1e4, original_max_position_embeddings=6, beta_fast=2.0)
    reference = LlamaRotaryEmbedding(tiny_llama(settings, 32))
    np.testing.assert_allclose(inv_freq(settings, 32), reference.inv_freq.numpy(), rtol=RTOL)


@pytest.mark.parametrize("length", [None, 100, 8192, 8193, 20_000, 131_072])
def test_dynamic_equals_transformers_at_every_length(length: int | None) -> None:
    settings = RopeSettings("dynamic", 5e5, factor=16.0, original_max_position_embeddings=8192)
    reference, _ = ROPE_INIT_FUNCTIONS["dynamic"](tiny_llama(settings, 128), torch.device("cpu"), seq_len=length)
    np.testing.assert_allclose(inv_freq(settings, 128, sequence_length=length), reference.numpy(), rtol=RTOL)


@pytest.mark.parametrize("length", [None, 100, 8192, 8193, 131_072])
def test_longrope_equals_transformers_at_every_length(length: int | None) -> None:
    config = tiny_llama(LONGROPE, 128)
    reference, scaling = ROPE_INIT_FUNCTIONS["longrope"](config, torch.device("cpu"), seq_len=length)
    np.testing.assert_allclose(inv_freq(LONGROPE, 128, sequence_length=length), reference.numpy(), rtol=RTOL)
    assert scaling == attention_scaling(LONGROPE)


@pytest.mark.parametrize("factor", [1.0, 4.0, 32.0])
@pytest.mark.parametrize("original", [512, 8192])
def test_longrope_attention_factor_is_what_transformers_would_compute(factor: float, original: int) -> None:
    settings = dataclasses.replace(
        LONGROPE, factor=factor, original_max_position_embeddings=original, attention_factor=None
    )
    parameters = {key: value for key, value in to_hf(settings).items() if key != "attention_factor"}
    config = LlamaConfig(hidden_size=256, num_attention_heads=2, rope_parameters=parameters)
    _, computed = ROPE_INIT_FUNCTIONS["longrope"](config, torch.device("cpu"))
    assert attention_scaling(settings) == computed


@pytest.mark.parametrize("settings", [VARIANTS[0], VARIANTS[1], YARN], ids=repr)
@pytest.mark.parametrize("share", [0.25, 0.5])
def test_partial_rotation_equals_transformers(settings: RopeSettings, share: float) -> None:
    partial = dataclasses.replace(settings, partial_rotary_factor=share)
    config = PhiConfig(
        hidden_size=128, num_attention_heads=2, max_position_embeddings=131_072, rope_parameters=to_hf(partial)
    )
    config.head_dim = 64
    reference = PhiRotaryEmbedding(config).inv_freq.numpy()
    assert reference.shape == (int(32 * share),)
    np.testing.assert_allclose(inv_freq(partial, 64), reference, rtol=RTOL)
    np.testing.assert_allclose(inv_freq(settings, 64, partial_rotary_factor=share), reference, rtol=RTOL)


def test_equal_settings_by_other_routes_meet() -> None:
    """Factor 1 changes nothing, whatever the type."""
    plain = inv_freq(RopeSettings("default", 5e5), 128)
    for settings in VARIANTS[1:]:
        np.testing.assert_allclose(inv_freq(dataclasses.replace(settings, factor=1.0), 128), plain, rtol=RTOL)


@pytest.mark.parametrize(("head_dim", "needed"), [(64, 32), (256, 128)])
def test_rejects_factor_lists_that_do_not_fit_the_heads(head_dim: int, needed: int) -> None:
    with pytest.raises(ConfigError, match=rf"rope\.short_factor has 64 numbers; .* {head_dim} dim.* need {needed}"):
        inv_freq(LONGROPE, head_dim)


@pytest.mark.parametrize(("head_dim", "share"), [(7, 1.0), (64, 0.01), (10, 0.5)])
def test_rejects_dimensions_that_do_not_pair(head_dim: int, share: float) -> None:
    with pytest.raises(ConfigError, match=r"rope\.partial_rotary_factor .* must be even and above 0"):
        inv_freq(RopeSettings("default", 1e4), head_dim, partial_rotary_factor=share)
