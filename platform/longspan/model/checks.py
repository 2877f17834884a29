"""Whether a model can be trained at all, by its config.json and the headers of its weights: no tensor is loaded.

`longspan plan` asks before a run, and `load` asks the same again when it opens the model, so both say the same.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import nn

from longspan.config.model import Model
from longspan.errors import ConfigError
from longspan.model import attention, lora
from longspan.model.weight_files import ITEM_BYTES, TensorInfo, is_copy, local_folder, read_headers

HEAD, EMBEDDING = "lm_head.weight", "model.embed_tokens.weight"
_SIZES = (
    *("vocab_size", "hidden_size", "intermediate_size", "num_hidden_layers"),
    *("num_attention_heads", "num_key_value_heads", "head_dim", "max_position_embeddings"),
)


def check_raw(raw: Mapping[str, Any], where: str) -> None:
    """What config.json says that no model of longspan can be; before transformers makes an object of it.

    Raises:
        ConfigError: quantised weights, an encoder beside the decoder, sizes that are none.
    """
    for key in ("quantization_config", "compression_config"):
        if raw.get(key):
            method = raw[key].get("quant_method", "unknown") if isinstance(raw[key], Mapping) else raw[key]
            raise ConfigError(
                f"{where}: {key}: the weights are quantised ({method}); give the model before quantisation (to train"
                " beside 4-bit weights, that one with model.lora.quantize: nf4)"
            )
    if raw.get("is_encoder_decoder"):
        raise ConfigError(f"{where}: is_encoder_decoder is true; only decoders can be extended")
    for key in _SIZES:
        value = raw.get(key)
        if isinstance(value, int) and value < 1:
            raise ConfigError(f"{where}: {key} is {value}; it must be 1 or more")


def check_config(config: Any, where: str) -> None:
    """What transformers builds without a word, or fails at with a traceback, once a model is made of the config.

    Raises:
        ConfigError: heads that do not divide, a part of each head rotated, an activation or padding token that is none.
    """
    from transformers.activations import ACT2FN

    heads, groups = config.num_attention_heads, config.num_key_value_heads
    if heads % groups:
        raise ConfigError(
            f"{where}: num_attention_heads {heads} is no multiple of num_key_value_heads {groups}; give those that the"
            " model was trained with"
        )
    share = (config.rope_parameters or {}).get("partial_rotary_factor", 1.0)
    if share != 1:
        raise ConfigError(
            f"{where}: partial_rotary_factor is {share}, but transformers' {config.model_type} rotates whole heads;"
            " take the key out if the model was trained so, else it cannot be trained here"
        )
    if config.hidden_act not in ACT2FN:
        raise ConfigError(
            f"{where}: hidden_act is '{config.hidden_act}', which transformers does not have; as in 'silu'"
        )
    padding = config.pad_token_id
    if padding is not None and not -config.vocab_size <= padding < config.vocab_size:
        raise ConfigError(
            f"{where}: pad_token_id is {padding}, beyond vocab_size {config.vocab_size}; give one of the vocabulary, or"
            " null"
        )


def outline(config: Any) -> nn.Module:
    """The network of a config without its numbers: names and shapes, on the meta device."""
    from transformers import AutoModelForCausalLM

    attention.register()
    with torch.device("meta"):
        network: nn.Module = AutoModelForCausalLM.from_config(config, attn_implementation=attention.NAME)
    return network


def check_model(model: Model, config: Any, field: str = "model.path", device: torch.device | None = None) -> None:
    """All that `load.open_model` refuses, of weights that are in files and of adapters; reads headers only.

    Args:
        model: of the recipe.
        config: from `load.read_config`.
        field: what names the model; messages begin with it.
        device: that of training, where it is on this machine.

    Raises:
        ConfigError: see `check_weights`, `lora.check` and, with a device, `lora.require_quantiser` and
            `attention.resolve_kernel`.
    """
    if device is not None:
        lora.require_quantiser(model.lora)
        attention.resolve_kernel(model.attention, device)
    if model.weights == "pretrained":
        check_weights(model.path, model.revision, config, field)
    if model.lora is not None:
        lora.check(outline(config), model, model.lora, device)


def check_weights(path: str, revision: str | None, config: Any, field: str) -> None:
    """Whether the weights in the files are those of the config: all of them, of its shapes, and no others.

    transformers draws what it does not find at random and leaves out what it has no place for, with a warning each.

    Raises:
        ConfigError: see `weight_files.read_headers`; an adapter beside the weights, tensors that are missing, too many,
            of another shape or quantised, an output head that contradicts tie_word_embeddings.
    """
    folder = local_folder(path, revision)
    if folder is not None and (folder / "adapter_config.json").is_file():
        raise ConfigError(
            f"{field}: '{path}' holds an adapter (adapter_config.json), and transformers would open that one's base;"
            " give the model that it is folded into, or move the adapter's files away"
        )
    headers = read_headers(field, path, revision)
    quantised = [name for name in sorted(headers) if headers[name].dtype not in ITEM_BYTES]
    if quantised:
        raise ConfigError(
            f"{field}: tensor {quantised[0]} of '{path}' is {headers[quantised[0]].dtype}, as in quantised weights;"
            " give the model before quantisation"
        )
    _check_head(f"{field}: config.json of '{path}'", folder, bool(config.tie_word_embeddings), headers)
    expected = {name: tuple(value.shape) for name, value in outline(config).state_dict().items()}
    found = _under_full_names(headers)
    if config.tie_word_embeddings:
        expected.pop(HEAD)
        found.pop(HEAD, None)
    wrong = sorted(name for name, shape in expected.items() if name not in found or found[name].shape != shape)
    if wrong:
        raise ConfigError(wrong_tensors(path, wrong, field))
    extra = sorted(found.keys() - expected.keys())
    if extra:
        raise ConfigError(
            f"{field}: the weights in '{path}' hold {len(extra)} tensors that a model of its config.json has no place"
            f" for, the first is {extra[0]}; they would be lost, so mend config.json or take them out"
        )


def wrong_tensors(path: str, names: list[str], field: str) -> str:
    return (
        f"{field}: the weights in '{path}' are not those of its config.json: {len(names)} tensors are missing or of"
        f" another shape, the first is {names[0]}; fetch the model again"
    )


def _under_full_names(found: dict[str, TensorInfo]) -> dict[str, TensorInfo]:
    """As transformers finds them: a backbone saved alone has no `model.` before its names."""
    if any(name.startswith("model.") for name in found):
        return dict(found)
    return {name if name == HEAD else f"model.{name}": info for name, info in found.items()}


def _check_head(where: str, folder: Path | None, tied: bool, headers: Mapping[str, TensorInfo]) -> None:
    if HEAD not in headers and not tied:
        raise ConfigError(
            f"{where}: tie_word_embeddings is false, but the weights hold no {HEAD}; set it to true if the model was"
            " trained so, else fetch it again"
        )
    # On the hub a copy is not told from another head before it is here.
    if HEAD in headers and tied and folder is not None and not is_copy(folder, headers, HEAD, EMBEDDING):
        raise ConfigError(
            f"{where}: tie_word_embeddings is true, but {HEAD} in the files is no copy of {EMBEDDING}; set it as the"
            " model was trained"
        )
