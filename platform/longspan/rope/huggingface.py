"""The two-way door to Hugging Face config.json: plain dictionaries in and out, no transformers.

`model` reads the base model through it and `checkpoint` writes the extended one. Exports are complete and carry their
type, since a missing key is silently replaced by a wrong value and a missing type silently means "unscaled".
"""

import re
from collections.abc import Mapping
from typing import Any

from longspan.errors import ConfigError
from longspan.rope.longrope import depends_on_length
from longspan.rope.readers import check_reader_scales, for_readers, from_readers
from longspan.rope.settings import (
    FACTOR_LISTS,
    OPTIONAL_KEYS,
    REQUIRED_KEYS,
    WINDOWED_TYPES,
    RopeSettings,
    check_factor_count,
    from_mapping,
    rotary_dim,
)

ROPE_KEYS = (
    "rope_parameters",
    "rope_theta",
    "rope_scaling",
    "partial_rotary_factor",
    "max_position_embeddings",
    "original_max_position_embeddings",
)
"""Top-level keys of config.json that `config_keys` writes; where it writes none, none may stay from before."""


def to_hf(settings: RopeSettings) -> dict[str, Any]:
    """Complete `rope_parameters` of a model in transformers 5: rope_type, rope_theta and every key that the type reads.

    For a config.json that others read too, see `config_keys`.

    Optional keys of "yarn" are written only when set. "dynamic" reads its original window from the config's
    max_position_embeddings alone: see `hf_max_position_embeddings`.
    """
    parameters: dict[str, Any] = {"rope_type": settings.rope_type, "rope_theta": float(settings.rope_theta)}
    for key in (*REQUIRED_KEYS[settings.rope_type], *OPTIONAL_KEYS[settings.rope_type]):
        value = getattr(settings, key)
        if value is None or (settings.rope_type == "dynamic" and key == "original_max_position_embeddings"):
            continue
        if key in FACTOR_LISTS:
            parameters[key] = [float(number) for number in value]
        else:
            parameters[key] = value if isinstance(value, bool) or key.startswith("original") else float(value)
    if settings.partial_rotary_factor != 1:
        parameters["partial_rotary_factor"] = float(settings.partial_rotary_factor)
    return parameters


def config_keys(settings: RopeSettings, window: int) -> dict[str, Any]:
    """All that config.json says about RoPE and the window, such that its readers agree (see `readers`).

    `rope_parameters` is for transformers 5; rope_theta and `rope_scaling` (None for "default") are for older readers.
    Where both are read `rope_scaling` wins, so both say the same. The type is under both of its names. A partial
    rotation is repeated at the top level, where it used to be, and so is the original window of a "longrope" that
    chooses by length: without it transformers 4 would use short_factor up to the new window. With it vLLM serves the
    original window unless it is told another one, so a "longrope" with one list twice has none there.

    To be written over a config without `ROPE_KEYS`.

    Args:
        settings: of the export.
        window: the window that it reaches, in tokens.
    """
    written = hf_max_position_embeddings(settings, window)
    parameters = for_readers(to_hf(settings), settings, written)
    scaling = {"type": parameters["rope_type"], **parameters}
    keys: dict[str, Any] = {
        "max_position_embeddings": written,
        "rope_parameters": parameters,
        "rope_theta": scaling.pop("rope_theta"),
    }
    if "partial_rotary_factor" in scaling:
        keys["partial_rotary_factor"] = scaling.pop("partial_rotary_factor")
    keys["rope_scaling"] = None if settings.rope_type == "default" else scaling
    if settings.rope_type == "longrope" and depends_on_length(settings):
        keys["original_max_position_embeddings"] = settings.original_max_position_embeddings
    return keys


def hf_max_position_embeddings(settings: RopeSettings, target_length: int) -> int:
    """What to write as max_position_embeddings: the target length, but the original window for "dynamic".

    transformers takes "dynamic"'s original window from this key, so writing the target there would switch scaling off.
    """
    if settings.rope_type == "dynamic" and settings.original_max_position_embeddings is not None:
        return settings.original_max_position_embeddings
    return target_length


def from_hf(config: Mapping[str, Any], where: str = "config.json") -> RopeSettings:
    """`RopeSettings` of a model's config.json as a dictionary (or of `config.to_dict()`).

    Reads `rope_parameters` (transformers 5) and the older rope_theta + rope_scaling, with the type as "rope_type" or
    "type". A window outside the rope dictionary (Phi-3's top-level original_max_position_embeddings) is used as
    transformers does, and so is max_position_embeddings for a "longrope" without factor. Give it config.json as the
    file has it: the config object of transformers has filled a missing original window with the new one.

    Args:
        config: the keys of the file.
        where: what messages begin with; the key comes next, under the name that it has in the file.

    Raises:
        ConfigError: the two forms disagree; no base; scaling without a type; one dictionary per layer type; an unknown,
            missing or misplaced key; a bad value; an original window beyond max_position_embeddings; factor lists that
            do not fit the heads.
    """
    try:
        return _from_hf(config)
    except ConfigError as error:
        raise ConfigError(f"{where}: {error}") from None


