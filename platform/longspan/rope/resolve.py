"""From a recipe's `rope:` section and a model's own settings to the settings of the run.

The recipe names a formula; what it leaves out comes from the model (base, original window) and the target length
(factor).
"""

from longspan.config.recipe import Rope
from longspan.errors import ConfigError
from longspan.rope.settings import RopeSettings, validate
from longspan.rope.theta import dynamic_ntk_theta, ntk_theta


def resolve_rope(
    base: RopeSettings, rope: Rope, head_dim: int, max_position_embeddings: int, target_length: int
) -> RopeSettings:
    """The run's settings.

    Args:
        base: of the model as it is.
        rope: the recipe's section.
        head_dim: dimensions of a head.
        max_position_embeddings: of the model as it is; the original window unless the recipe or `base` names another. A
            model that "linear" has extended already started from a window `base.factor` times smaller.
        target_length: the window to reach, in tokens.

    Raises:
        ConfigError: a type that starts from plain RoPE is asked for, but the model is already scaled.
    """
    if rope.type == "keep":
        return base
    if base.rope_type != "default" and rope.theta is None and rope.type in ("ntk", "dynamic_ntk"):
        raise ConfigError(
            f"rope.type: '{rope.type}' starts from plain RoPE, but the model is already scaled by '{base.rope_type}';"
            " give rope.theta to start from, or type 'keep'"
        )
    theta = rope.theta if rope.theta is not None else base.rope_theta
    original = rope.original_max_position_embeddings or _original_window(base, max_position_embeddings)
    factor = rope.factor if rope.factor is not None else max(1.0, target_length / original)
    partial = base.partial_rotary_factor
    rotary_dim = int(head_dim * partial)
    match rope.type:
        case "theta":
            settings = RopeSettings("default", theta, partial_rotary_factor=partial)
        case "ntk":
            settings = RopeSettings("default", ntk_theta(theta, factor, rotary_dim), partial_rotary_factor=partial)
        case "dynamic_ntk":
            theta = dynamic_ntk_theta(theta, factor, target_length, original, rotary_dim)
            settings = RopeSettings("default", theta, partial_rotary_factor=partial)
        case "linear":
            settings = RopeSettings("linear", theta, factor=factor, partial_rotary_factor=partial)
        case "yarn":
            settings = RopeSettings(
                "yarn",
                theta,
                factor=factor,
                original_max_position_embeddings=original,
                beta_fast=rope.beta_fast,
                beta_slow=rope.beta_slow,
                partial_rotary_factor=partial,
            )
        case "llama3":
            settings = RopeSettings(
                "llama3",
                theta,
                factor=factor,
                original_max_position_embeddings=original,
                low_freq_factor=rope.low_freq_factor,
                high_freq_factor=rope.high_freq_factor,
                partial_rotary_factor=partial,
            )
    validate(settings, target_length)
    return settings


def _original_window(base: RopeSettings, max_position_embeddings: int) -> int:
    if base.rope_type == "linear" and base.factor is not None:
        return max(1, round(max_position_embeddings / base.factor))
    return base.original_max_position_embeddings or max_position_embeddings
