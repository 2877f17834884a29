"""A recipe's section and a model's own settings make the settings of the run: every type, and what is left out."""

import dataclasses

import pytest

from longspan.config.model import Rope
from longspan.errors import ConfigError
from longspan.rope import (
    MixedWindow,
    RopeSettings,
    at_length,
    critical_dimension,
    critical_dimension_factors,
    inv_freq,
    mixed_window_longrope,
    ntk_theta,
)
from longspan.rope.resolve import RunRope, resolve_rope, run_rope

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
        (LLAMA3_8B, Rope(type="critical_ntk"), 8192, 131_072, 79.8e6),
        (LLAMA3_8B, Rope(type="critical_ntk"), 8192, 81_920, 33.8e6),
        (LLAMA3_8B, Rope(type="critical_ntk"), 8192, 4096, 5e5),
        (LLAMA3_8B, Rope(type="theta", theta=8e6), 8192, 65_536, 8e6),
    ],
)
def test_bases_of_the_papers(base: RopeSettings, rope: Rope, window: int, target: int, published: float) -> None:
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


@pytest.mark.parametrize(
    ("theta", "window", "target", "critical"),
    [(5e5, 8192, 131_072, 35), (5e5, 8192, 81_920, 35), (1e4, 2048, 8192, 41)],
)
def test_critical_ntk_keeps_the_critical_dimension(theta: float, window: int, target: int, critical: int) -> None:
    """The pairs of dimensions that turn fully in the trained window are those that do so in the new one."""
    rope = Rope(type="critical_ntk", theta=theta)
    settings = resolve_rope(QWEN2_7B, rope, 128, window, target)
    assert critical_dimension(theta, window, 128) == critical == critical_dimension(settings.rope_theta, target, 128)


@pytest.mark.parametrize("fields", [{}, {"theta": 5e5}])
@pytest.mark.parametrize("rope_type", ["ntk", "dynamic_ntk", "critical_ntk", "longrope"])
def test_refuses_a_formula_of_plain_rope_on_a_scaled_model_unless_the_scaling_is_dropped(
    rope_type: str, fields: dict[str, float]
) -> None:
    rope = Rope.model_validate({"type": rope_type, **fields})
    with pytest.raises(
        ConfigError,
        match=rf"rope\.type: '{rope_type}' starts from plain RoPE, but .* by 'llama3'; drop that with rope\.drop_scal",
    ):
        resolve_rope(LLAMA31, rope, 128, 131_072, 262_144)
    dropped = rope.model_copy(update={"drop_scaling": True})
    expected = resolve_rope(LLAMA3_8B, rope, 128, 8192, 262_144)
    assert resolve_rope(LLAMA31, dropped, 128, 131_072, 262_144) == expected


def test_refuses_a_window_that_does_not_grow() -> None:
    with pytest.raises(ConfigError, match=r"rope\.original_max_position_embeddings is 8192, not below the new window"):
        resolve_rope(LLAMA3_8B, Rope(type="yarn"), 128, 8192, 8192)


LONG = tuple(1 + index / 4 for index in range(64))
LONGROPE = RopeSettings(
    "longrope", 5e5, factor=16.0, original_max_position_embeddings=8192, short_factor=(1.0,) * 64, long_factor=LONG
)
DYNAMIC = RopeSettings("dynamic", 5e5, factor=4.0, original_max_position_embeddings=8192)


@pytest.mark.parametrize(
    ("rope", "expected"),
    [
        (Rope(type="longrope", long_factor=LONG), LONGROPE),
        (Rope(type="longrope", long_factor=LONG, short_factor=LONG), dataclasses.replace(LONGROPE, short_factor=LONG)),
        (
            Rope(type="longrope", critical_dimension=30, attention_factor=1.0, factor=8),
            dataclasses.replace(
                LONGROPE,
                factor=8.0,
                long_factor=critical_dimension_factors(5e5, 8.0, 8192, 128, 30),
                attention_factor=1.0,
            ),
        ),
        (
            Rope(type="yarn", attention_factor=1.0),
            RopeSettings("yarn", 5e5, factor=16.0, original_max_position_embeddings=8192, attention_factor=1.0),
        ),
        (Rope(type="e2llm"), RopeSettings("linear", 5e5, factor=16.0)),
        (Rope(type="e2llm", factor=20), RopeSettings("linear", 5e5, factor=20.0)),
        (Rope(type="e2llm", original_max_position_embeddings=30_000), RopeSettings("linear", 5e5, factor=5.0)),
    ],
)
def test_longrope_and_e2llm_are_complete(rope: Rope, expected: RopeSettings) -> None:
    assert resolve_rope(LLAMA3_8B, rope, 128, 8192, 131_072) == expected