def _from_hf(config: Mapping[str, Any]) -> RopeSettings:
    new = _settings_of(config, config.get("rope_parameters"), "rope_parameters")
    old = _settings_of(config, config.get("rope_scaling"), "rope_scaling")
    if new is not None and old is not None and new != old:
        raise ConfigError(
            f"rope_parameters ({to_hf(new)}) and rope_scaling ({to_hf(old)}) disagree; keep the one that the model was"
            " trained with"
        )
    settings = new or old
    if settings is not None:
        return settings
    if config.get("rope_theta") is None:
        raise ConfigError(
            "rope_theta is missing, and so is rope_parameters; older models leave it to their class, so load the config"
            " with transformers and save it again"
        )
    return _checked({"rope_type": "default", **_top_level(config)}, config, "rope_parameters", {}, {})


def _settings_of(config: Mapping[str, Any], section: Any, name: str) -> RopeSettings | None:
    if section is None or section == {}:
        return None
    if not isinstance(section, Mapping):
        raise ConfigError(f"{name} is {section!r}; give a dictionary with a rope_type")
    given = {key: value for key, value in section.items() if value is not None}
    nested = [key for key, value in given.items() if isinstance(value, Mapping)]
    if nested:
        raise ConfigError(
            f"{name}.{nested[0]}: {name} has one dictionary per layer type; longspan extends models with one RoPE for"
            " all layers"
        )
    rope_type = _rope_type(given, name)
    top_level = _top_level(config)
    theta = given.get("rope_theta", top_level.get("rope_theta"))
    if "rope_theta" in top_level and theta != top_level["rope_theta"]:
        raise ConfigError(
            f"{name}.rope_theta is {theta}, but rope_theta at the top level {top_level['rope_theta']}; transformers 5"
            " reads the first and older versions the second, make them equal"
        )
    given = {**top_level, **given, "rope_type": rope_type}
    original = _original_window(config, given)
    given.pop("original_max_position_embeddings", None)
    if original is not None:
        given["original_max_position_embeddings"] = original
    given, scales = from_readers(given)
    if rope_type == "longrope" and "factor" not in given and "max_position_embeddings" in config:
        given["factor"] = _window_ratio(config["max_position_embeddings"], original)
    given = {key: value for key, value in given.items() if value is not None}
    return _checked(given, config, name, section, scales)


def _checked(
    given: Mapping[str, Any],
    config: Mapping[str, Any],
    name: str,
    section: Mapping[str, Any],
    scales: Mapping[str, Any],
) -> RopeSettings:
    """The settings, with every `rope.KEY` of a message under the key's place in the file."""

    def place(found: re.Match[str]) -> str:
        key = found[1]
        # The original window is the one key whose place at the top level wins.
        if key in config and (key not in section or key == "original_max_position_embeddings"):
            return key
        return f"{name}.{'type' if key == 'rope_type' and key not in section and 'type' in section else key}"

    try:
        settings = from_mapping(given)
        _check_model(settings, config)
        check_reader_scales(settings, scales)
    except ConfigError as error:
        raise ConfigError(re.sub(r"\brope\.([a-z_]+)", place, str(error))) from None
    return settings


def _window_ratio(window: Any, original: Any) -> float | None:
    """LongRoPE's factor where a config leaves it out, as in Phi-3; None where it cannot be told."""
    if not isinstance(window, int) or not isinstance(original, int) or original < 1:
        return None
    return max(1.0, window / original)


def _check_model(settings: RopeSettings, config: Mapping[str, Any]) -> None:
    """Settings against the model's own window and heads, as far as the config names them."""
    window, original = config.get("max_position_embeddings"), settings.original_max_position_embeddings
    if settings.rope_type in WINDOWED_TYPES and isinstance(window, int) and original is not None and original > window:
        raise ConfigError(
            f"rope.original_max_position_embeddings is {original}, beyond max_position_embeddings of {window}; give"
            " the window that the model was trained with before it was extended"
        )
    head_dim, width, heads = (config.get(key) for key in ("head_dim", "hidden_size", "num_attention_heads"))
    if head_dim is None and isinstance(width, int) and isinstance(heads, int) and heads > 0:
        head_dim = width // heads
    if isinstance(head_dim, int):
        check_factor_count(settings, rotary_dim(settings, head_dim))


def _rope_type(given: dict[str, Any], name: str) -> Any:
    """The type under either name; both are taken out of `given`. Without a type only a bare base is believed."""
    types = [given.pop(key) for key in ("rope_type", "type") if key in given]
    if types and types[0] != types[-1]:
        raise ConfigError(f"{name} has both rope_type and type: {' and '.join(sorted(map(repr, types)))}; keep one")
    if types:
        return types[0]
    scaling = sorted(set(given) - {"rope_theta", "partial_rotary_factor"})
    if scaling:
        raise ConfigError(
            f"{name}.rope_type is missing beside {', '.join(scaling)}; transformers would load it unscaled, add it"
        )
    return "default"


def _top_level(config: Mapping[str, Any]) -> dict[str, Any]:
    keys = ("rope_theta", "partial_rotary_factor")
    return {key: config[key] for key in keys if config.get(key) is not None}


def _original_window(config: Mapping[str, Any], given: Mapping[str, Any]) -> Any:
    """The window before scaling, from where transformers takes it; None for types that read none."""
    match given["rope_type"]:
        case "default" | "linear":
            return None
        case "dynamic":
            return config.get("max_position_embeddings", given.get("original_max_position_embeddings"))
        case _:
            inside = given.get("original_max_position_embeddings")
            return config.get("original_max_position_embeddings", inside)
