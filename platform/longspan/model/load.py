"""A Hugging Face causal LM opened for training: families checked, RoPE set and asserted, our attention put in.

transformers 5 ignores `rope_theta=` without a word, and fills keys left out of `rope_parameters` with wrong values, so
the complete dictionary is written into the config and the frequencies of the built model are compared with our own.
"""

from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import nn

from longspan import storage
from longspan.config.model import Model, Rope
from longspan.errors import ConfigError
from longspan.model import attention, checks, lora
from longspan.model.rotary import MixedRotary, turn_by_document
from longspan.rope import (
    RopeSettings,
    attention_scaling,
    from_hf,
    hf_max_position_embeddings,
    inv_freq,
    to_hf,
    window_frequencies,
)
from longspan.rope.resolve import RunRope, run_rope

FAMILIES = ("llama", "mistral", "qwen2", "qwen3")
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}
_CPU = torch.device("cpu")


def read_config(model: Model, field: str = "model.path") -> Any:
    """The transformers config of `model.path`, checked to be of a supported family, its RoPE that of the file.

    Args:
        model: of a recipe, or of what else opens one.
        field: what names the model there; messages begin with it.

    Raises:
        ConfigError: the path cannot be read, or what config.json says is not supported: family, quantised weights,
            window, dropout, RoPE, sizes; see also `checks`.
    """
    raw, config = _config_of(model, field)
    where = f"{field}: config.json of '{model.path}'"
    if getattr(config, "attention_dropout", 0.0):
        raise ConfigError(f"{where}: attention_dropout is {config.attention_dropout}; set it to 0")
    _attend_to_everything(model, config, field, where)
    write_rope(config, _rope_of_file(raw, config, where), config.max_position_embeddings)
    checks.check_config(config, where)
    return config


def _config_of(model: Model, field: str) -> tuple[dict[str, Any], Any]:
    """config.json as the file has it, and transformers' object of it, of one of FAMILIES."""
    from transformers import AutoConfig, PretrainedConfig

    directory = _directory(model.path)
    where = f"{field}: config.json of '{model.path}'"
    try:
        raw = PretrainedConfig.get_config_dict(directory, revision=model.revision)[0]
    except Exception as error:  # what it raises is not documented, and all of it is about the file or the hub
        raise ConfigError(f"{field}: {_no_config(model, error)}") from None
    if not isinstance(raw, dict) or not raw.get("model_type"):
        raise ConfigError(f"{field}: {_no_config(model, ValueError('config.json names no model_type'))}")
    if raw["model_type"] not in FAMILIES:
        raise ConfigError(f"{field}: '{model.path}' is of type {raw['model_type']}; supported: {', '.join(FAMILIES)}")
    checks.check_raw(raw, where)
    try:
        config = AutoConfig.from_pretrained(
            directory, revision=model.revision, trust_remote_code=model.trust_remote_code
        )
    except Exception as error:  # by its own validation, or by what it computes with the values
        raise ConfigError(f"{where}: {reason(error)}; mend it") from None
    return raw, config


def _no_config(model: Model, error: Exception) -> str:
    """Why there is no config to read, and the mend."""
    from huggingface_hub.errors import GatedRepoError, RepositoryNotFoundError, RevisionNotFoundError

    cause, path = error.__cause__ or error, model.path
    if isinstance(cause, GatedRepoError):
        return f"'{path}' is gated on the hub; accept its terms there, and give HF_TOKEN a token that may read it"
    if isinstance(cause, RepositoryNotFoundError):
        return (
            f"'{path}' is no directory here, and no model on the hub that can be seen without a token or with this one;"
            " check the name, or set HF_TOKEN if it is private"
        )
    if isinstance(cause, RevisionNotFoundError):
        return f"'{path}' has no revision '{model.revision}' on the hub; give a commit, tag or branch that it has"
    if Path(_directory(path), "adapter_config.json").is_file():
        return f"'{path}' is an adapter; give the model that it is folded into"
    return (
        f"cannot read a model config at '{path}' ({reason(error)}); give a directory with config.json or a hub name"
        " that can be reached"
    )


def reason(error: Exception) -> str:
    """An exception's own words on one line; those of transformers' validation stand in its last one."""
    lines = str(error).strip().splitlines() or [type(error).__name__]
    if len(lines) > 1 and lines[0].rstrip().endswith(":"):
        return lines[-1].strip().partition(": ")[2] or lines[-1].strip()
    return lines[0].rstrip(".")


