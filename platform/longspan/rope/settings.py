"""The rotary settings as data: one frozen record that cannot exist half-filled.

A recipe's `rope:` section or a model's config.json becomes a `RopeSettings` (see `huggingface`), from which
`frequencies` computes what the positions meet. Every key is checked here, because transformers only warns.
"""

import difflib
from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any, Literal, TypeAlias, get_args

from longspan.errors import ConfigError

RopeType: TypeAlias = Literal["default", "linear", "dynamic", "yarn", "llama3"]

REQUIRED_KEYS: dict[RopeType, tuple[str, ...]] = {
    "default": (),
    "linear": ("factor",),
    "dynamic": ("factor", "original_max_position_embeddings"),
    "yarn": ("factor", "original_max_position_embeddings", "beta_fast", "beta_slow"),
    "llama3": ("factor", "original_max_position_embeddings", "low_freq_factor", "high_freq_factor"),
}
OPTIONAL_KEYS: dict[RopeType, tuple[str, ...]] = {
    "default": (),
    "linear": (),
    "dynamic": (),
    "yarn": ("attention_factor", "mscale", "mscale_all_dim", "truncate"),
    "llama3": (),
}
# YaRN's own defaults (arXiv 2309.00071, section 3.2), written out in every export so that no reader has to know them.
_YARN_DEFAULTS = {"beta_fast": 32.0, "beta_slow": 1.0}


@dataclass(frozen=True)
class RopeSettings:
    """Rotary position embedding of one model. None means that the key does not apply to `rope_type`.

    Attributes:
        rope_type: the formula (see `frequencies.inv_freq`).
        rope_theta: the base; frequency i is rope_theta ** (-2i / rotary_dim) before scaling.
        factor: how many times the window grows, 1 or more. All types but "default".
        original_max_position_embeddings: the window before scaling. "dynamic", "yarn" and "llama3".
        beta_fast, beta_slow: rotations in the original window above which a dimension keeps its frequency, and below
            which it is divided by factor. "yarn"; 32 and 1 unless given.
        low_freq_factor, high_freq_factor: the same two limits for "llama3" (Llama 3.1: 1 and 4).
        attention_factor: what cos and sin are multiplied by. "yarn"; None for the value that follows from factor.
        mscale, mscale_all_dim: DeepSeek's two numbers for the attention factor. "yarn", optional.
        truncate: False keeps the limits of YaRN's ramp between dimensions (gpt-oss). "yarn", None means True.
        partial_rotary_factor: share of a head's dimensions that are rotated.

    Raises:
        ConfigError: from the constructor, naming the key as `rope.<key>`.
    """

    rope_type: RopeType
    rope_theta: float
    factor: float | None = None
    original_max_position_embeddings: int | None = None
    beta_fast: float | None = None
    beta_slow: float | None = None
    low_freq_factor: float | None = None
    high_freq_factor: float | None = None
    attention_factor: float | None = None
    mscale: float | None = None
    mscale_all_dim: float | None = None
    truncate: bool | None = None
    partial_rotary_factor: float = 1.0

    def __post_init__(self) -> None:
        if self.rope_type not in get_args(RopeType):
            raise ConfigError(f"rope.rope_type is {self.rope_type!r}; longspan knows {', '.join(get_args(RopeType))}")
        for key, value in _YARN_DEFAULTS.items():
            if self.rope_type == "yarn" and getattr(self, key) is None:
                object.__setattr__(self, key, value)
        _check_keys(self)
        _check_values(self)


def from_mapping(section: Mapping[str, Any]) -> RopeSettings:
    """`RopeSettings` of a plain mapping, such as a recipe's `rope:` section; None values count as absent.

    Raises:
        ConfigError: an unknown key (with the nearest known one), a missing or misplaced key, a bad value.
    """
    known = [field.name for field in fields(RopeSettings)]
    for key in section:
        if key not in known:
            near = difflib.get_close_matches(key, known, n=1, cutoff=0.5)
            hint = f"did you mean rope.{near[0]}?" if near else f"known keys are {', '.join(known)}"
            raise ConfigError(f"rope.{key} is not a known key; {hint}")
    given = {key: value for key, value in section.items() if value is not None}
    for key in ("rope_type", "rope_theta"):
        if key not in given:
            raise ConfigError(f"rope.{key} is missing; every rope section must name it")
    return RopeSettings(**given)


def validate(settings: RopeSettings, max_position_embeddings: int) -> None:
    """Check settings against the window that they are meant for (the target length of a run, in tokens).

    Raises:
        ConfigError: the original window of "yarn" or "llama3" is not below the new one, so nothing would be extended
            and transformers would compute the attention factor and the ramp for the wrong window.
    """
    original = settings.original_max_position_embeddings
    if settings.rope_type in ("yarn", "llama3") and original is not None and original >= max_position_embeddings:
        raise ConfigError(
            f"rope.original_max_position_embeddings is {original}, not below the new window of "
            f"{max_position_embeddings}; give the window that the base model was trained with"
        )


def _check_keys(settings: RopeSettings) -> None:
    rope_type = settings.rope_type
    for key in REQUIRED_KEYS[rope_type]:
        if getattr(settings, key) is None:
            raise ConfigError(f"rope.{key} is missing; rope_type {rope_type!r} needs it")
    applicable = {"rope_type", "rope_theta", "partial_rotary_factor", *REQUIRED_KEYS[rope_type]}
    applicable.update(OPTIONAL_KEYS[rope_type])
    for field in fields(settings):
        if field.name not in applicable and getattr(settings, field.name) is not None:
            raise ConfigError(f"rope.{field.name} does not apply to rope_type {rope_type!r}; remove it")


def _check_values(settings: RopeSettings) -> None:
    for field in fields(settings):
        value = getattr(settings, field.name)
        if field.name == "rope_type" or value is None:
            continue
        if field.name == "truncate":
            _require(isinstance(value, bool), field.name, value, "true or false")
            continue
        is_number = isinstance(value, (int, float)) and not isinstance(value, bool)
        _require(is_number and 0 < value < float("inf"), field.name, value, "a number above 0")
    _require(settings.rope_theta > 1, "rope_theta", settings.rope_theta, "above 1")
    _require(settings.partial_rotary_factor <= 1, "partial_rotary_factor", settings.partial_rotary_factor, "at most 1")
    original = settings.original_max_position_embeddings
    if original is not None:
        _require(isinstance(original, int), "original_max_position_embeddings", original, "a whole number of tokens")
    if settings.factor is not None:
        _require(settings.factor >= 1, "factor", settings.factor, "1 or more (the window grows)")
    if settings.beta_fast is not None and settings.beta_slow is not None:
        above = f"above rope.beta_slow ({settings.beta_slow})"
        _require(settings.beta_fast > settings.beta_slow, "beta_fast", settings.beta_fast, above)
    if settings.low_freq_factor is not None and settings.high_freq_factor is not None:
        above = f"above rope.low_freq_factor ({settings.low_freq_factor})"
        _require(
            settings.high_freq_factor > settings.low_freq_factor, "high_freq_factor", settings.high_freq_factor, above
        )


def _require(holds: bool, key: str, value: object, wanted: str) -> None:
    if not holds:
        raise ConfigError(f"rope.{key} is {value!r}; it must be {wanted}")
