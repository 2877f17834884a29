"""Which frequencies the positions meet: inv_freq and the attention scaling of every rope type.

Pure functions of `RopeSettings`. `model` asserts at start-up that the loaded model has exactly these, because
transformers ignores some ways of setting RoPE without a word.
"""

import math
from typing import assert_never

import numpy as np
import numpy.typing as npt

from longspan.errors import ConfigError
from longspan.rope.settings import RopeSettings
from longspan.rope.theta import dynamic_ntk_theta

FloatArray = npt.NDArray[np.float32]


def inv_freq(
    settings: RopeSettings,
    head_dim: int,
    partial_rotary_factor: float | None = None,
    sequence_length: int | None = None,
) -> npt.NDArray[np.float32]:
    """Inverse frequencies, in radians per position.

    Computed in float32 like transformers, whose rounding of exponents and ramps a float64 result misses by up to 2e-6;
    only the power is taken in float64. Seen beside transformers 5.23: relative 1.2e-7 (one unit in the last place), and
    1e-6 for "llama3", whose blend magnifies it. The tests allow 5e-7 and 2e-6.

    Args:
        settings: the rope type and its numbers.
        head_dim: dimensions of one attention head.
        partial_rotary_factor: share of them that is rotated; None for that of the settings.
        sequence_length: only for "dynamic", the longest sequence so far; None or a short one gives the unscaled base.

    Returns:
        float32 [int(head_dim * partial_rotary_factor) // 2].

    Raises:
        ConfigError: the rotated dimensions are not even, or too few for NTK scaling.
    """
    share = settings.partial_rotary_factor if partial_rotary_factor is None else partial_rotary_factor
    rotary_dim = int(head_dim * share)
    if rotary_dim < 2 or rotary_dim % 2:
        raise ConfigError(
            f"rope.partial_rotary_factor {share} of head_dim {head_dim} rotates {rotary_dim} dimensions; "
            "they must be even and above 0"
        )
    plain = _powers(settings.rope_theta, rotary_dim)
    match settings.rope_type:
        case "default":
            scaled = plain
        case "linear":
            scaled = plain / _given(settings.factor)
        case "dynamic":
            scaled = _powers(_dynamic_theta(settings, rotary_dim, sequence_length), rotary_dim)
        case "yarn":
            scaled = _yarn(settings, plain, rotary_dim)
        case "llama3":
            scaled = _llama3(settings, plain)
        case _:
            assert_never(settings.rope_type)
    return scaled


def attention_scaling(settings: RopeSettings) -> float:
    """What cos and sin are multiplied by: 1 for all types but "yarn", where it is 0.1 ln(factor) + 1 unless given.

    YaRN, arXiv 2309.00071, Eq. 22 (the square root of 1/t multiplies query and key alike); with mscale and
    mscale_all_dim the ratio of the two (DeepSeek-V2).
    """
    if settings.rope_type != "yarn":
        return 1.0
    if settings.attention_factor is not None:
        return float(settings.attention_factor)
    log_factor = 0.1 * math.log(_given(settings.factor))
    if settings.mscale is not None and settings.mscale_all_dim is not None:
        return (settings.mscale * log_factor + 1) / (settings.mscale_all_dim * log_factor + 1)
    return log_factor + 1


def _powers(theta: float, rotary_dim: int) -> FloatArray:
    exponents = np.arange(0, rotary_dim, 2, dtype=np.float32) / np.float32(rotary_dim)
    return np.asarray(1 / np.power(theta, exponents, dtype=np.float64).astype(np.float32))


def _dynamic_theta(settings: RopeSettings, rotary_dim: int, sequence_length: int | None) -> float:
    original = int(_given(settings.original_max_position_embeddings))
    length = original if sequence_length is None else sequence_length
    return dynamic_ntk_theta(settings.rope_theta, _given(settings.factor), length, original, rotary_dim)


def _yarn(settings: RopeSettings, plain: FloatArray, rotary_dim: int) -> FloatArray:
    """NTK by parts: fast dimensions keep their frequency, slow ones are interpolated, a ramp between (section 3.2)."""
    original = _given(settings.original_max_position_embeddings)

    def dimension_of(rotations: float) -> float:
        turns = math.log(original / (rotations * math.tau))
        return rotary_dim * turns / (2 * math.log(settings.rope_theta))

    low, high = dimension_of(_given(settings.beta_fast)), dimension_of(_given(settings.beta_slow))
    if settings.truncate is not False:
        low, high = math.floor(low), math.ceil(high)
    low, high = max(low, 0), min(high, rotary_dim - 1)
    # A ramp without width would divide by zero; transformers widens it by the same thousandth.
    width = 0.001 if low == high else high - low
    ramp = np.clip((np.arange(rotary_dim // 2, dtype=np.float32) - low) / width, 0, 1)
    return np.asarray(plain * (1 - ramp) + plain / _given(settings.factor) * ramp)


def _llama3(settings: RopeSettings, plain: FloatArray) -> FloatArray:
    """Llama 3.1: dimensions are kept, divided by factor, or blended, by their turns in the original window."""
    low, high = _given(settings.low_freq_factor), _given(settings.high_freq_factor)
    turns = _given(settings.original_max_position_embeddings) / (math.tau / plain)
    kept = np.clip((turns - low) / (high - low), 0, 1)
    return np.asarray((1 - kept) * plain / _given(settings.factor) + kept * plain)


def _given(value: float | None) -> float:
    assert value is not None, "RopeSettings guarantees the keys of its type"
    return value