def _attend_to_everything(model: Model, config: Any, field: str, where: str) -> None:
    """Turn a sliding window off in `config`, or refuse it."""
    types = set(getattr(config, "layer_types", None) or ())
    unknown = sorted(types - {"full_attention", "sliding_attention"})
    if unknown:
        raise ConfigError(f"{where}: layer_types has '{unknown[0]}'; only models of full attention can be extended")
    window = getattr(config, "sliding_window", None)
    if window is None and "sliding_attention" not in types:
        return
    if not model.drop_sliding_window:
        raise ConfigError(
            f"{field}: '{model.path}' attends in a sliding window of {window} tokens, so it"
            " cannot see further; set model.drop_sliding_window: true to train it with full attention"
        )
    config.sliding_window = None
    if getattr(config, "layer_types", None):
        config.layer_types = ["full_attention"] * config.num_hidden_layers
    if hasattr(config, "use_sliding_window"):
        config.use_sliding_window = False


def _rope_of_file(raw: dict[str, Any], config: Any, where: str) -> RopeSettings:
    """RoPE as config.json has it. The config object cannot tell: it fills a missing original window with the new one.

    A base or window that the file leaves to the model's class (Llama 2's base) is taken from the class.
    """
    given = {"max_position_embeddings": config.max_position_embeddings, **raw}
    sections = (raw, raw.get("rope_parameters") or {}, raw.get("rope_scaling") or {})
    if all(section.get("rope_theta") is None for section in sections):
        given["rope_theta"] = config.rope_parameters["rope_theta"]
    return from_hf(given, where)


def _directory(path: str) -> str:
    return str(storage.local_directory(path)) if storage.is_remote(path) else path


def head_dim(config: Any) -> int:
    return int(getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads)


def extend_config(config: Any, rope: Rope, target_length: int) -> RopeSettings:
    """Write the RoPE that the recipe exports, complete, and the target window into `config`; returns the settings."""
    settings = rope_of_run(config, rope, target_length).exported
    write_rope(config, settings, max(target_length, config.max_position_embeddings))
    return settings


def rope_of_run(config: Any, rope: Rope, target_length: int) -> RunRope:
    """What the recipe trains with and exports on the model of `config` (from `read_config`)."""
    return run_rope(from_hf(config.to_dict()), rope, head_dim(config), config.max_position_embeddings, target_length)


def write_rope(config: Any, settings: RopeSettings, window: int) -> None:
    """Put `settings`, complete, and the window in tokens into a transformers config."""
    config.rope_parameters = to_hf(settings)
    config.max_position_embeddings = hf_max_position_embeddings(settings, window)
    # Phi-3's place for the original window: transformers lets it win over rope_parameters, also where it is stale.
    if settings.rope_type == "longrope":
        config.original_max_position_embeddings = settings.original_max_position_embeddings
    elif hasattr(config, "original_max_position_embeddings"):
        del config.original_max_position_embeddings


def open_model(
    model: Model,
    rope: Rope,
    target_length: int,
    seed: int,
    sequence_rank: int = 0,
    device: torch.device = _CPU,
) -> tuple[nn.Module, RopeSettings]:
    """The model in `model.dtype` with longspan's attention and the RoPE that the recipe trains with, on the CPU.

    Args:
        model, rope: of the recipe.
        target_length: the window to reach, in tokens.
        seed: of random weights.
        sequence_rank: this rank's place among those that share a sample; mixed windows need it.
        device: where it will be trained: 4-bit layers are made there at once.

    Returns:
        The network and `RunRope.trained`.

    Raises:
        ConfigError: see `read_config` and `checks.check_model`.
    """
    from transformers import AutoModelForCausalLM
    from transformers.utils.logging import disable_progress_bar

    attention.register()
    disable_progress_bar()
    lora.require_quantiser(model.lora)
    config = read_config(model)
    plan = rope_of_run(config, rope, target_length)
    write_rope(config, plan.trained, max(target_length, config.max_position_embeddings))
    config.dtype = DTYPES[model.dtype]
    if model.weights == "random":
        torch.manual_seed(seed)
        network = AutoModelForCausalLM.from_config(
            config, attn_implementation=attention.NAME, dtype=DTYPES[model.dtype]
        )
    else:
        network = load_pretrained(
            model.path,
            config,
            DTYPES[model.dtype],
            field="model.path",
            revision=model.revision,
            trust_remote_code=model.trust_remote_code,
        )
    network.config.use_cache = False
    if model.lora is not None:
        lora.attach(network, model, model.lora, seed, device)
    if model.gradient_checkpointing:
        network.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
    assert_rope(network, plan.trained)
    if plan.mixed is not None:
        turn_by_document(network, plan.mixed, head_dim(config), sequence_rank)
    return network, plan.trained


