"""What the demonstration trains and on what: one corpus, one tiny model, four recipes. Plain values, nothing runs here.

The tiny model and the retrieval task are those in which extension shows within CPU minutes; every recipe is written to
the output directory and can be run again by itself with `longspan train`.
"""

import hashlib
import sysconfig
from pathlib import Path
from typing import Any

from longspan.config.corpus import Corpus
from longspan.config.load import parse
from longspan.config.recipe import Recipe

WINDOW, TARGET = 128, 1024
SAMPLE = 307
LENGTHS = [128, 256, 512, 1024]
TRAIN_BYTES, HELD_OUT_BYTES = 1_200_000, 200_000
BASE_PHASES = (
    (32, 220, {"fill": [1.0, 1.0], "query_fraction": 0.75, "pure_text_share": 0.0}),
    (64, 80, {"fill": [0.5, 1.0], "query_fraction": 0.6, "pure_text_share": 0.0}),
    (128, 350, {"fill": [0.05, 1.0], "query_fraction": 0.6, "pure_text_share": 0.2}),
)
"""Document length, optimizer steps and density of needles: retrieval emerges on short, dense documents first."""
EXTEND_DOCUMENTS = {"fill": [0.05, 0.9], "query_fraction": 0.6, "pure_text_share": 0.2}
EXTEND_STEPS, FULL_STEPS = 300, 60
EXTEND_BATCH = 4


def model_config(vocab_size: int) -> dict[str, Any]:
    """A two-layer Llama of 142k parameters; rope_theta is scaled to the window, so that the base fails beyond it."""
    return {
        "model_type": "llama",
        "architectures": ["LlamaForCausalLM"],
        "vocab_size": vocab_size,
        "hidden_size": 64,
        "intermediate_size": 128,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "num_key_value_heads": 2,
        "max_position_embeddings": WINDOW,
        "rope_parameters": {"rope_type": "default", "rope_theta": 500.0},
        "tie_word_embeddings": True,
        "initializer_range": 0.05,
        "bos_token_id": 0,
        "eos_token_id": 1,
        "dtype": "float32",
    }


def library_files() -> tuple[list[str], list[str]]:
    """Modules of Python's standard library to train on and to hold out, in an order that their names decide."""
    folder = Path(sysconfig.get_paths()["stdlib"])
    files = sorted(folder.glob("*.py"), key=lambda path: hashlib.sha256(path.name.encode()).digest())
    held_out: list[str] = []
    train: list[str] = []
    budgets = [HELD_OUT_BYTES, TRAIN_BYTES]
    for path in files:
        place = 0 if budgets[0] > 0 else 1
        if budgets[place] <= 0:
            break
        (held_out if place == 0 else train).append(str(path))
        budgets[place] -= path.stat().st_size
    return train, held_out


def corpus(output: str, seed: int) -> Corpus:
    train, held_out = library_files()
    needles = [(f"needles-{n}", n, steps * 8 * WINDOW // n, density) for n, steps, density in BASE_PHASES]
    needles += [
        (f"needles-{SAMPLE}", SAMPLE, EXTEND_STEPS * EXTEND_BATCH, EXTEND_DOCUMENTS),
        (f"needles-{TARGET}", TARGET, FULL_STEPS * EXTEND_BATCH, EXTEND_DOCUMENTS),
    ]
    values = {
        "output": f"{output}/data",
        "seed": seed,
        "tokenizer": {"train_vocab_size": 384, "needle_tokens": True},
        "sources": [
            {"type": "text", "name": "library", "paths": train},
            {"type": "text", "name": "held-out", "paths": held_out},
            *(
                {
                    "type": "needles",
                    "name": name,
                    "text_source": "library",
                    "length": length,
                    "documents": count,
                    **density,
                }
                for name, length, count, density in needles
            ),
        ],
    }
    return parse(Corpus, values, "demo corpus")


def base_recipe(output: str, seed: int) -> Recipe:
    """The model at its short window: documents of 32, then 64, then 128 tokens, packed into samples of 128."""
    starts = [sum(steps for _, steps, _ in BASE_PHASES[:index]) for index in range(len(BASE_PHASES))]
    values = _recipe(output, "base", seed) | {
        "model": {"path": f"{output}/init", "weights": "random", "dtype": "float32", "gradient_checkpointing": False},
        "rope": {"type": "keep"},
        "positions": {"type": "contiguous"},
        "data": {
            "manifest": f"{output}/data",
            "sample_length": WINDOW,
            "target_length": WINDOW,
            "mix": [
                {"from_step": start, "weights": {f"needles-{length}": 1.0}}
                for start, (length, _, _) in zip(starts, BASE_PHASES, strict=True)
            ],
        },
        "train": {
            "steps": sum(steps for _, steps, _ in BASE_PHASES),
            "global_batch_size": 8,
            "micro_batch_size": 8,
            "learning_rate": 4e-3,
            "schedule": "wsd",
            "warmup_steps": 50,
            "weight_decay": 0.1,
            "beta2": 0.98,
            "threads": 1,
        },
    }
    return parse(Recipe, values, "demo base")


def extension_recipe(output: str, seed: int, name: str) -> Recipe:
    """`longrecipe`, `no-gaps` (the same samples at ordinary positions) or `full-length` (equal compute at 1,024
    tokens).
    """
    full = name == "full-length"
    values = _recipe(output, name, seed) | {
        "model": {"path": f"{output}/base/checkpoint", "dtype": "float32", "gradient_checkpointing": False},
        "rope": {"type": "ntk"},
        "positions": {"type": "longrecipe" if name == "longrecipe" else "contiguous"},
        "data": {
            "manifest": f"{output}/data",
            "sample_length": TARGET if full else SAMPLE,
            "target_length": TARGET,
            "mix": [{"weights": {f"needles-{TARGET if full else SAMPLE}": 1.0}}],
        },
        "train": {
            "steps": FULL_STEPS if full else EXTEND_STEPS,
            "global_batch_size": EXTEND_BATCH,
            "micro_batch_size": EXTEND_BATCH,
            "learning_rate": 4e-3,
            "schedule": "cosine",
            "warmup_steps": 10,
            "min_lr_ratio": 0.05,
            "beta2": 0.98,
            "threads": 1,
            "save_every": 100,
        },
        "evaluate": {"lengths": LENGTHS, "text_source": "held-out"},
    }
    if name == "longrecipe":
        values["parallel"] = {"launch": "ray", "num_workers": 2, "sequence_parallel": 2}
    return parse(Recipe, values, f"demo {name}")


def _recipe(output: str, name: str, seed: int) -> dict[str, Any]:
    return {"name": name, "seed": seed, "output": f"{output}/{name}"}
