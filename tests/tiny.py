"""Tiny models of the supported families, and recipes for them."""

from pathlib import Path
from typing import Any

import torch

from longspan.config.load import parse
from longspan.config.recipe import Recipe

FAMILIES = ("llama", "mistral", "qwen2", "qwen3")
SIZES = {
    "vocab_size": 96,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 8,
    "max_position_embeddings": 64,
    "bos_token_id": 0,
    "eos_token_id": 1,
}


def tiny_config(family: str = "llama", **changes: Any) -> Any:
    from transformers import AutoConfig

    extra = {"sliding_window": None} if family == "mistral" else {}
    rope = {"rope_parameters": {"rope_type": "default", "rope_theta": 500.0}}
    return AutoConfig.for_model(family, **{**SIZES, **rope, **extra, **changes})


def tiny_model_directory(directory: Path, family: str = "llama", seed: int = 0, **changes: Any) -> Path:
    """A random-weight checkpoint in Hugging Face layout."""
    from transformers import AutoModelForCausalLM

    torch.manual_seed(seed)
    model = AutoModelForCausalLM.from_config(tiny_config(family, **changes), dtype=torch.float32)
    model.save_pretrained(directory)
    return directory


def tiny_recipe(model_path: Path | str, manifest: Path | str = "nowhere", **sections: Any) -> Recipe:
    """A small recipe; keyword arguments replace or extend its sections."""
    values: dict[str, Any] = {
        "name": "tiny",
        "model": {"path": str(model_path), "dtype": "float32", "gradient_checkpointing": False},
        "rope": {"type": "ntk"},
        "data": {
            "manifest": str(manifest),
            "sample_length": 32,
            "target_length": 256,
            "mix": [{"weights": {"text": 1.0}}],
            "packing": "sequential",
        },
        "train": {"steps": 4, "global_batch_size": 4, "micro_batch_size": 2, "learning_rate": 1e-2, "threads": 1},
    }
    for name, section in sections.items():
        if isinstance(section, dict) and isinstance(values.get(name), dict):
            values[name] = {**values[name], **section}
        else:
            values[name] = section
    return parse(Recipe, values, "test recipe")