def load_pretrained(
    path: str,
    config: Any,
    dtype: torch.dtype,
    *,
    field: str,
    revision: str | None = None,
    trust_remote_code: bool = False,
) -> Any:
    """The model of `path` under `config`, with longspan's attention and all of its own weights.

    transformers draws tensors that the files lack at random, with no more than a warning.

    Raises:
        ConfigError: beginning with `field`: see `checks.check_weights`.
    """
    from transformers import AutoModelForCausalLM

    checks.check_weights(path, revision, config, field)
    loaded: Any = AutoModelForCausalLM.from_pretrained(
        _directory(path),
        config=config,
        revision=revision,
        dtype=dtype,
        attn_implementation=attention.NAME,
        use_safetensors=True,
        trust_remote_code=trust_remote_code,
        ignore_mismatched_sizes=True,
        output_loading_info=True,
    )
    network, found = loaded
    wrong = sorted({*found["missing_keys"], *(name for name, *_ in found["mismatched_keys"])})
    if wrong:  # transformers has found less than the headers say there is
        raise ConfigError(checks.wrong_tensors(path, wrong, field))
    return network


def rotary_modules(network: nn.Module) -> dict[str, nn.Module]:
    """The modules that hold rotary frequencies, by their dotted names."""
    named = network.named_modules()
    return {name: module for name, module in named if isinstance(getattr(module, "inv_freq", None), torch.Tensor)}


def set_rope(network: nn.Module, settings: RopeSettings) -> None:
    """Give an open model other RoPE settings, to the bits that it would have been opened with; its weights stay.

    Args:
        network: from transformers, on any device; its rotary embeddings are made anew. None of mixed windows.

    Raises:
        ConfigError: see `assert_rope`.
    """
    config: Any = network.config
    write_rope(config, settings, config.max_position_embeddings)
    for name, module in rotary_modules(network).items():
        frequencies: Any = module.inv_freq
        rotary: Any = type(module)
        network.set_submodule(name, rotary(config=config).to(frequencies.device))
    assert_rope(network, settings)


def assert_rope(network: nn.Module, settings: RopeSettings) -> None:
    """Raises ConfigError unless every rotary module holds the float32 frequencies of `settings` (relative 1e-5), with
    mixed windows those of the original RoPE beside them, and scales cos and sin as `settings` do (relative 1e-6).
    """
    config: Any = network.config
    expected, scaling = inv_freq(settings, head_dim(config)), attention_scaling(settings)
    modules = rotary_modules(network)
    if not modules:
        raise ConfigError(f"rope: {type(network).__name__} has no rotary embedding with inv_freq to check")
    for module in modules.values():
        _assert_frequencies(module, "inv_freq", expected, settings)
        if isinstance(module, MixedRotary):
            original = window_frequencies(module.mixed, head_dim(config))[0]
            _assert_frequencies(module, "original_inv_freq", original, module.mixed.original)
        found = float(getattr(module, "attention_scaling", 1.0))
        if abs(found - scaling) > 1e-6 * scaling:
            raise ConfigError(
                f"rope: the model scales cos and sin by {found:.6g}, expected {scaling:.6g} for {to_hf(settings)}"
            )


def _assert_frequencies(
    module: nn.Module, name: str, expected: npt.NDArray[np.float32], settings: RopeSettings
) -> None:
    found: torch.Tensor = getattr(module, name)
    if found.dtype != torch.float32:
        raise ConfigError(f"rope: {name} of {type(module).__name__} is {found.dtype}, must be float32")
    actual = found.detach().cpu().numpy()
    if actual.shape != expected.shape or not np.allclose(actual, expected, rtol=1e-5, atol=0):
        raise ConfigError(
            f"rope: the model's frequencies are not those of {to_hf(settings)}; highest and lowest found"
            f" {actual[0]:.6g}, {actual[-1]:.6g}, expected {expected[0]:.6g}, {expected[-1]:.6g}"
        )
