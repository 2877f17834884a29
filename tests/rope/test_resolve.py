"""A recipe's section and a model's own settings make the settings of the run: every type, and what is left out."""

import dataclasses

import pytest

from longspan.config.recipe import Rope
from longspan.errors import ConfigError
from longspan.rope import RopeSettings, ntk_theta
from longspan.rope.resolve import resolve_rope

LLAMA3_8B = RopeSettings("default", 5e5)
QWEN2_7B = RopeSettings("default", 1e6)
LLAMA31 = RopeSettings(
    "llama3", 5e5, factor=8.0, original_max_position_embeddings=8192, low_freq_factor=1.0, high_freq_factor=4.0
)


@pytest.mark.parametrize(
    ("base", "rope", "window", "target", "published"),
    [
        (LLAMA3_8B, Rope(type="dynamic_ntk"), 8192, 81_920, 48.9e6),
        (LLAMA3_8B, Rope(type="dynamic_ntk"), 8192, 131_072, 131.5e6),
        (QWEN2_7B, Rope(type="dynamic_ntk"), 32_768, 131_072, 13.5e6),
        (LLAMA3_8B, Rope(type="theta", theta=8e6), 8192, 65_536, 8e6),
    ],
)
def test_bases_of_longrecipe_and_prolong(
    base: RopeSettings, rope: Rope, window: int, target: int, published: float
) -> None:
    settings = resolve_rope(base, rope, 128, window, target)
    assert settings == RopeSettings("default", settings.rope_theta)
    assert round(settings.rope_theta / 1e5) == round(published / 1e5)


@pytest.mark.parametrize(
    ("rope", "expected"),
    [
        (Rope(), LLAMA3_8B),
        (Rope(type="ntk"), RopeSettings("default", ntk_theta(5e5, 16, 128))),
        (Rope(type="ntk", factor=4, theta=1e4), RopeSettings("default", ntk_theta(1e4, 4, 128))),
        (Rope(type="linear"), RopeSettings("linear", 5e5, factor=16.0)),
        (Rope(type="linear", factor=20), RopeSettings("linear", 5e5, factor=20.0)),
        (
            Rope(type="yarn", beta_fast=4.0),
            RopeSettings("yarn", 5e5, factor=16.0, original_max_position_embeddings=8192, beta_fast=4.0),
        ),
        (
            Rope(type="llama3", low_freq_factor=1, high_freq_factor=4, factor=8),
            LLAMA31,
        ),
    ],
)
def test_every_type_is_complete(rope: Rope, expected: RopeSettings) -> None:
    assert resolve_rope(LLAMA3_8B, rope, 128, 8192, 131_072) == expected


def test_ntk_counts_the_rotated_dimensions_only() -> None:
    half = dataclasses.replace(LLAMA3_8B, partial_rotary_factor=0.5)
    settings = resolve_rope(half, Rope(type="ntk"), 128, 8192, 131_072)
    assert settings == RopeSettings("default", ntk_theta(5e5, 16, 64), partial_rotary_factor=0.5)


def test_a_linear_model_is_extended_from_the_window_that_it_started_from() -> None:
    """4k, extended to 16k by factor 4, to 64k: factor 16 of its base, not 4 again."""
    base = RopeSettings("linear", 1e4, factor=4.0)
    assert resolve_rope(base, Rope(type="linear"), 128, 16_384, 65_536).factor == 16
    yarn = resolve_rope(base, Rope(type="yarn"), 128, 16_384, 65_536)
    assert (yarn.factor, yarn.original_max_position_embeddings) == (16, 4096)


def test_a_scaled_model_keeps_its_original_window() -> None:
    settings = resolve_rope(LLAMA31, Rope(type="yarn"), 128, 131_072, 262_144)
    assert (settings.factor, settings.original_max_position_embeddings) == (32, 8192)


@pytest.mark.parametrize("rope_type", ["ntk", "dynamic_ntk"])
def test_refuses_a_base_formula_on_a_scaled_model(rope_type: str) -> None:
    rope = Rope.model_validate({"type": rope_type})
    with pytest.raises(ConfigError, match=rf"rope\.type: '{rope_type}' starts from plain RoPE, but .* by 'llama3'"):
        resolve_rope(LLAMA31, rope, 128, 131_072, 262_144)


def test_refuses_a_window_that_does_not_grow() -> None:
    with pytest.raises(ConfigError, match=r"rope\.original_max_position_embeddings is 8192, not below the new window"):
        resolve_rope(LLAMA3_8B, Rope(type="yarn"), 128, 8192, 8192)
