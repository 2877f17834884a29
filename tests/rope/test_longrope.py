"""LongRoPE's lists: the formula's shape and meaning, recipes' fields, and length-dependent RoPE held still."""

import dataclasses
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from longspan.errors import ConfigError
from longspan.rope import (
    RopeSettings,
    at_length,
    critical_dimension,
    critical_dimension_factors,
    critical_dimension_theta,
    depends_on_length,
    frequencies_as_longrope,
    inv_freq,
    longrope_settings,
)

PLAIN = RopeSettings("default", 5e5)
DYNAMIC = RopeSettings("dynamic", 5e5, factor=4.0, original_max_position_embeddings=8192)


def test_factors_meet_the_critical_dimension_base_up_to_the_critical_pair() -> None:
    """The same curve as rope_theta ** (ln(L/2pi) / ln(L0/2pi)), which is 16 at the critical pair as a real number."""
    factors = np.array(critical_dimension_factors(5e5, 16, 8192, 128))
    assert critical_dimension(5e5, 8192, 128) == 35
    exact = 64 * math.log(8192 / math.tau) / math.log(5e5)
    base = critical_dimension_theta(5e5, 131_072, 8192)
    assert (base / 5e5) ** (exact / 64) == pytest.approx(16)
    pairs = np.arange(35)
    np.testing.assert_allclose(factors[:35], (base / 5e5) ** (pairs / 64 * exact / 35), rtol=1e-9)
    assert np.all(factors[35:] == 16)


@pytest.mark.parametrize(("theta", "original", "head_dim", "real"), [(5e5, 8192, 128, 30), (1e4, 2048, 96, 25)])
def test_longrope2s_real_critical_pair_can_be_given(theta: float, original: int, head_dim: int, real: int) -> None:
    factors = critical_dimension_factors(theta, 16.0, original, head_dim, critical=real)
    assert factors[real - 1] < 16
    assert set(factors[real:]) == {16.0}
    theory = critical_dimension_factors(theta, 16.0, original, head_dim)
    assert np.all(np.array(factors[1:real]) > np.array(theory[1:real]))


