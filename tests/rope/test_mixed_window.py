"""Mixed-window training: short documents keep the original RoPE to the last bit, and the export chooses alike."""

import dataclasses

import numpy as np
import pytest
import torch
from transformers import LlamaConfig
from transformers.models.llama.modeling_llama import LlamaRotaryEmbedding

from longspan.errors import ConfigError, DataError
from longspan.rope import (
    MixedWindow,
    RopeSettings,
    attention_scaling,
    document_frequencies,
    inv_freq,
    longrope_settings,
    mixed_window_longrope,
    to_hf,
    uses_original,
    window_frequencies,
)

PLAIN = RopeSettings("default", 5e5)
YARN = RopeSettings("yarn", 5e5, factor=16.0, original_max_position_embeddings=8192)
EXTENDED = [
    RopeSettings("default", 79.8e6),
    RopeSettings("linear", 5e5, factor=16.0),
    RopeSettings("dynamic", 5e5, factor=16.0, original_max_position_embeddings=8192),
    YARN,
    longrope_settings(PLAIN, 131_072, 8192, 64, attention_factor=1.0),
]
SPANS = np.array([1, 8191, 8192, 8193, 131_072])
extended_types = pytest.mark.parametrize("extended", EXTENDED, ids=lambda extended: extended.rope_type)


def mixed_with(extended: RopeSettings) -> MixedWindow:
    return MixedWindow(PLAIN, extended, 8192, 131_072)


def test_documents_within_the_original_window_keep_their_rope() -> None:
    assert uses_original(mixed_with(YARN), SPANS).tolist() == [True, True, True, False, False]


@extended_types
def test_each_document_gets_one_of_the_two_sets_of_frequencies(extended: RopeSettings) -> None:
    frequencies, scaling = document_frequencies(mixed_with(extended), SPANS, 64)
    assert frequencies.shape == (5, 32)
    assert frequencies.dtype == scaling.dtype == np.float32
    short, long = inv_freq(PLAIN, 64), inv_freq(extended, 64, sequence_length=131_072)
    assert not np.array_equal(short, long)
    np.testing.assert_array_equal(frequencies, np.stack([short, short, short, long, long]))
    factor = np.float32(attention_scaling(extended))
    assert scaling.tolist() == [1, 1, 1, factor, factor]


@extended_types
def test_the_export_makes_the_same_choice_in_transformers(extended: RopeSettings) -> None:
    if extended.rope_type == "yarn":
        extended = dataclasses.replace(extended, attention_factor=1.0)
    mixed = mixed_with(extended)
    exported = mixed_window_longrope(mixed, 64)
    assert (exported.factor, exported.original_max_position_embeddings) == (16, 8192)
    config = LlamaConfig(
        hidden_size=128, num_attention_heads=2, max_position_embeddings=131_072, rope_parameters=to_hf(exported)
    )
    rotary = LlamaRotaryEmbedding(config)
    spans = np.array([8192, 8193, 8192])
    for span, frequencies in zip(spans, document_frequencies(mixed, spans, 64)[0], strict=True):
        rotary(torch.zeros(1), torch.arange(span)[None])
        np.testing.assert_allclose(rotary.inv_freq.numpy(), frequencies, rtol=5e-7)
    assert rotary.attention_scaling == 1


def test_window_frequencies_are_those_of_a_scaled_original_too() -> None:
    original = RopeSettings("linear", 1e4, factor=2.0)
    mixed = MixedWindow(original, RopeSettings("linear", 1e4, factor=8.0), 8192, 32_768)
    short, long = window_frequencies(mixed, 64)
    np.testing.assert_array_equal(short, long * np.float32(4))
    exported = mixed_window_longrope(mixed, 64)
    np.testing.assert_allclose(np.array(exported.short_factor), 2, rtol=5e-7)
    np.testing.assert_allclose(np.array(exported.long_factor), 8, rtol=5e-7)


def test_refuses_an_export_that_no_config_can_say() -> None:
    with pytest.raises(ConfigError, match=r"scaled by 1\.27726 for long .* set rope\.attention_factor: 1\.0, else"):
        mixed_window_longrope(mixed_with(YARN), 64)
    with pytest.raises(ConfigError, match=r"rope\.rope_theta 500000: frequency 31 is faster"):
        mixed_window_longrope(mixed_with(RopeSettings("default", 1e4)), 64)


@pytest.mark.parametrize(
    ("original", "extended", "windows", "message"),
    [
        (PLAIN, YARN, (8192, 8192), r"rope\.original_max_position_embeddings is 8192; mixed windows need .* below the"),
        (PLAIN, YARN, (0, 8192), r"rope\.original_max_position_embeddings is 0"),
        (PLAIN, PLAIN, (8192, 16_384), r"rope\.type: mixed windows with the same RoPE"),
        (
            dataclasses.replace(PLAIN, partial_rotary_factor=0.5),
            YARN,
            (8192, 16_384),
            r"rope\.partial_rotary_factor is 0\.5 in the original settings and 1\.0",
        ),
    ],
)
def test_refuses_two_sides_that_do_not_mix(original, extended, windows, message) -> None:
    with pytest.raises(ConfigError, match=message):
        MixedWindow(original, extended, *windows)


@pytest.mark.parametrize("span", [0, 131_073])
def test_refuses_documents_beyond_the_target(span: int) -> None:
    with pytest.raises(
        DataError, match=f"document 1 of the sample spans {span} tokens; mixed windows take 1 to 131072"
    ):
        uses_original(mixed_with(YARN), np.array([5, span]))
