"""Whether two checkpoints may be averaged at all (architecture, tensors), and whose positions are kept.

Averaging weights that were trained at different RoPE bases is LongRecipe's practice, but which base the result runs at
is a choice that nobody may guess (its code keeps the extended model's without a word; mergekit refuses).
"""

from pathlib import Path
from typing import Any

from longspan.errors import CheckpointError, ConfigError
from longspan.merge.weights import Weights
from longspan.model.weight_files import ITEM_BYTES, TensorInfo, is_copy

ARCHITECTURE = (
    "model_type",
    "hidden_size",
    "intermediate_size",
    "num_hidden_layers",
    "num_attention_heads",
    "num_key_value_heads",
    "head_dim",
    "hidden_act",
    "rms_norm_eps",
    "attention_bias",
    "mlp_bias",
    "tie_word_embeddings",
    "quantization_config",
)
"""config.json keys that decide what the numbers in a tensor mean."""
HEAD, EMBEDDING = "lm_head.weight", "model.embed_tokens.weight"
_GIVE = "give a Hugging Face model directory"


def read_config(side: str, directory: Path) -> dict[str, Any]:
    """config.json with the family's defaults filled in, so that old and new files compare.

    Raises:
        CheckpointError: no readable config.json; a family that longspan does not know; quantised weights.
    """
    from transformers import AutoConfig

    from longspan.model.load import FAMILIES, reason

    if (directory / "adapter_config.json").is_file():
        raise CheckpointError(
            f"merge: {side}: {directory} has an adapter_config.json, so it is an adapter; give the model that it is"
            " folded into"
        )
    if not (directory / "config.json").is_file():
        raise CheckpointError(f"merge: {side}: {directory} has no config.json; {_GIVE}")
    try:
        config: dict[str, Any] = AutoConfig.from_pretrained(directory, trust_remote_code=False).to_dict()
    except Exception as error:  # by its own validation, or by what it computes with the values
        raise CheckpointError(f"merge: {side}: {directory / 'config.json'} cannot be read ({reason(error)})") from None
    if config["model_type"] not in FAMILIES:
        raise CheckpointError(
            f"merge: {side}: model_type {config['model_type']} is not supported; supported: {', '.join(FAMILIES)}"
        )
    if config.get("quantization_config"):
        raise CheckpointError(
            f"merge: {side}: quantised weights cannot be averaged; give the checkpoint before quantisation"
        )
    return config


def check_architecture(a: dict[str, Any], b: dict[str, Any]) -> None:
    """Raises CheckpointError naming the first config.json key in which two models differ that must be built alike."""
    for key in ARCHITECTURE:
        if a.get(key) != b.get(key):
            raise CheckpointError(
                f"merge: {key} differs: a has {a.get(key)}, b has {b.get(key)}; only models of one architecture can be"
                " averaged"
            )


def positions(side: str, config: dict[str, Any]) -> dict[str, Any]:
    """What decides how far a model sees and at which frequencies: RoPE, window, sliding window."""
    from longspan.rope import from_hf, to_hf

    rope = to_hf(from_hf(config, f"merge: {side}: config.json"))
    sliding = config.get("sliding_window") if config.get("use_sliding_window") is not False else None
    return {
        **rope,
        "max_position_embeddings": config["max_position_embeddings"],
        "sliding_window": sliding,
    }


def choose_side(a: dict[str, Any], b: dict[str, Any], rope: str | None) -> str:
    """The side (`a` or `b`) whose config.json and tokenizer the result keeps; `a` where it makes no difference.

    Raises:
        ConfigError: `rope` is None although the sides differ.
    """
    if rope is not None:
        return rope
    seen_a, seen_b = positions("a", a), positions("b", b)
    if seen_a == seen_b:
        return "a"
    keys = [key for key in {**seen_a, **seen_b} if seen_a.get(key) != seen_b.get(key)]
    sides = "; ".join(
        f"{side} has " + ", ".join(f"{key} {seen.get(key)}" for key in keys)
        for side, seen in (("a", seen_a), ("b", seen_b))
    )
    raise ConfigError(
        f"merge: the positions differ: {sides}. Say which the result keeps: --rope a or b, in a"
        " pipeline's stage rope: a or b (LongRecipe keeps the extended model's)"
    )


def check_tensors(a: Weights, b: Weights, tied: bool, by_token: bool = False) -> list[str]:
    """Names of the tensors to average, in the order of a's files.

    A model with tied embeddings may hold a copy of them as `lm_head.weight`; an equal copy is left out. With `by_token`
    the number of rows of the embeddings may differ.

    Raises:
        CheckpointError: a tensor that one side lacks, another shape, a type that cannot be averaged, or a tied head
            that is no copy.
    """
    names = []
    sides: list[set[str]] = []
    for weights in (a, b):
        found = set(weights.tensors)
        if tied and HEAD in found:
            _check_tied(weights)
            found.discard(HEAD)
        sides.append(found)
    for weights, missing in ((b, sides[0] - sides[1]), (a, sides[1] - sides[0])):
        if missing:
            raise CheckpointError(
                f"merge: tensor {min(missing)} is missing in {weights.side} ({len(missing)} are); both must hold"
                " the same tensors"
            )
    for name, info in a.tensors.items():
        if name not in sides[0]:
            continue
        _check_pair(name, info, b.tensors[name], rows_may_differ=by_token and name in (HEAD, EMBEDDING))
        names.append(name)
    return names


def _check_pair(name: str, a: TensorInfo, b: TensorInfo, *, rows_may_differ: bool) -> None:
    if a.shape[1:] != b.shape[1:] if rows_may_differ else a.shape != b.shape:
        raise CheckpointError(
            f"merge: tensor {name} has shape {list(a.shape)} in a and {list(b.shape)} in b; they must agree"
        )
    for side, info in (("a", a), ("b", b)):
        if info.dtype not in ITEM_BYTES:
            raise CheckpointError(
                f"merge: tensor {name} is {info.dtype} in {side}; only {', '.join(ITEM_BYTES)} can be averaged"
            )


def _check_tied(weights: Weights) -> None:
    if not is_copy(weights.directory, weights.tensors, HEAD, EMBEDDING):
        raise CheckpointError(
            f"merge: {weights.side}: config.json ties the embeddings, but {HEAD} is no copy of {EMBEDDING}; set"
            " tie_word_embeddings as the model was trained, in both"
        )
