"""What `matrix` exports: every RoPE kind of a recipe over plain RoPE, and the kinds that meet a base already scaled."""

from dataclasses import dataclass, field
from typing import Any

from longspan.config.model import Rope

OLD, TARGET, THETA = 256, 1024, 10_000.0
"""Windows before and after the extension, in tokens, and the base of the models' RoPE."""
HEAD_DIM = 64
LENGTHS = {"short": 150, "old window": OLD, "old window + 1": OLD + 1, "long": 700, "full": TARGET - 1}
"""Tokens of the prompts; vLLM wants room for one more."""

LLAMA3 = {"low_freq_factor": 1.0, "high_freq_factor": 4.0}


@dataclass(frozen=True)
class Kind:
    """A recipe's `rope` over a base: `base` are its rope_parameters without rope_theta, `window` its window."""

    name: str
    rope: dict[str, Any] = field(default_factory=dict)
    base: dict[str, Any] = field(default_factory=lambda: {"rope_type": "default"})
    window: int = OLD

    @property
    def section(self) -> Rope:
        return Rope.model_validate(self.rope)


def scaled(rope_type: str, original: int, **keys: Any) -> dict[str, Any]:
    """rope_parameters of a base that was extended by 4 before."""
    windowed = {} if rope_type in ("linear", "dynamic") else {"original_max_position_embeddings": original}
    return {"rope_type": rope_type, "factor": 4.0, **windowed, **keys}


def lists(short: float, long: float) -> dict[str, Any]:
    """Two factor lists that rise from 1."""
    pairs = HEAD_DIM // 2
    return {
        f"{name}_factor": [end ** (pair / (pairs - 1)) for pair in range(pairs)]
        for name, end in (("short", short), ("long", long))
    }


OVER_PLAIN = [
    Kind("theta", {"type": "theta", "theta": 120_000.0}),
    Kind("ntk", {"type": "ntk"}),
    Kind("dynamic_ntk", {"type": "dynamic_ntk"}),
    Kind("critical_ntk", {"type": "critical_ntk"}),
    Kind("linear", {"type": "linear"}),
    Kind("linear, factor 4.3", {"type": "linear", "factor": 4.3}),
    Kind("yarn", {"type": "yarn"}),
    Kind("yarn, attention factor 1", {"type": "yarn", "attention_factor": 1.0}),
    Kind("yarn, factor 2", {"type": "yarn", "factor": 2.0}),
    Kind("llama3", {"type": "llama3", **LLAMA3}),
    Kind("longrope", {"type": "longrope"}),
    Kind("longrope, attention factor 1", {"type": "longrope", "attention_factor": 1.0}),
    Kind("e2llm", {"type": "e2llm"}),
    Kind("keep", {}, window=TARGET),
]
MIXED = [
    Kind("mixed theta", {"type": "theta", "theta": 120_000.0, "mixed_window": True}),
    Kind("mixed ntk", {"type": "ntk", "mixed_window": True}),
    Kind("mixed linear", {"type": "linear", "mixed_window": True}),
    Kind("mixed yarn", {"type": "yarn", "attention_factor": 1.0, "mixed_window": True}),
    Kind("mixed llama3", {"type": "llama3", **LLAMA3, "mixed_window": True}),
    Kind("mixed longrope", {"type": "longrope", "attention_factor": 1.0, "mixed_window": True}),
]
KEPT = [
    Kind(f"keep {name}", {}, base, window)
    for name, base, window in (
        ("linear", scaled("linear", OLD), TARGET),
        ("dynamic", scaled("dynamic", OLD), OLD),
        ("yarn", scaled("yarn", OLD), TARGET),
        ("yarn, mscale", scaled("yarn", OLD, mscale=1.0, mscale_all_dim=0.7), TARGET),
        ("yarn, not truncated", scaled("yarn", OLD, truncate=False), TARGET),
        ("llama3", scaled("llama3", OLD, **LLAMA3), TARGET),
        ("longrope", scaled("longrope", OLD, **lists(1.5, 4.0)), TARGET),
    )
]
OVER_SCALED = [
    *(
        Kind(f"e2llm over {base['rope_type']}", {"type": "e2llm"}, base)
        for base in (
            scaled("linear", OLD // 4),
            scaled("yarn", OLD // 4),
            scaled("llama3", OLD // 4, **LLAMA3),
            scaled("longrope", OLD // 4, **lists(1.5, 4.0)),
        )
    ),
    Kind("theta over yarn", {"type": "theta", "theta": 500_000.0}, scaled("yarn", OLD // 4)),
    Kind("theta over llama3", {"type": "theta", "theta": 500_000.0}, scaled("llama3", OLD // 4, **LLAMA3)),
    Kind("yarn over yarn", {"type": "yarn"}, scaled("yarn", OLD // 4, attention_factor=1.2)),
    Kind(
        "mixed theta over llama3",
        {"type": "theta", "theta": 500_000.0, "original_max_position_embeddings": OLD, "mixed_window": True},
        scaled("llama3", OLD // 4, **LLAMA3),
    ),
    Kind("mixed keep over longrope", {"mixed_window": True}, scaled("longrope", OLD, **lists(1.5, 4.0)), TARGET),
]
KINDS = {kind.name: kind for kind in (*OVER_PLAIN, *MIXED, *KEPT, *OVER_SCALED)}
ADAPTERS = ("theta", "linear", "yarn", "longrope", "mixed ntk", "e2llm")
"""Kinds that are trained as an adapter too."""
PRETRAINED = ("linear", "yarn", "mixed ntk")
"""Kinds that a pretrained model is exported under."""
