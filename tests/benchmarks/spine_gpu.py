"""Tokens/s and MFU of the spine on one GPU, beside a plain transformers loop over the same model and lengths in the
same run.

    python tests/benchmarks/spine_gpu.py --output DIR          (Llama-3-8B cut to 4 layers, 24k and 38k tokens)
    python tests/benchmarks/spine_gpu.py --output DIR --tiny   (a check that the script runs, on any machine)

The spine's figure is a whole `longspan train` run (feed, positions, DeepSpeed ZeRO, checkpoint and report left out of
the step time); the peer is AdamW on AutoModelForCausalLM with sdpa attention, gradient checkpointing and its own loss
over full logits.
"""

import argparse
import json
import statistics
import time
from pathlib import Path
from typing import Any

import torch

from longspan.config.corpus import Corpus
from longspan.config.load import parse
from longspan.config.recipe import Recipe
from longspan.corpus.prepare import prepare
from longspan.demo.settings import library_files
from longspan.launch.run import train
from longspan.observe.metrics import read_metrics
from longspan.planner.costs import flops_per_token, model_sizes

PEAK_FLOPS = 989.4e12
"""Dense bf16 of an H100 or H200 (SXM)."""
LLAMA3_8B = {
    "vocab_size": 128256,
    "hidden_size": 4096,
    "intermediate_size": 14336,
    "num_attention_heads": 32,
    "num_key_value_heads": 8,
    "rope_parameters": {"rope_type": "default", "rope_theta": 500000.0},
    "max_position_embeddings": 8192,
}
TINY = LLAMA3_8B | {"vocab_size": 512, "hidden_size": 64, "intermediate_size": 96, "num_attention_heads": 4,
                    "num_key_value_heads": 2, "max_position_embeddings": 64}  # fmt: skip
WARMUP = 2


def material(output: Path, shape: dict[str, Any], layers: int) -> None:
    """Corpus of the standard library's source, and the model's config; its weights are random."""
    files, _ = library_files()
    values = {
        "output": str(output / "data"),
        "tokenizer": {"train_vocab_size": 384},
        "sources": [{"type": "text", "name": "library", "paths": files}],
    }
    prepare(parse(Corpus, values, "benchmark corpus"))
    config = {"model_type": "llama", "architectures": ["LlamaForCausalLM"], "num_hidden_layers": layers, **shape}
    (output / "model").mkdir(exist_ok=True)
    (output / "model" / "config.json").write_text(json.dumps(config))


def spine(output: Path, length: int, target: int, steps: int, dtype: str) -> dict[str, float]:
    """Median tokens/s, data wait and peak memory of a longspan run."""
    run = output / f"spine-{length}"
    values = {
        "name": f"spine-{length}",
        "output": str(run),
        "model": {"path": str(output / "model"), "weights": "random", "dtype": dtype},
        "rope": {"type": "dynamic_ntk"},
        "data": {
            "manifest": str(output / "data"),
            "sample_length": length,
            "target_length": target,
            "mix": [{"weights": {"library": 1.0}}],
            "document_mask": False,
        },
        "train": {"steps": steps, "global_batch_size": 1, "learning_rate": 1e-5},
    }
    train(parse(Recipe, values, "benchmark"))
    metrics = read_metrics(str(run))[WARMUP:]
    return {
        "tokens_per_s": statistics.median(line["tokens_per_s"] for line in metrics),
        "data_wait_share": sum(line["data_wait_s"] for line in metrics) / sum(line["step_s"] for line in metrics),
        "gpu_memory_gib": max(line.get("gpu_memory_gib", 0.0) for line in metrics),
    }


def peer(output: Path, length: int, steps: int, dtype: torch.dtype, device: torch.device) -> dict[str, float]:
    """Median tokens/s of a plain transformers loop."""
    from transformers import AutoConfig, AutoModelForCausalLM

    config = AutoConfig.from_pretrained(output / "model")
    model = AutoModelForCausalLM.from_config(config, dtype=dtype, attn_implementation="sdpa").to(device).train()
    model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-5, fused=device.type == "cuda")
    tokens = torch.randint(0, config.vocab_size, (1, length), device=device)
    seconds = []
    for _ in range(steps):
        started = time.perf_counter()
        model(input_ids=tokens, labels=tokens, use_cache=False).loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0).item()
        optimizer.step()
        optimizer.zero_grad()
        if device.type == "cuda":
            torch.cuda.synchronize()
        seconds.append(time.perf_counter() - started)
    memory = torch.cuda.max_memory_allocated() / 2**30 if device.type == "cuda" else 0.0
    return {"tokens_per_s": length / statistics.median(seconds[WARMUP:]), "gpu_memory_gib": memory}


def measure(output: Path, tiny: bool, layers: int, lengths: list[int], steps: int) -> list[dict[str, Any]]:
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    dtype = torch.bfloat16 if device.type == "cuda" else torch.float32
    shape = TINY if tiny else LLAMA3_8B
    material(output, shape, layers)
    per_token = {
        length: flops_per_token(model_sizes({**shape, "num_hidden_layers": layers}), length) for length in lengths
    }
    rows = []
    for length in lengths:
        ours = spine(output, length, max(4 * length, 256), steps, "bfloat16" if dtype == torch.bfloat16 else "float32")
        row: dict[str, Any] = {"length": length, "layers": layers, "device": str(device), "spine": ours}
        row["spine_mfu"] = ours["tokens_per_s"] * per_token[length] / PEAK_FLOPS if device.type == "cuda" else None
        if device.type == "cuda":
            torch.cuda.reset_peak_memory_stats()
        try:
            row["peer"] = peer(output, length, steps, dtype, device)
            row["ratio"] = ours["tokens_per_s"] / row["peer"]["tokens_per_s"]
        except torch.OutOfMemoryError:
            row["peer"], row["ratio"] = "out of memory", None
        rows.append(row)
        print(json.dumps(row), flush=True)
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument("--tiny", action="store_true")
    parser.add_argument("--layers", type=int, default=4)
    parser.add_argument("--lengths", type=int, nargs="+", default=None)
    parser.add_argument("--steps", type=int, default=12)
    arguments = parser.parse_args()
    arguments.output.mkdir(parents=True, exist_ok=True)
    lengths = arguments.lengths or ([64, 128] if arguments.tiny else [24000, 38400])
    measure(arguments.output, arguments.tiny, arguments.layers, lengths, arguments.steps)


if __name__ == "__main__":
    main()
