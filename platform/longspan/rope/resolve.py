"""From a recipe's `rope:` section and a model's own settings to the settings of the run.

The recipe names a formula; what it leaves out comes from the model (base, original window) and the target length
(factor). `model` trains with `RunRope.trained`; `checkpoint` writes `RunRope.exported`.
"""

from dataclasses import dataclass, replace

from longspan.config.model import Rope
from longspan.errors import ConfigError
from longspan.rope.e2llm import e2_inference, e2_scale
from longspan.rope.longrope import at_length, depends_on_length, longrope_settings
from longspan.rope.mixed_window import MixedWindow, mixed_window_longrope
from longspan.rope.settings import RopeSettings, rotary_dim, validate
from longspan.rope.theta import critical_dimension_theta, dynamic_ntk_theta, ntk_theta


@dataclass(frozen=True)
class RunRope:
    """The RoPE of a run.

    Attributes:
        trained: of the model in training. Its frequencies never depend on the length: ranks that hold slices of a
            sequence would choose differently.
        exported: of the result's config.json; its frequencies are the trained ones at the target length, but for
            "e2llm", where the scale moves from the positions to the config.
        mixed: both RoPEs where the recipe asks for mixed windows; `trained` is then that of the long documents.
    """

    trained: RopeSettings
    exported: RopeSettings
    mixed: MixedWindow | None = None


def run_rope(
    base: RopeSettings, rope: Rope, head_dim: int, max_position_embeddings: int, target_length: int
) -> RunRope:
    """What a run trains with and what it exports; arguments as in `resolve_rope`.

    Raises:
        ConfigError: see `resolve_rope`; mixed windows whose two RoPEs are one, do not fit one config, or have no longer
            window than the original one.
    """
    settings = resolve_rope(base, rope, head_dim, max_position_embeddings, target_length)
    if rope.type == "e2llm":
        # The frequencies that `e2_inference` scales: those beyond the original window of a "longrope".
        return RunRope(at_length(base, (base.original_max_position_embeddings or 0) + 1, head_dim), settings)
    trained = at_length(settings, target_length, head_dim)
    if not rope.mixed_window:
        return RunRope(trained, settings)
    if rope.type == "keep" and not (base.rope_type == "longrope" and depends_on_length(base)):
        raise ConfigError(
            "rope.mixed_window: type 'keep' has two RoPEs to mix only where the model is a 'longrope' with two lists;"
            " choose a type that extends the model, or turn mixed_window off"
        )
    original = _original_window(base, rope, max_position_embeddings)
    mixed = MixedWindow(at_length(base, original, head_dim), trained, original, target_length)
    exported = settings if rope.type == "keep" else mixed_window_longrope(mixed, head_dim)
    return RunRope(trained, exported, mixed)


def resolve_rope(
    base: RopeSettings, rope: Rope, head_dim: int, max_position_embeddings: int, target_length: int
) -> RopeSettings:
    """The settings at which the result is used.

    Args:
        base: of the model as it is.
        rope: the recipe's section.
        head_dim: dimensions of a head.
        max_position_embeddings: of the model as it is; the original window unless the recipe or `base` names another. A
            model that "linear" has extended already started from a window `base.factor` times smaller.
        target_length: the window to reach, in tokens.

    Raises:
        ConfigError: a type that starts from plain RoPE is asked for, but the model is already scaled; numbers that do
            not fit the type, the model or the window.
    """
    if rope.type == "keep":
        return base
    if base.rope_type != "default" and rope.theta is None and rope.type in ("ntk", "dynamic_ntk", "critical_ntk"):
        raise ConfigError(
            f"rope.type: '{rope.type}' starts from plain RoPE, but the model is already scaled by '{base.rope_type}';"
            " give rope.theta to start from, or type 'keep'"
        )
    original = _original_window(base, rope, max_position_embeddings)
    settings = _extended(base, rope, head_dim, original, target_length)
    validate(settings, target_length)
    return settings


def _extended(base: RopeSettings, rope: Rope, head_dim: int, original: int, target_length: int) -> RopeSettings:
    theta = rope.theta if rope.theta is not None else base.rope_theta
    factor = rope.factor if rope.factor is not None else max(1.0, target_length / original)
    rotated = rotary_dim(base, head_dim)
    plain = RopeSettings("default", theta, partial_rotary_factor=base.partial_rotary_factor)
    match rope.type:
        case "ntk":
            return replace(plain, rope_theta=ntk_theta(theta, factor, rotated))
        case "dynamic_ntk":
            return replace(plain, rope_theta=dynamic_ntk_theta(theta, factor, target_length, original, rotated))
        case "critical_ntk":
            longer = max(original, target_length)
            return replace(plain, rope_theta=critical_dimension_theta(theta, longer, original))
        case "linear":
            return replace(plain, rope_type="linear", factor=factor)
        case "e2llm":
            scale = rope.factor if rope.factor is not None else e2_scale(target_length, original)
            return e2_inference(base, scale, original, head_dim)
        case "yarn":
            return replace(
                plain,
                rope_type="yarn",
                factor=factor,
                original_max_position_embeddings=original,
                beta_fast=rope.beta_fast,
                beta_slow=rope.beta_slow,
                attention_factor=rope.attention_factor,
            )
        case "llama3":
            return replace(
                plain,
                rope_type="llama3",
                factor=factor,
                original_max_position_embeddings=original,
                low_freq_factor=rope.low_freq_factor,
                high_freq_factor=rope.high_freq_factor,
            )
        case "longrope":
            return longrope_settings(
                base,
                target_length,
                original,
                head_dim,
                theta=rope.theta,
                factor=rope.factor,
                long_factor=rope.long_factor,
                short_factor=rope.short_factor,
                attention_factor=rope.attention_factor,
                critical=rope.critical_dimension,
            )
        case _:
            return plain


def _original_window(base: RopeSettings, rope: Rope, max_position_embeddings: int) -> int:
    if rope.original_max_position_embeddings is not None:
        return rope.original_max_position_embeddings
    if rope.type == "e2llm":
        # Its scale multiplies whatever RoPE the model has now, so it counts from the window that the model has now.
        return max_position_embeddings
    if base.rope_type == "linear" and base.factor is not None:
        return max(1, round(max_position_embeddings / base.factor))
    return base.original_max_position_embeddings or max_position_embeddings
