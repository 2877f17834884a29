"""The comparison of methods at a size that means more than the tiny one: 28M parameters, 512 -> 8,192 tokens, bfloat16.

    python tests/benchmarks/compare_gpu.py --output DIR          (one GPU; not timed yet)
    python tests/benchmarks/compare_gpu.py --output DIR --tiny   (a check that the script runs, on any machine)

The same engine as `longspan compare`, with all five needle tasks. It goes on where it stopped, so
it can be cut into pieces. The text is Python's own library unless --text names a folder of *.txt files.
"""

import argparse
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from longspan.compare.run import run_comparison
from longspan.config.compare import Comparison
from longspan.config.load import parse
from longspan.demo.settings import library_files
from longspan.planner.costs import flops_per_token, model_sizes

TASKS = {"recall": 1, "latest": 2, "history": 1, "larger": 2, "hop": 2}
SIMPLE = {"recall": 1, "latest": 2, "larger": 2}


@dataclass(frozen=True)
class Scale:
    """Sizes of the whole comparison; lengths in tokens.

    Attributes:
        phases: of the base: document length, optimizer steps, tasks; the last at the window.
        base_batch, batch: samples an optimizer step, of the base at the window and of the methods.
        steps: of LongRecipe, and so the budget of all.
    """

    window: int
    target: int
    vocab_size: int
    hidden: int
    layers: int
    phases: tuple[tuple[int, int, dict[str, int]], ...]
    base_batch: int
    batch: int
    steps: int
    dtype: str
    questions: int
    examples: int

    @property
    def sample(self) -> int:
        return round(0.3 * self.target)


LARGE = Scale(
    window=512,
    target=8192,
    vocab_size=4096,
    hidden=512,
    layers=8,
    phases=((32, 600, {"recall": 1}), (64, 1500, SIMPLE), (128, 1500, TASKS), (512, 2400, TASKS)),
    base_batch=64,
    batch=16,
    steps=500,
    dtype="bfloat16",
    questions=12,
    examples=32,
)
TINY = Scale(
    window=64,
    target=128,
    vocab_size=300,
    hidden=16,
    layers=1,
    phases=((32, 1, {"recall": 1}), (64, 1, TASKS)),
    base_batch=2,
    batch=2,
    steps=4,
    dtype="float32",
    questions=2,
    examples=2,
)


