"""The rotary settings as data: one frozen record that cannot exist half-filled.

A recipe's `rope:` section or a model's config.json becomes a `RopeSettings` (see `huggingface`), from which
`frequencies` computes what the positions meet. Every key is checked here, because transformers only warns.
"""

import difflib
import math
import sys
from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any, Literal, TypeAlias, get_args

from longspan.errors import ConfigError

RopeType: TypeAlias = Literal["default", "linear", "dynamic", "yarn", "llama3", "longrope"]

REQUIRED_KEYS: dict[RopeType, tuple[str, ...]] = {
    "default": (),
    "linear": ("factor",),
    "dynamic": ("factor", "original_max_position_embeddings"),
    "yarn": ("factor", "original_max_position_embeddings", "beta_fast", "beta_slow"),
    "llama3": ("factor", "original_max_position_embeddings", "low_freq_factor", "high_freq_factor"),
    "longrope": ("factor", "original_max_position_embeddings", "short_factor", "long_factor"),
}
OPTIONAL_KEYS: dict[RopeType, tuple[str, ...]] = {
    "default": (),
    "linear": (),
    "dynamic": (),
    "yarn": ("attention_factor", "mscale", "mscale_all_dim", "truncate"),
    "llama3": (),
    "longrope": ("attention_factor",),
}
# Types that grow a window which their own dictionary names.
WINDOWED_TYPES: tuple[RopeType, ...] = ("yarn", "llama3", "longrope")
FACTOR_LISTS = ("short_factor", "long_factor")
# YaRN's own defaults (arXiv 2309.00071, section 3.2), written out in every export so that no reader has to know them.
_YARN_DEFAULTS = {"beta_fast": 32.0, "beta_slow": 1.0}


@dataclass(frozen=True)
class RopeSettings:
    """Rotary position embedding of one model. None means that the key does not apply to `rope_type`.

    Attributes:
        rope_type: the formula (see `frequencies.inv_freq`).
        rope_theta: the base; frequency i is rope_theta ** (-2i / rotary_dim) before scaling.
        factor: how many times the window grows, 1 or more. All types but "default".
        original_max_position_embeddings: the window before scaling. "dynamic", "yarn", "llama3" and "longrope".
        beta_fast, beta_slow: rotations in the original window above which a dimension keeps its frequency, and below
            which it is divided by factor. "yarn"; 32 and 1 unless given.
        low_freq_factor, high_freq_factor: the same two limits for "llama3" (Llama 3.1: 1 and 4).
        attention_factor: what cos and sin are multiplied by. "yarn": None for the value that follows from factor.
            "longrope": sqrt(1 + ln factor / ln original window) unless given, and then always a number here, because
            readers differ in what they would compute it from.
        mscale, mscale_all_dim: DeepSeek's two numbers for the attention factor. "yarn", optional.
        truncate: False keeps the limits of YaRN's ramp between dimensions (gpt-oss). "yarn", None means True.
        partial_rotary_factor: share of a head's dimensions that are rotated.
        short_factor, long_factor: what each frequency is divided by, 1 or more, one number per pair of rotated
            dimensions, for sequences within the original window and for longer ones. "longrope"; a list is kept as a
            tuple.

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
    short_factor: tuple[float, ...] | None = None
    long_factor: tuple[float, ...] | None = None

    def __post_init__(self) -> None:
        if self.rope_type not in get_args(RopeType):
            raise ConfigError(f"rope.rope_type is {self.rope_type!r}; longspan knows {', '.join(get_args(RopeType))}")
        for key, value in _YARN_DEFAULTS.items():
            if self.rope_type == "yarn" and getattr(self, key) is None:
                object.__setattr__(self, key, value)
        for key in FACTOR_LISTS:
            if isinstance(getattr(self, key), list):
                object.__setattr__(self, key, tuple(getattr(self, key)))
        _check_keys(self)
        _check_values(self)
        if self.rope_type == "longrope" and self.attention_factor is None:
            object.__setattr__(self, "attention_factor", _longrope_attention_factor(self))


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
        ConfigError: the original window of "yarn", "llama3" or "longrope" is not below the new one, so nothing would be
            extended and transformers would compute the attention factor and the ramp for the wrong window.
    """
    original = settings.original_max_position_embeddings
    if settings.rope_type in WINDOWED_TYPES and original is not None and original >= max_position_embeddings:
        raise ConfigError(
            f"rope.original_max_position_embeddings is {original}, not below the new window of "
            f"{max_position_embeddings}; give the window that the base model was trained with"
        )


