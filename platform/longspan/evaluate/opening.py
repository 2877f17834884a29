"""A checkpoint opened to be evaluated: longspan's attention, any RoPE put over its own, both proven.

So a base model can be asked at lengths beyond its window, untouched or with training-free NTK, PI or YaRN, and an
E2-LLM one at the scale of each length.
"""

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import nn

from longspan.config.model import Model
from longspan.errors import ConfigError
from longspan.model import attention
from longspan.model.load import DTYPES, assert_rope, load_pretrained, read_config, set_rope, write_rope
from longspan.rope import RopeSettings, from_hf, interpolated


def open_for_evaluation(
    model_path: str,
    *,
    rope: RopeSettings | None = None,
    dtype: str = "bfloat16",
    device: str = "auto",
    drop_sliding_window: bool = False,
) -> tuple[nn.Module, RopeSettings]:
    """The causal LM at `model_path` in evaluation mode on `device`, and the RoPE settings that it was proven to run at.

    Args:
        model_path: Hugging Face directory (local or s3://) or hub name, safetensors weights.
        rope: settings to use in place of the checkpoint's own.
        dtype: `float32` or `bfloat16`; the rotary frequencies stay float32.
        device: `auto` takes the GPU if there is one.
        drop_sliding_window: attend to everything although the checkpoint has a sliding window; else it is refused.

    Raises:
        ConfigError: an unknown dtype, a model that cannot be read or is not supported (see `model.load.read_config`),
            or frequencies that are not those asked for.
    """
    if dtype not in DTYPES:
        raise ConfigError(f"evaluate: dtype {dtype}: must be one of {', '.join(DTYPES)}")
    attention.register()
    config = read_config(Model(path=model_path, drop_sliding_window=drop_sliding_window), "evaluate")
    if rope is not None:
        write_rope(config, rope, config.max_position_embeddings)
    settings = from_hf(config.to_dict())
    model: Any = load_pretrained(model_path, config, DTYPES[dtype], field="evaluate")
    model = model.to(resolve_device(device)).eval()
    assert_rope(model, rope or settings)
    return model, settings


def scale_by_length(model: nn.Module, own: RopeSettings, scales: Mapping[int, int]) -> Callable[[int], None]:
    """What gives the open model the RoPE of a length, before it reads a sequence of that: `scales[length]`.

    Position interpolation over the base of its `own` RoPE, whatever scale that has, proven each time (`set_rope`); the
    weights stay as they are. Without scales, nothing is done.

    Raises:
        ConfigError: there are scales, but the model's own RoPE is neither plain nor "linear".
    """
    ropes = {length: interpolated(own, scale) for length, scale in scales.items()}

    def set_length(length: int) -> None:
        if ropes:
            set_rope(model, ropes[length])

    return set_length


def resolve_device(device: str) -> str:
    """`device`, with `auto` resolved to `cuda` or `cpu`."""
    if device != "auto":
        return device
    return "cuda" if torch.cuda.is_available() else "cpu"
