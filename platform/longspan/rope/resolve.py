"""From a recipe's `rope:` section and a model's own settings to the settings of the run.

The recipe names a formula; what it leaves out comes from the model (base, original window, the rest of a scaling of the
same type) and the target length (factor). A scaling of the model's own is kept, or replaced and said (`replacement`),
or the recipe is refused; docs/rope.md has all pairs. `model` trains with `RunRope.trained`; `checkpoint` writes
`RunRope.exported`.
"""

from dataclasses import dataclass, replace
from typing import Any

from longspan.config.model import Rope
from longspan.errors import ConfigError
from longspan.rope.e2llm import e2_inference, e2_scale
from longspan.rope.frequencies import attention_scaling
from longspan.rope.longrope import at_length, depends_on_length, longrope_settings
from longspan.rope.mixed_window import MixedWindow, mixed_window_longrope
from longspan.rope.settings import RopeSettings, rotary_dim, validate
from longspan.rope.theta import critical_dimension_theta, dynamic_ntk_theta, ntk_theta

_BASE_FORMULAS = ("ntk", "dynamic_ntk", "critical_ntk")
# Files hold attention factors as others rounded them.
_ROUNDING = 1e-4


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
    is_kept = rope.type == "keep" and not rope.drop_scaling
    if is_kept and not (base.rope_type == "longrope" and depends_on_length(base)):
        raise ConfigError(
            "rope.mixed_window: type 'keep' has two RoPEs to mix only where the model is a 'longrope' with two lists;"
            " choose a type that extends the model, or turn mixed_window off"
        )
    original = _original_window(base, rope, max_position_embeddings)
    own_window = base.original_max_position_embeddings or original
    if depends_on_length(base) and original > own_window:
        raise ConfigError(
            f"rope.original_max_position_embeddings is {original}, but the model is a '{base.rope_type}' that changes"
            f" its RoPE at {own_window} tokens already, and mixed windows keep one for short documents; give"
            f" {own_window} or less"
        )
    mixed = MixedWindow(at_length(base, original, head_dim), trained, original, target_length)
    exported = settings if is_kept else mixed_window_longrope(mixed, head_dim)
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
        ConfigError: a type that starts from plain RoPE is named, but the model is already scaled and `drop_scaling` is
            not given; numbers that do not fit the type, the model or the window.
    """
    own = _plain(base) if rope.drop_scaling else base
    if rope.type == "keep":
        return own
    if rope.type == "theta":
        assert rope.theta is not None, "the section guarantees it"
        return replace(own, rope_theta=rope.theta)
    starts_plain = rope.type in _BASE_FORMULAS or (rope.type == "longrope" and own.rope_type != "longrope")
    if starts_plain and own.rope_type != "default":
        raise ConfigError(
            f"rope.type: '{rope.type}' starts from plain RoPE, but the model is already scaled by '{own.rope_type}';"
            " drop that with rope.drop_scaling: true, or keep it with type 'theta' (a larger base) or 'keep'"
        )
    original = _original_window(base, rope, max_position_embeddings)
    settings = _extended(own, rope, head_dim, original, target_length)
    validate(settings, target_length)
    return settings


def replacement(base: RopeSettings, rope: Rope, settings: RopeSettings) -> str | None:
    """One line for the user where a run does not keep the model's own scaling; None where it does, or has none.

    Args:
        base: of the model as it is.
        rope: the recipe's section.
        settings: what `run_rope` exports of the two.
    """
    if base.rope_type == "default" or settings == base:
        return None
    own = f"the model's own scaling ({_named(base)})"
    new = _named(settings)
    if rope.mixed_window:
        new += f", and for documents within {settings.original_max_position_embeddings:,} tokens the model's own"
    if rope.drop_scaling:
        return f"rope: {own} is dropped; in its place the model has {new}"
    if rope.type == "e2llm":
        if not depends_on_length(base):
            return None
        return (
            f"rope: e2llm drops the model's short_factor, for up to {base.original_max_position_embeddings:,} tokens;"
            " it trains and exports the frequencies of long_factor at every length"
        )
    if rope.type in ("keep", "theta"):
        if not (rope.mixed_window and base.rope_type == "dynamic"):
            return None
        return (
            f"rope: mixed_window ends the growth of {own} with the length; long documents get that of the target length"
        )
    return f"rope: {own} is replaced by {new}; rope.type keep or theta would keep it"


def _named(settings: RopeSettings) -> str:
    """Type, factor and window of settings in words."""
    if settings.rope_type == "default":
        return f"plain RoPE at base {settings.rope_theta:,.0f}"
    original = settings.original_max_position_embeddings
    return f"{settings.rope_type}, factor {settings.factor:g}" + (f" from {original:,} tokens" if original else "")


def _plain(settings: RopeSettings) -> RopeSettings:
    return RopeSettings("default", settings.rope_theta, partial_rotary_factor=settings.partial_rotary_factor)


def _extended(base: RopeSettings, rope: Rope, head_dim: int, original: int, target_length: int) -> RopeSettings:
    theta = rope.theta if rope.theta is not None else base.rope_theta
    factor = rope.factor if rope.factor is not None else max(1.0, target_length / original)
    rotated = rotary_dim(base, head_dim)
    plain = replace(_plain(base), rope_theta=theta)
    window: dict[str, Any] = {
        "rope_type": rope.type,
        "factor": factor,
        "original_max_position_embeddings": original,
    }
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
            keys = ("beta_fast", "beta_slow", "attention_factor", "mscale", "mscale_all_dim", "truncate")
            return replace(plain, **window, **_left_out(base, rope, *keys))
        case "llama3":
            return replace(plain, **window, **_left_out(base, rope, "low_freq_factor", "high_freq_factor"))
        case "longrope":
            return longrope_settings(
                base,
                target_length,
                original,
                head_dim,
                theta=rope.theta,
                factor=rope.factor,
                long_factor=rope.long_factor,
                critical=rope.critical_dimension,
                **_left_out(base, rope, "short_factor", "attention_factor"),
            )
    raise AssertionError(f"{rope.type} is resolved before")


def _left_out(base: RopeSettings, rope: Rope, *keys: str) -> dict[str, Any]:
    """The recipe's values of `keys`; for those that it leaves out, the model's own where it is scaled by the same type.

    An attention factor that is no more than its formula's is that of the model's own factor, so it is computed anew.
    """
    own: dict[str, Any] = {key: getattr(base, key) if base.rope_type == rope.type else None for key in keys}
    if own.get("attention_factor") is not None:
        formula = attention_scaling(replace(base, attention_factor=None))
        if abs(own["attention_factor"] - formula) < _ROUNDING * formula:
            own["attention_factor"] = None
    return {key: own[key] if getattr(rope, key, None) is None else getattr(rope, key) for key in keys}


def _original_window(base: RopeSettings, rope: Rope, max_position_embeddings: int) -> int:
    if rope.original_max_position_embeddings is not None:
        return rope.original_max_position_embeddings
    if rope.type == "e2llm":
        # Its scale multiplies whatever RoPE the model has now, so it counts from the window that the model has now.
        return max_position_embeddings
    if base.rope_type == "linear" and base.factor is not None:
        return max(1, round(max_position_embeddings / base.factor))
    return base.original_max_position_embeddings or max_position_embeddings
