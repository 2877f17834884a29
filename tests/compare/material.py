"""Comparisons in a few values, and made-up evaluations, for the tests of this room."""

from collections.abc import Mapping
from typing import Any

from longspan.compare.results import Measured
from longspan.config.compare import Comparison
from longspan.config.load import parse

CONFIG: dict[str, Any] = {
    "model_type": "llama",
    "architectures": ["LlamaForCausalLM"],
    "vocab_size": 860,
    "hidden_size": 16,
    "intermediate_size": 24,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "num_key_value_heads": 2,
    "max_position_embeddings": 64,
    "rope_parameters": {"rope_type": "default", "rope_theta": 500.0},
    "bos_token_id": 0,
    "eos_token_id": 1,
}


def values(**changes: Any) -> dict[str, Any]:
    """A comparison of `short` (32 tokens, longrecipe positions), `full` (64 tokens) and the untrained `yarn`."""
    return {
        "name": "small",
        "seeds": [0, 1],
        "reference": "full",
        "budget": {"tokens": 256},
        "base": {"checkpoint": "base"},
        "recipe": {
            "model": {"dtype": "float32", "gradient_checkpointing": False},
            "rope": {"type": "ntk"},
            "data": {
                "manifest": "data",
                "sample_length": 32,
                "target_length": 128,
                "mix": [{"weights": {"text": 1}}],
                "packing": "sequential",
            },
            "train": {"global_batch_size": 2, "threads": 1},
        },
        "methods": [
            {"name": "yarn", "train": False, "set": {"rope.type": "yarn"}},
            {"name": "short", "note": "a quarter"},
            {"name": "full", "set": {"data.sample_length": 64, "positions.type": "contiguous"}},
        ],
        "evaluate": {
            "lengths": [64, 128],
            "text_source": "held",
            "tasks": ["recall", "larger"],
            "questions": 2,
            "examples": 2,
            "loss_windows": 2,
        },
    } | changes


def comparison(**changes: Any) -> Comparison:
    return parse(Comparison, values(**changes), "test")


def evaluation(recall: float, larger: float = 0.5, loss: float = 3.0) -> dict[str, Any]:
    """Accuracies at 128; at 64 both are 1."""
    return {
        "needle": {"lengths": [64, 128], "mean": [1.0, recall]},
        "tasks": {"larger": {"lengths": [64, 128], "mean": [1.0, larger]}},
        "loss_by_position": {"positions": [8.0, 90.0], "loss": [loss + 1, loss], "mean": loss + 0.25},
        "short_loss": {"length": 64, "mean": loss + 0.5, "windows": 4},
    }


def measured(method: str, by_seed: Mapping[int | None, dict[str, Any]], flops: float = 100.0) -> list[Measured]:
    return [Measured(method, seed, 4, 256, flops, 2.0, found) for seed, found in by_seed.items()]
