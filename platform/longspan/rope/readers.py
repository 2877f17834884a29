"""What the readers of an export make of its RoPE: keys by which they agree, and what no key can say.

transformers 5, transformers 4 and vLLM compute from one dictionary, each in its own way: `docs/readers.md` has what was
measured. `huggingface` writes and reads configs through `for_readers` and `from_readers`.
"""

import json
import math
from collections.abc import Mapping
from typing import Any

from longspan.errors import ConfigError
from longspan.rope.frequencies import attention_scaling
from longspan.rope.longrope import depends_on_length
from longspan.rope.settings import RopeSettings

# Keys of one reader alone, by type.
_SCALES = {"longrope": ("short_mscale", "long_mscale"), "yarn": ("attn_factor",)}
_ROUNDING = 1e-9


def for_readers(parameters: dict[str, Any], settings: RopeSettings, window: int) -> dict[str, Any]:
    """`parameters` (from `to_hf`) as every reader takes them.

    "linear": vLLM, SGLang and TensorRT-LLM multiply max_position_embeddings by its factor, and no key stops them. They
    do not for "llama3", which divides by factor whatever turns less than low_freq_factor times in the original window:
    with as many turns as the window has tokens that is every frequency, to the bits of "linear".
    "longrope": vLLM takes no attention_factor but one scale for each list.
    "yarn": vLLM has angles for factor times the original window and no more, so where the window goes further the
    original one is doubled, and the rotations in it too: the frequencies stay the same to the bit. Older vLLM and
    SGLang take an attn_factor, relative to YaRN's own formula.
    transformers names keys that it does not know in its log, and loads the model.

    Args:
        settings: of `parameters`.
        window: max_position_embeddings as it will be written, in tokens.
    """
    match settings.rope_type:
        case "linear":
            original = max(1, round(window / float(settings.factor or 1)))
            return parameters | {
                "rope_type": "llama3",
                "original_max_position_embeddings": original,
                "low_freq_factor": float(original),
                "high_freq_factor": 2.0 * original,
            }
        case "longrope" if not _is_close(attention_scaling(settings), _vllm_mscale(settings, window)):
            return parameters | dict.fromkeys(_SCALES["longrope"], attention_scaling(settings))
        case "yarn":
            relative = _relative_attention(settings)
            alone = {} if _is_close(relative, 1.0) else {"attn_factor": relative}
            return parameters | _doubled(settings, window) | alone
        case _:
            return parameters


def from_readers(given: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """The way back of `for_readers`: a config's RoPE dictionary, its type under "rope_type", without what was written
    for one reader alone; and that, for `check_reader_scales`.
    """
    found, divides_all = dict(given), ("original_max_position_embeddings", "low_freq_factor", "high_freq_factor")
    limits: list[Any] = [found.get(key) for key in divides_all]
    if found["rope_type"] == "llama3" and _is_number(limits[0]) and limits[1:] == [limits[0], 2 * limits[0]]:
        found = {key: value for key, value in found.items() if key not in divides_all} | {"rope_type": "linear"}
    alone = next((keys for name, keys in _SCALES.items() if name == found["rope_type"]), ())
    return found, {key: found.pop(key) for key in alone if key in found}


def check_reader_scales(settings: RopeSettings, scales: Mapping[str, Any]) -> None:
    """Raises ConfigError where keys that vLLM reads (from `from_readers`) are not what transformers scales by."""
    for key, value in scales.items():
        expected = _relative_attention(settings) if key == "attn_factor" else attention_scaling(settings)
        if not _is_number(value) or not _is_close(value, expected):
            raise ConfigError(
                f"rope.{key} is {value!r} for vLLM, but what transformers scales cos and sin by makes it"
                f" {expected:.6g}; keep the one that the model was trained with"
            )


def reader_notes(settings: RopeSettings, window: int) -> tuple[str, ...]:
    """What an export with `settings` needs of its readers, since no key of config.json says it; a sentence each.

    Args:
        settings: of the export.
        window: the window that it reaches, in tokens.
    """
    original = settings.original_max_position_embeddings or 0
    if settings.rope_type == "longrope" and depends_on_length(settings):
        return (
            f"vLLM serves {original} tokens unless it is given --max-model-len {window}, and then turns every prompt by"
            f" the long factors: prompts of at most {original} tokens get other answers than in transformers, which"
            " keeps the short factors for them. Serve those without the flag.",
        )
    if settings.rope_type == "dynamic" and depends_on_length(settings):
        # A config can only name the original one.
        window = window if window > original else math.ceil(original * float(settings.factor or 1))
        overrides = {"max_position_embeddings": window, "rope_scaling": _dynamic_at(settings, original)}
        return (
            f"config.json names the original window of {original} tokens, from which transformers computes the base for"
            f" a longer prompt. vLLM never changes the base: give it --max-model-len {window} --hf-overrides"
            f" '{json.dumps(overrides)}', and every prompt meets the base of {window} tokens.",
        )
    reached = math.ceil(original * float(settings.factor or 1))
    if settings.rope_type == "yarn" and reached < window and not _doubled(settings, window):
        return (
            f"YaRN's factor of {settings.factor:g} reaches {reached} tokens of the window of {window}, and vLLM has no"
            f" angles beyond: give it --max-model-len {reached}.",
        )
    return ()


def _dynamic_at(settings: RopeSettings, original: int) -> dict[str, Any]:
    return {
        "rope_type": "dynamic",
        "rope_theta": settings.rope_theta,
        "factor": settings.factor,
        "max_trained_positions": original,
    }


def _doubled(settings: RopeSettings, window: int) -> dict[str, Any]:
    """Keys of the same "yarn" over an original window so long that factor times it covers the window; none where it
    does already, or would have to be longer than the window itself.
    """
    original, factor = settings.original_max_position_embeddings or window, float(settings.factor or 1)
    times = 1
    while math.ceil(times * original * factor) < window:
        times *= 2
    if times == 1 or times * original > window:
        return {}
    betas = {"beta_fast": settings.beta_fast, "beta_slow": settings.beta_slow}
    return {
        "original_max_position_embeddings": times * original,
        **{key: times * value for key, value in betas.items() if value is not None},
    }


def _vllm_mscale(settings: RopeSettings, window: int) -> float:
    """What vLLM scales cos and sin of a "longrope" by where no key says it."""
    original = settings.original_max_position_embeddings or window
    return math.sqrt(1 + math.log(window / original) / math.log(original)) if window > original else 1.0


def _relative_attention(settings: RopeSettings) -> float:
    return attention_scaling(settings) / _yarn_formula(float(settings.factor or 1))


def _yarn_formula(factor: float) -> float:
    return 0.1 * math.log(factor) + 1.0


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def _is_close(left: float, right: float) -> bool:
    return math.isclose(left, right, rel_tol=_ROUNDING)
