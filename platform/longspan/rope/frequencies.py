"""Which frequencies the positions meet: inv_freq and the attention scaling of every rope type.

Pure functions of `RopeSettings`. `model` asserts at start-up that the loaded model has exactly these, because
transformers ignores some ways of setting RoPE without a word.
"""

import math
from typing import assert_never

import numpy as np
import numpy.typing as npt

from longspan.errors import ConfigError
from longspan.rope.settings import RopeSettings, check_factor_count
from longspan.rope.theta import dynamic_ntk_theta

FloatArray = npt.NDArray[np.float32]


def inv_freq(
    settings: RopeSettings,
    head_dim: int,
    partial_rotary_factor: float | None = None,
    sequence_length: int | None = None,
) -> FloatArray:
    """Inverse frequencies, in radians per position.

    Equal to those of transformers but for its float32 power, which is one unit in the last place (relative 1.2e-7) off
    here and there; the power is exact here. From the same powers the same bits follow: see `scale_periods`.

    Args:
        settings: the rope type and its numbers.
        head_dim: dimensions of one attention head.
        partial_rotary_factor: share of them that is rotated; None for that of the settings.
        sequence_length: only for "dynamic" and "longrope", the longest sequence so far; None or one within the original
            window gives the unscaled base or the short factors.

    Returns:
        float32 [int(head_dim * partial_rotary_factor) // 2].

    Raises:
        ConfigError: the rotated dimensions are not even, too few for NTK scaling, or not those of the factor lists.
    """
    share = settings.partial_rotary_factor if partial_rotary_factor is None else partial_rotary_factor
    rotary_dim = int(head_dim * share)
    if rotary_dim < 2 or rotary_dim % 2:
        raise ConfigError(
            f"rope.partial_rotary_factor {share} of head_dim {head_dim} rotates {rotary_dim} dimensions; "
            "they must be even and above 0"
        )
    check_factor_count(settings, rotary_dim)
    theta = theta_at(settings, rotary_dim, sequence_length)
    return scale_periods(settings, theta_powers(theta, rotary_dim), sequence_length)


def theta_at(settings: RopeSettings, rotary_dim: int, sequence_length: int | None = None) -> float:
    """The base at a sequence length: rope_theta itself but for "dynamic", whose base grows beyond its window."""
    if settings.rope_type != "dynamic":
        return settings.rope_theta
    original = int(_given(settings.original_max_position_embeddings))
    length = original if sequence_length is None else sequence_length
    return dynamic_ntk_theta(settings.rope_theta, _given(settings.factor), length, original, rotary_dim)


def theta_powers(theta: float, rotary_dim: int) -> FloatArray:
    """theta ** (2i / rotary_dim), float32 [rotary_dim // 2]: exponents rounded as in transformers, powers exact."""
    exponents = np.arange(0, rotary_dim, 2, dtype=np.float32) / np.float32(rotary_dim)
    return np.power(theta, exponents, dtype=np.float64).astype(np.float32)


def scale_periods(settings: RopeSettings, powers: FloatArray, sequence_length: int | None = None) -> FloatArray:
    """Inverse frequencies from the powers of the base, in transformers' order of float32 operations, to the last bit.

    Args:
        settings: the rope type and its numbers.
        powers: float32 [rotary_dim // 2], theta ** (2i / rotary_dim), with the base of `theta_at`.
        sequence_length: as in `inv_freq`; "longrope" chooses its list by it.

    Returns:
        float32 [rotary_dim // 2].
    """
    match settings.rope_type:
        case "default" | "dynamic":
            return np.asarray(1 / powers)
        case "linear":
            return np.asarray(1 / powers / _given(settings.factor))
        case "yarn":
            return _yarn(settings, powers)
        case "llama3":
            return _llama3(settings, np.asarray(1 / powers, dtype=np.float32))
        case "longrope":
            is_long = (sequence_length or 0) > _given(settings.original_max_position_embeddings)
            factors = settings.long_factor if is_long else settings.short_factor
            return np.asarray(1 / (np.asarray(factors, dtype=np.float32) * powers))
        case _:
            assert_never(settings.rope_type)


def attention_scaling(settings: RopeSettings) -> float:
    """What cos and sin are multiplied by: 1 but for "yarn" and "longrope".

    YaRN: 0.1 ln(factor) + 1 unless given (arXiv 2309.00071, Eq. 22; the square root of 1/t multiplies query and key
    alike); with mscale and mscale_all_dim the ratio of the two (DeepSeek-V2). LongRoPE: its attention_factor, for short
    and long sequences alike, as in transformers.
    """
    if settings.rope_type not in ("yarn", "longrope"):
        return 1.0
    if settings.attention_factor is not None:
        return float(settings.attention_factor)
    factor = _given(settings.factor)
    if settings.mscale is not None and settings.mscale_all_dim is not None:
        return _mscale(factor, settings.mscale) / _mscale(factor, settings.mscale_all_dim)
    return _mscale(factor, 1.0)


def _mscale(factor: float, mscale: float) -> float:
    return 0.1 * mscale * math.log(factor) + 1.0


def _yarn(settings: RopeSettings, powers: FloatArray) -> FloatArray:
    """NTK by parts: fast dimensions keep their frequency, slow ones are interpolated, a ramp between (section 3.2)."""
    original, rotary_dim = _given(settings.original_max_position_embeddings), 2 * len(powers)

    def dimension_of(rotations: float) -> float:
        turns = math.log(original / (rotations * 2 * math.pi))
        return rotary_dim * turns / (2 * math.log(settings.rope_theta))

    low, high = dimension_of(_given(settings.beta_fast)), dimension_of(_given(settings.beta_slow))
    if settings.truncate is not False:
        low, high = math.floor(low), math.ceil(high)
    low, high = max(low, 0), min(high, rotary_dim - 1)
    if low == high:
        # A ramp without width would divide by zero; transformers widens it by the same thousandth.
        high += 0.001
    ramp = np.clip((np.arange(len(powers), dtype=np.float32) - low) / (high - low), 0, 1)
    # 1 - (1 - ramp) is not ramp in float32, and transformers takes this way.
    kept = 1 - ramp
    return np.asarray(1 / (_given(settings.factor) * powers) * (1 - kept) + 1 / powers * kept)


def _llama3(settings: RopeSettings, plain: FloatArray) -> FloatArray:
    """Llama 3.1: dimensions are kept, divided by factor, or blended, by their turns in the original window."""
    low, high = _given(settings.low_freq_factor), _given(settings.high_freq_factor)
    original, factor = _given(settings.original_max_position_embeddings), _given(settings.factor)
    # torch divides a number by a tensor as reciprocal times number, which rounds twice.
    periods = 1 / plain * np.float32(2 * math.pi)
    kept = (1 / periods * np.float32(original) - low) / (high - low)
    blended = (1 - kept) * plain / factor + kept * plain
    slow, fast = periods > np.float32(original / low), periods < np.float32(original / high)
    return np.asarray(np.where(slow, plain / factor, np.where(fast, plain, blended)))


def _given(value: float | None) -> float:
    assert value is not None, "RopeSettings guarantees the keys of its type"
    return value