def test_refuses_factor_lists_that_do_not_fit_the_heads() -> None:
    with pytest.raises(ConfigError, match=r"rope\.(short|long)_factor has \d+ numbers"):
        resolve_rope(LLAMA3_8B, Rope(type="longrope", long_factor=LONG[:32]), 128, 8192, 131_072)


def test_what_is_fixed_is_trained_and_exported_alike() -> None:
    yarn = resolve_rope(LLAMA3_8B, Rope(type="yarn"), 128, 8192, 131_072)
    assert run_rope(LLAMA3_8B, Rope(type="yarn"), 128, 8192, 131_072) == RunRope(yarn, yarn)


@pytest.mark.parametrize("base", [DYNAMIC, LONGROPE], ids=["dynamic", "longrope"])
def test_a_kept_length_dependent_rope_is_trained_at_the_target_length(base: RopeSettings) -> None:
    run = run_rope(base, Rope(), 128, 8192, 131_072)
    assert run == RunRope(at_length(base, 131_072, 128), base)
    assert (inv_freq(run.trained, 128) == inv_freq(base, 128, sequence_length=131_072)).all()


def test_e2llm_trains_with_the_frequencies_that_its_scale_divides() -> None:
    """An extended model counts its scale from the window that it has, not from the one it began with."""
    for base in (LLAMA3_8B, RopeSettings("linear", 1e4, factor=4.0), LLAMA31, LONGROPE):
        run = run_rope(base, Rope(type="e2llm"), 128, 131_072, 524_288)
        trained, exported = inv_freq(run.trained, 128), inv_freq(run.exported, 128, sequence_length=524_288)
        assert exported * 4 == pytest.approx(trained, rel=1e-6)


def test_mixed_windows_train_both_and_export_the_choice() -> None:
    run = run_rope(LLAMA3_8B, Rope(type="ntk", mixed_window=True), 128, 8192, 131_072)
    ntk = RopeSettings("default", ntk_theta(5e5, 16, 128))
    assert run.trained == ntk
    assert run.mixed == MixedWindow(LLAMA3_8B, ntk, 8192, 131_072)
    assert run.exported == mixed_window_longrope(run.mixed, 128)
    for length, settings in ((8192, LLAMA3_8B), (131_072, ntk)):
        found = inv_freq(run.exported, 128, sequence_length=length)
        assert found == pytest.approx(inv_freq(settings, 128), rel=1e-6)


def test_a_mixed_window_model_is_kept_with_both_its_ropes() -> None:
    run = run_rope(LONGROPE, Rope(mixed_window=True), 128, 131_072, 131_072)
    assert run.exported == LONGROPE
    assert run.mixed is not None
    assert (run.mixed.original.long_factor, run.mixed.extended.short_factor) == ((1.0,) * 64, LONG)
    assert run.mixed.original_window == 8192


@pytest.mark.parametrize(
    ("base", "rope", "target", "message"),
    [
        (LLAMA3_8B, Rope(mixed_window=True), 131_072, r"rope\.mixed_window: type 'keep' has two RoPEs to mix only"),
        (LLAMA3_8B, Rope(type="yarn", mixed_window=True), 131_072, r"scaled by 1\.27.*attention_factor: 1\.0, else"),
        (
            LONGROPE,
            Rope(mixed_window=True, original_max_position_embeddings=8193),
            131_072,
            r"is 8193, but the model is a 'longrope' that changes its RoPE at 8192 tokens already, .*; give 8192 or",
        ),
        (LLAMA3_8B, Rope(type="ntk", mixed_window=True), 8192, r"below the target length of 8192"),
    ],
)
def test_mixed_windows_that_cannot_be(base: RopeSettings, rope: Rope, target: int, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        run_rope(base, rope, 128, 8192, target)