def rotary_dim(settings: RopeSettings, head_dim: int) -> int:
    """Dimensions of a head of `head_dim` that RoPE turns: what every formula of a base or a frequency counts."""
    return int(head_dim * settings.partial_rotary_factor)


def check_factor_count(settings: RopeSettings, rotated: int) -> None:
    """Check that "longrope" has one factor for each pair of the `rotated` dimensions of a head.

    Raises:
        ConfigError: it has not; transformers only warns and fails in the first forward pass.
    """
    for key in FACTOR_LISTS:
        factors = getattr(settings, key)
        if factors is not None and len(factors) != rotated // 2:
            raise ConfigError(
                f"rope.{key} has {len(factors)} numbers; the model rotates {rotated} dimensions of a head, which "
                f"need {rotated // 2}"
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
        if field.name in FACTOR_LISTS:
            _check_factors(field.name, value)
        elif field.name == "truncate":
            _require(isinstance(value, bool), field.name, value, "true or false")
        else:
            _require(_is_finite(value) and value > 0, field.name, value, "a number above 0")
    _require(settings.rope_theta > 1, "rope_theta", settings.rope_theta, "above 1")
    _require(settings.partial_rotary_factor <= 1, "partial_rotary_factor", settings.partial_rotary_factor, "at most 1")
    original = settings.original_max_position_embeddings
    if original is not None:
        _require(isinstance(original, int), "original_max_position_embeddings", original, "a whole number of tokens")
        # LongRoPE divides by the logarithm of the window.
        is_enough = settings.rope_type != "longrope" or original > 1
        _require(is_enough, "original_max_position_embeddings", original, "2 or more")
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
    if settings.short_factor is not None and settings.long_factor is not None:
        short, long = len(settings.short_factor), len(settings.long_factor)
        if short != long:
            raise ConfigError(
                f"rope.short_factor has {short} numbers but rope.long_factor {long}; both need one per pair of rotated "
                "dimensions"
            )


def _check_factors(key: str, value: Any) -> None:
    """LongRoPE's factors stretch or leave a frequency's period (arXiv 2402.13753 searches from 1 upwards)."""
    if not isinstance(value, tuple) or not value:
        raise ConfigError(f"rope.{key} is {value!r}; it must be a list with one number per pair of rotated dimensions")
    for index, factor in enumerate(value):
        _require(_is_finite(factor) and factor >= 1, f"{key}[{index}]", factor, "a number of 1 or more")


def _longrope_attention_factor(settings: RopeSettings) -> float:
    """LongRoPE, arXiv 2402.13753: the growth of entropy with the window, 1 where nothing grows."""
    assert settings.factor is not None
    assert settings.original_max_position_embeddings is not None
    if settings.factor <= 1:
        return 1.0
    return math.sqrt(1 + math.log(settings.factor) / math.log(settings.original_max_position_embeddings))


def _is_finite(value: Any) -> bool:
    # Whole numbers of YAML and JSON have no end, but everything here becomes a float.
    return isinstance(value, (int, float)) and not isinstance(value, bool) and abs(value) <= sys.float_info.max


def _require(holds: bool, key: str, value: object, wanted: str) -> None:
    if not holds:
        raise ConfigError(f"rope.{key} is {value!r}; it must be {wanted}")
