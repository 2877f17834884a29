"""E2-LLM at inference: one trained model, a scale per window, and the config that each scale is.

In training the positions carry the scale and the offset (see `positions`) and the model keeps its own RoPE, so the
exported config is not that of the run (arXiv 2401.06951). A config holds one scale; `evaluate` chooses one by length.
"""

import dataclasses

from longspan.errors import ConfigError
from longspan.rope.frequencies import attention_scaling, inv_freq
from longspan.rope.longrope import frequencies_as_longrope
from longspan.rope.settings import RopeSettings


def e2_scale(length: int, original: int) -> int:
    """Scale g for a window: ceil(length / original), 1 or more; 2 for 8k, 8 for 32k, 20 for 80k of a 4k model.

    Scales beyond those trained extrapolate: the paper's model, trained to 20, held to about 120k tokens.

    Raises:
        ConfigError: a window below 1 token.
    """
    if length < 1 or original < 1:
        raise ConfigError(f"rope: a window must be 1 token or more, got {length} from an original {original}")
    return -(-length // original)


def e2_inference(base: RopeSettings, scale: float, original: int, head_dim: int) -> RopeSettings:
    """The settings at which positions 0, 1, 2, ... meet the angles of positions 0, 1/g, 2/g, ... under `base`.

    Plain RoPE becomes "linear" with factor g, and "linear" one with its factor times g. All other types are no multiple
    of themselves, so they become a "longrope" with two equal lists of factors. A config holds one g: for another window
    export another config, the weights are the same.

    Args:
        base: the settings that the model was trained under, with scaled positions.
        scale: g, 1 or more.
        original: the window of `base`, in tokens.
        head_dim: dimensions of a head.

    Raises:
        ConfigError: a scale below 1; a base whose frequencies depend on the length of the sequence.
    """
    if not scale >= 1:
        raise ConfigError(f"rope.factor is {scale!r} as a scale of E2-LLM; it must be 1 or more")
    if base.rope_type in ("default", "linear"):
        return dataclasses.replace(base, rope_type="linear", factor=float(scale * (base.factor or 1.0)))
    if base.rope_type == "dynamic":
        raise ConfigError(
            "rope.type: 'e2llm' scales fixed frequencies, but the model is scaled by 'dynamic', which changes them with"
            " the length; extend it with type 'dynamic_ntk' and rope.drop_scaling: true first, which gives it one base"
        )
    return _divided(base, scale, scale, original, head_dim)


def e2_other_scale(exported: RopeSettings, was: float, scale: float, original: int, head_dim: int) -> RopeSettings:
    """The settings of another scale, from those that `e2_inference` made for the scale `was`: what it makes of the same
    base for `scale` (a "longrope" to a relative 1e-6).

    Raises:
        ConfigError: a scale below 1.
    """
    if exported.rope_type == "linear":
        base = dataclasses.replace(exported, factor=max(1.0, float(exported.factor or 1) / was))
        return e2_inference(base, scale, original, head_dim)
    if not scale >= 1:
        raise ConfigError(f"rope.factor is {scale!r} as a scale of E2-LLM; it must be 1 or more")
    return _divided(exported, scale / was, scale, original, head_dim)


def _divided(base: RopeSettings, divisor: float, scale: float, original: int, head_dim: int) -> RopeSettings:
    """A "longrope" with the frequencies of `base` divided by `divisor` at every length."""
    # Beyond the original window of a "longrope" base, so that its long factors are meant.
    frequencies = inv_freq(base, head_dim, sequence_length=(base.original_max_position_embeddings or original) + 1)
    scaled = frequencies / divisor
    return frequencies_as_longrope(
        scaled,
        scaled,
        base.rope_theta,
        float(scale),
        original,
        attention_scaling(base),
        base.partial_rotary_factor,
    )


def interpolated(own: RopeSettings, scale: float) -> RopeSettings:
    """Position interpolation by `scale` over the base of `own`, in the place of a scale that `own` has already.

    What E2-LLM's checkpoints run at when the scale is chosen for a sequence; plain RoPE at scale 1.

    Args:
        own: of the checkpoint, "default" or "linear".
        scale: g, 1 or more.

    Raises:
        ConfigError: a scale below 1; another type, whose frequencies are no multiple of those of its base.
    """
    if own.rope_type not in ("default", "linear"):
        raise ConfigError(
            f"rope.rope_type: '{own.rope_type}' has no scale to choose, only plain RoPE and 'linear' have; ask the"
            " model at its own RoPE (no --scale or --scale-window, in a recipe evaluate.scale_window: 0)"
        )
    plain = RopeSettings("default", own.rope_theta, partial_rotary_factor=own.partial_rotary_factor)
    return plain if scale == 1 else dataclasses.replace(plain, rope_type="linear", factor=float(scale))