def needle_sources(scale: Scale) -> list[dict[str, Any]]:
    """Documents for the phases of the base, and for samples of the window, 30 % of the target, and the target."""
    shared = {"type": "needles", "text_source": "text", "query_fraction": 0.6}
    sources = []
    for place, (length, steps, tasks) in enumerate(scale.phases):
        dense = 1.0 if length < 64 else 0.3
        # A corpus is made in minutes; what the base reads more than that, it reads again.
        documents = min(steps * scale.base_batch * scale.window // length, 100_000)
        fill = {"fill": [dense, 1.0], "pure_text_share": 0.0 if length < scale.window else 0.1}
        sources.append(
            {**shared, "name": f"base-{place}", "length": length, "documents": documents, "tasks": tasks, **fill}
        )
    for length in (scale.window, scale.sample, scale.target):
        # As many as the longest run of a seed takes at an equal number of tokens, and half as many again.
        documents = 3 * scale.steps * scale.batch * max(1, scale.sample // length) // 2
        sources.append(
            {**shared, "name": f"long-{length}", "length": length, "documents": documents, "tasks": TASKS,
             "fill": [0.02, 0.3], "pure_text_share": 0.2}
        )  # fmt: skip
    return sources


def model_config(scale: Scale) -> dict[str, Any]:
    """A Llama whose slowest frequency turns 0.38 radians in its window, as that of the tiny comparison."""
    heads = max(2, scale.hidden // 64)
    dimensions = scale.hidden // heads
    return {
        "model_type": "llama",
        "architectures": ["LlamaForCausalLM"],
        "hidden_size": scale.hidden,
        "intermediate_size": 11 * scale.hidden // 4,
        "num_hidden_layers": scale.layers,
        "num_attention_heads": heads,
        "num_key_value_heads": heads,
        "max_position_embeddings": scale.window,
        "rope_parameters": {
            "rope_type": "default",
            "rope_theta": (scale.window / 0.38) ** (dimensions / (dimensions - 2)),
        },
        "tie_word_embeddings": True,
        "initializer_range": 0.02 if scale.hidden > 64 else 0.05,
        "bos_token_id": 0,
        "eos_token_id": 1,
        "dtype": scale.dtype,
    }


def method(name: str, scale: Scale, length: int | None = None, **changes: Any) -> dict[str, Any]:
    """A method on samples of `length` tokens, 30 % of the target if left out."""
    values = {key.replace("__", "."): value for key, value in changes.pop("values", {}).items()}
    if length is not None:
        values |= {"data.sample_length": length, "data.mix.0.weights": {f"long-{length}": 1}}
    return {"name": name, "set": values, **changes}


def methods(scale: Scale) -> list[dict[str, Any]]:
    contiguous = {"positions__type": "contiguous"}
    scales = {"rope__type": "e2llm", "positions__type": "e2llm", "positions__window": scale.window}
    from_target = {"data__mix__0__weights": {f"long-{scale.target}": 1}}
    # Documents of the window, packed into samples of the target.
    interleaved = {**contiguous, "data__interleave": {"method": "cip"}}
    short = {"data__mix__0__weights": {f"long-{scale.window}": 1}, "data__sample_length": scale.target}
    return [
        method("base", scale, values={"rope__type": "keep"}, train=False),
        method("ntk", scale, train=False),
        method("yarn", scale, values={"rope__type": "yarn"}, train=False),
        method("pi", scale, values=scales, train=False),
        method("longrecipe", scale),
        method("longrecipe-yarn", scale, values={"rope__type": "yarn"}),
        method("no-gaps", scale, values=contiguous),
        method("selected", scale, values={**from_target, "data__selection": _selection(scale, "weighted")}),
        method("random-sentences", scale, values={**from_target, "data__selection": _selection(scale, "uniform")}),
        method("pose", scale, scale.window, values={"positions__type": "pose"}),
        method("randpos", scale, scale.window, values={"positions__type": "randpos"}),
        method("cream", scale, scale.window, values={"positions__type": "cream"}),
        method("e2llm", scale, scale.window, values=scales),
        method("e2llm-half", scale, scale.window, values={**scales, "data__target_length": scale.target // 2}),
        method("cip", scale, values={**interleaved, **short, "data__document_mask": False}),
        method("cip-masked", scale, values={**interleaved, **short, "data__document_mask": True}),
        _replay(scale),
        {"name": "merged", "start": "replay", "merge": {"weight": 0.5}},
        method("full-equal-flops", scale, scale.target, values=contiguous),
        method("full-length", scale, scale.target, values=contiguous, budget={"steps": scale.steps}),
    ]


def _selection(scale: Scale, mode: str) -> dict[str, Any]:
    return {"mode": mode, "from_length": scale.target}


def _replay(scale: Scale) -> dict[str, Any]:
    """LongRecipe's second stage, on the documents that the base saw last."""
    values = {
        "rope__type": "keep",
        "positions__type": "contiguous",
        "data__sample_length": scale.window,
        "data__mix__0__weights": {f"base-{len(scale.phases) - 1}": 1},
        "train__learning_rate": 1e-4,
    }
    return method("replay", scale, start="longrecipe", budget={"flops": longrecipe_flops(scale) / 4}, values=values)


CLAIMS = (
    ("LongRecipe at 30 % length is within 2 points of full-length training at 80 % less compute",
     "longrecipe", "full-length", "within", 2.0, 0.2, 0),
    ("LongRecipe is within 2 points of full-length training at equal compute",
     "longrecipe", "full-equal-flops", "within", 2.0, None, 0),
    ("LongRecipe is better than PoSE", "longrecipe", "pose", "above", 0.0, None, 0),
    ("LongRecipe is better than RPES", "longrecipe", "randpos", "above", 0.0, None, 0),
    ("LongRecipe is better than CREAM", "longrecipe", "cream", "above", 0.0, None, 0),
    ("Sentences selected by impact are better than random ones", "selected", "random-sentences", "above", 0.0, None, 0),
    ("E2-LLM is better than position interpolation without training", "e2llm", "pi", "above", 0.0, None, 0),
    ("E2-LLM is as good at a window that it never saw as one trained for it",
     "e2llm-half", "e2llm", "within", 2.0, None, 0),
    ("CIP is better without a document mask", "cip", "cip-masked", "above", 0.0, None, 0),
    ("Replay brings back what the base could do inside its window", "replay", "longrecipe", "above", 0.0, None, 1),
    ("Merging brings back more of it", "merged", "replay", "above", 0.0, None, 1),
    ("Merging keeps the long window", "merged", "longrecipe", "within", 2.0, None, 0),
    ("Full-length training is better than YaRN without training", "full-length", "yarn", "above", 2.0, None, 0),
)  # fmt: skip
"""Name, method, against, relation, points, most compute, and 1 where it is about the base's own window."""


def base_section(scale: Scale, model: dict[str, Any]) -> dict[str, Any]:
    """The base: short documents first, where retrieval emerges, the window last."""
    starts = [sum(steps for _, steps, _ in scale.phases[:index]) for index in range(len(scale.phases))]
    mix = [{"from_step": start, "weights": {f"base-{place}": 1}} for place, start in enumerate(starts)]
    train = {
        "steps": sum(steps for _, steps, _ in scale.phases),
        "global_batch_size": scale.base_batch,
        "micro_batch_size": scale.base_batch,
        "learning_rate": 1e-3,
        "schedule": "wsd",
        "weight_decay": 0.1,
    }
    data = {"sample_length": scale.window, "target_length": scale.window, "mix": mix}
    recipe = {"model": model, "positions": {"type": "contiguous"}, "data": data, "train": train}
    return {"config": model_config(scale), "recipe": recipe}


def settings(output: Path, scale: Scale, seeds: Sequence[int], only: Sequence[str] = (), text: str = "") -> Comparison:
    """The whole comparison; `only` keeps some of the methods, `full-length` always among them."""
    offered = methods(scale)
    names = {"full-length", *only} if only else {values["name"] for values in offered}
    for values in reversed(offered):  # what a method goes on from stands before it
        names |= {values["start"]} if values["name"] in names and "start" in values else set()
    kept = [values for values in offered if values["name"] in names]
    train, held_out = library_files()
    if scale is TINY:
        train, held_out = train[:4], held_out[:1]
    place = {"paths": [text], "pattern": "*.txt"} if text else {"paths": train}
    model = {"dtype": scale.dtype, "gradient_checkpointing": False}
    shared = {
        "model": model,
        "rope": {"type": "ntk"},
        "data": {
            "sample_length": scale.sample,
            "target_length": scale.target,
            "mix": [{"weights": {f"long-{scale.sample}": 1}}],
        },
        "train": {
            "global_batch_size": scale.batch,
            "micro_batch_size": min(scale.batch, 4),
            "learning_rate": 3e-4,
            "warmup_steps": scale.steps // 20,
            "min_lr_ratio": 0.05,
            "save_every": 100,
        },
    }
    values = {
        "name": "compare-gpu",
        "output": str(output),
        "seeds": list(seeds),
        "workers": 1,
        "reference": "full-length",
        "budget": {"flops": longrecipe_flops(scale)},
        "corpus": {
            "tokenizer": {"train_vocab_size": scale.vocab_size, "needle_tokens": True},
            "sources": [
                {"name": "text", **place},
                {"name": "held-out", "paths": held_out},
                *needle_sources(scale),
            ],
        },
        "base": base_section(scale, model),
        "impact": {"rope": "yarn", "window": scale.target, "sources": [f"long-{scale.target}"]}
        if "selected" in names
        else None,
        "recipe": shared,
        "methods": kept,
        "evaluate": {
            "lengths": [scale.window * 2**power for power in range((scale.target // scale.window).bit_length())],
            "text_source": "held-out",
            "tasks": list(TASKS),
            "questions": scale.questions,
            "examples": scale.examples,
        },
        "claims": [
            {"name": name, "method": ours, "against": theirs, "metric": "tasks", "relation": relation,
             "points": points, "at_most_compute": compute, "length": scale.window if at_window else None}
            for name, ours, theirs, relation, points, compute, at_window in CLAIMS
            if {ours, theirs} <= names
        ],
    }  # fmt: skip
    return parse(Comparison, values, "compare_gpu")


def longrecipe_flops(scale: Scale) -> float:
    """Training FLOPs of LongRecipe's `steps`: what every method may spend."""
    sizes = model_sizes({**model_config(scale), "vocab_size": scale.vocab_size + 560})
    return scale.steps * scale.batch * scale.sample * flops_per_token(sizes, scale.sample)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument("--tiny", action="store_true")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--methods", nargs="+", default=[], help="some of the methods; all if left out")
    parser.add_argument("--text", default="", help="folder of *.txt files to train on")
    arguments = parser.parse_args()
    scale = TINY if arguments.tiny else LARGE
    run_comparison(settings(arguments.output, scale, arguments.seeds, arguments.methods, arguments.text))


if __name__ == "__main__":
    main()
