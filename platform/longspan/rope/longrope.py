"""LongRoPE: factor lists by formula, any pair of frequency sets as factor lists, and length-dependent RoPE held still.

Called by `resolve`, `e2llm` and `mixed_window`. The evolutionary search of LongRoPE and LongRoPE2 is not here: lists
that it found are given to `RopeSettings` as they are.
"""

import dataclasses

import numpy as np
import numpy.typing as npt

from longspan.errors import ConfigError
from longspan.rope.frequencies import inv_freq, theta_at, theta_powers
from longspan.rope.settings import RopeSettings, rotary_dim
from longspan.rope.theta import critical_dimension

# A factor list read back from float32 frequencies misses the true factors by a few units in the last place.
_ROUNDING = 1e-6


def critical_dimension_factors(
    theta: float, factor: float, original: int, head_dim: int, critical: int | None = None
) -> tuple[float, ...]:
    """long_factor by the critical-dimension formula: factor ** (min(i, critical) / critical) for pair i.

    Pairs from `critical` on, which never complete a turn in the original window, are interpolated by `factor`; faster
    ones follow NTK scaling with the base that meets them there, theta ** (ln(L/2pi) / ln(L0/2pi)) (arXiv 2310.05209).
    LongRoPE2 (arXiv 2502.20082) keeps this shape, finds the real critical pair lower than the theory (30 instead of 35
    for Llama-3-8B, 25 instead of 31 for Phi3-mini) and searches the slow pairs in [factor, 2 factor] for long needles;
    the formula takes the lower end of that range.

    Args:
        theta: base of the original frequencies.
        factor: target window / original window, 1 or more.
        original: the window that the model was trained with, in tokens.
        head_dim: rotated dimensions of a head, even.
        critical: index of the first interpolated pair; None for that of the theory (`theta.critical_dimension`).

    Returns:
        [head_dim // 2] factors, never falling, first 1, last `factor`.

    Raises:
        ConfigError: `critical` is not in 1 ... head_dim // 2 - 1, or the theory finds none in that range.
    """
    pairs = head_dim // 2
    index = critical_dimension(theta, original, head_dim) if critical is None else critical
    if not 1 <= index < pairs:
        mend = "give one below that" if critical is not None else "give rope.critical_dimension or rope.long_factor"
        raise ConfigError(
            f"rope.critical_dimension is {index} for a window of {original} tokens and base {theta:g}, but a head has "
            f"{pairs} pairs of rotated dimensions; {mend}"
        )
    return tuple(float(factor ** (min(pair, index) / index)) for pair in range(pairs))


def longrope_settings(
    base: RopeSettings,
    target_length: int,
    original: int,
    head_dim: int,
    *,
    theta: float | None = None,
    factor: float | None = None,
    long_factor: tuple[float, ...] | None = None,
    short_factor: tuple[float, ...] | None = None,
    attention_factor: float | None = None,
    critical: int | None = None,
) -> RopeSettings:
    """A "longrope" from a recipe's fields; what it leaves out follows from the model and the window.

    Args:
        base: of the model, whose own theta and share of rotated dimensions are taken; a scaling is not looked at.
        target_length: the window to reach, in tokens.
        original: the window to start from, in tokens.
        head_dim: dimensions of a head.
        theta: base; None for the model's.
        factor: None for target_length / original.
        long_factor: searched factors; None for `critical_dimension_factors`.
        short_factor: factors within the original window; None for all 1, the original RoPE.
        attention_factor: None for LongRoPE's formula.
        critical: for `critical_dimension_factors`.

    Raises:
        ConfigError: a list of the wrong length, a factor below 1, long_factor beside critical.
    """
    if long_factor is not None and critical is not None:
        raise ConfigError("rope.critical_dimension has no meaning beside rope.long_factor; remove one of them")
    base_theta = base.rope_theta if theta is None else theta
    rotated = rotary_dim(base, head_dim)
    ratio = max(1.0, target_length / original) if factor is None else factor
    long = long_factor or critical_dimension_factors(base_theta, ratio, original, rotated, critical)
    settings = RopeSettings(
        "longrope",
        base_theta,
        factor=ratio,
        original_max_position_embeddings=original,
        short_factor=short_factor or (1.0,) * (rotated // 2),
        long_factor=long,
        attention_factor=attention_factor,
        partial_rotary_factor=base.partial_rotary_factor,
    )
    # The lists meet the heads here, before a model is loaded.
    inv_freq(settings, head_dim)
    return settings


def depends_on_length(settings: RopeSettings) -> bool:
    """Whether transformers chooses the frequencies in each forward pass, by the largest position of the whole batch.

    Under sequence parallelism each rank sees its own positions only, so ranks would turn queries and keys differently:
    train with `at_length` instead.
    """
    if settings.rope_type == "longrope":
        return settings.short_factor != settings.long_factor
    return settings.rope_type == "dynamic" and settings.factor != 1


def at_length(settings: RopeSettings, sequence_length: int, head_dim: int) -> RopeSettings:
    """The settings that give every sequence what `settings` give one of `sequence_length` tokens.

    "dynamic" becomes a "default" with its base at that length, and "longrope" has the chosen list twice; the others
    are returned as they are.
    """
    if settings.rope_type == "dynamic":
        return RopeSettings(
            "default",
            theta_at(settings, rotary_dim(settings, head_dim), sequence_length),
            partial_rotary_factor=settings.partial_rotary_factor,
        )
    if settings.rope_type == "longrope":
        is_long = sequence_length > (settings.original_max_position_embeddings or 0)
        factors = settings.long_factor if is_long else settings.short_factor
        return dataclasses.replace(settings, short_factor=factors, long_factor=factors)
    return settings


def frequencies_as_longrope(
    short: npt.NDArray[np.float32],
    long: npt.NDArray[np.float32],
    theta: float,
    factor: float,
    original: int,
    attention_factor: float,
    partial_rotary_factor: float = 1.0,
) -> RopeSettings:
    """The "longrope" that has the given inverse frequencies within and beyond the original window (relative 5e-7).

    Args:
        short: float32 [rotary_dim // 2] for sequences of at most `original` tokens.
        long: float32 [rotary_dim // 2] for longer ones.
        theta: base that the factors are relative to; no frequency may exceed its own.

    Raises:
        ConfigError: a frequency is above that of `theta`, so its factor would be below 1.
    """
    powers = theta_powers(theta, 2 * len(short)).astype(np.float64)

    def factors(frequencies: npt.NDArray[np.float32]) -> tuple[float, ...]:
        exact = 1 / (powers * frequencies)
        if exact.min() < 1 - _ROUNDING:
            raise ConfigError(
                f"rope.rope_theta {theta:g}: frequency {int(exact.argmin())} is faster than that of the base by "
                f"{1 / exact.min():.6g}, and LongRoPE's factors only slow frequencies down; extend with a larger base"
            )
        return tuple(float(number) for number in np.maximum(exact, 1))

    return RopeSettings(
        "longrope",
        theta,
        factor=factor,
        original_max_position_embeddings=original,
        short_factor=factors(short),
        long_factor=factors(long),
        attention_factor=attention_factor,
        partial_rotary_factor=partial_rotary_factor,
    )