@given(
    theta=st.sampled_from([1e4, 5e5, 1e6]),
    factor=st.floats(1, 64),
    original=st.sampled_from([1024, 4096, 8192]),
    head_dim=st.sampled_from([64, 128]),
)
def test_factors_never_fall_and_keep_slow_pairs_in_their_trained_angles(
    theta: float, factor: float, original: int, head_dim: int
) -> None:
    factors = np.array(critical_dimension_factors(theta, factor, original, head_dim))
    assert factors[0] == 1
    assert factors[-1] == factor
    assert np.all(np.diff(factors) >= 0)
    frequencies = theta ** (-2 * np.arange(head_dim // 2) / head_dim)
    slow = frequencies * original < math.tau
    assert np.all((frequencies / factors)[slow] * original * factor < math.tau * (1 + 1e-9))


@pytest.mark.parametrize(
    ("theta", "original", "critical", "message"),
    [
        (5e5, 8192, 64, r"rope\.critical_dimension is 64 .* 64 pairs of rotated dimensions; give one below"),
        (5e5, 8192, 0, r"rope\.critical_dimension is 0"),
        (500.0, 8192, None, r"rope\.critical_dimension is 74 .* give rope\.critical_dimension or rope\.long_factor"),
    ],
)
def test_refuses_a_critical_pair_outside_the_head(theta, original, critical, message) -> None:
    with pytest.raises(ConfigError, match=message):
        critical_dimension_factors(theta, 4, original, 128, critical)


def test_a_recipe_that_names_nothing_gets_the_formula_and_the_original_rope_for_short_texts() -> None:
    settings = longrope_settings(PLAIN, 131_072, 8192, 128)
    assert settings.factor == 16
    assert settings.long_factor == critical_dimension_factors(5e5, 16.0, 8192, 128)
    np.testing.assert_array_equal(inv_freq(settings, 128), inv_freq(PLAIN, 128))
    assert settings.attention_factor == math.sqrt(1 + math.log(16) / math.log(8192))


def test_a_recipes_own_lists_base_and_attention_factor_are_kept() -> None:
    half = dataclasses.replace(PLAIN, partial_rotary_factor=0.5)
    settings = longrope_settings(
        half,
        4096,
        1024,
        8,
        theta=1e4,
        factor=5.0,
        long_factor=(1.0, 4.5),
        short_factor=(1.0, 1.5),
        attention_factor=1.0,
    )
    expected = RopeSettings(
        "longrope",
        1e4,
        factor=5.0,
        original_max_position_embeddings=1024,
        short_factor=(1.0, 1.5),
        long_factor=(1.0, 4.5),
        attention_factor=1.0,
        partial_rotary_factor=0.5,
    )
    assert settings == expected


@pytest.mark.parametrize(
    ("base", "fields", "message"),
    [
        (PLAIN, {"long_factor": (1.0,) * 63}, r"rope\.short_factor has 64 numbers but rope\.long_factor 63"),
        (PLAIN, {"long_factor": (1.0,) * 32, "short_factor": (1.0,) * 32}, r"rope\.short_factor has 32 .* need 64"),
        (PLAIN, {"long_factor": (0.9,) * 64}, r"rope\.long_factor\[0\] is 0\.9"),
        (PLAIN, {"long_factor": (1.0,) * 64, "critical": 30}, r"rope\.critical_dimension has no meaning beside"),
    ],
)
def test_refuses_fields_that_do_not_fit(base: RopeSettings, fields: dict, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        longrope_settings(base, 131_072, 8192, 128, **fields)


@pytest.mark.parametrize("length", [100, 8192, 8193, 131_072])
@pytest.mark.parametrize("settings", [PLAIN, DYNAMIC, longrope_settings(PLAIN, 131_072, 8192, 128)], ids=repr)
def test_at_length_is_the_same_frequencies_for_every_length(settings: RopeSettings, length: int) -> None:
    frozen = at_length(settings, length, 128)
    expected = inv_freq(settings, 128, sequence_length=length)
    for other in (None, 5, 8193, 10**6):
        np.testing.assert_array_equal(inv_freq(frozen, 128, sequence_length=other), expected)
    assert not depends_on_length(frozen)


def test_only_dynamic_and_two_list_longrope_depend_on_the_length() -> None:
    assert depends_on_length(DYNAMIC)
    assert depends_on_length(longrope_settings(PLAIN, 131_072, 8192, 128))
    assert not depends_on_length(dataclasses.replace(DYNAMIC, factor=1.0))
    assert not depends_on_length(PLAIN)


@given(theta=st.floats(10, 1e8), larger=st.floats(1, 1e3), head_dim=st.sampled_from([4, 64, 128]))
def test_any_slower_frequencies_are_a_longrope(theta: float, larger: float, head_dim: int) -> None:
    short = inv_freq(RopeSettings("default", theta), head_dim)
    long = inv_freq(RopeSettings("default", theta * larger), head_dim)
    settings = frequencies_as_longrope(short, long, theta, 4.0, 1024, 1.0)
    np.testing.assert_allclose(inv_freq(settings, head_dim, sequence_length=1024), short, rtol=5e-7)
    np.testing.assert_allclose(inv_freq(settings, head_dim, sequence_length=1025), long, rtol=5e-7)


def test_faster_frequencies_are_refused() -> None:
    plain, faster = (inv_freq(RopeSettings("default", theta), 64) for theta in (1e4, 5e3))
    with pytest.raises(
        ConfigError, match=r"rope\.rope_theta 10000: frequency 31 is faster .* extend with a larger base"
    ):
        frequencies_as_longrope(plain, faster, 1e4, 4.0, 1024, 1.0)
