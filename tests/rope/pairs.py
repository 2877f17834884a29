"""What every kind of `rope:` section does to a model that is scaled already: the table of docs/rope.md.

`python -m tests.rope.pairs` writes it anew.
"""

from pathlib import Path

from longspan.config.model import Rope
from longspan.errors import ConfigError
from longspan.rope import RopeSettings
from longspan.rope.resolve import replacement, run_rope

PAGE = Path(__file__).parents[2] / "docs" / "rope.md"
BEGIN, END = "<!-- pairs: made by `python -m tests.rope.pairs` -->\n", "<!-- end of pairs -->\n"
HEAD_DIM, TARGET, THETA = 64, 262_144, 5e5


def bases(share: float = 1.0) -> dict[str, tuple[RopeSettings, int]]:
    """A model of every type with the window that it has; `share` of a head's dimensions are rotated."""
    pairs = int(HEAD_DIM * share) // 2
    start = {"original_max_position_embeddings": 8192, "partial_rotary_factor": share}
    lists = {
        "short_factor": tuple(1 + number / 100 for number in range(pairs)),
        "long_factor": tuple(1 + number for number in range(pairs)),
    }
    return {
        "default": (RopeSettings("default", THETA, partial_rotary_factor=share), 8192),
        "linear": (RopeSettings("linear", THETA, factor=4.0, partial_rotary_factor=share), 32_768),
        "dynamic": (RopeSettings("dynamic", THETA, factor=4.0, **start), 8192),  # type: ignore[arg-type]
        "yarn": (
            RopeSettings("yarn", THETA, factor=4.0, beta_fast=16.0, truncate=False, attention_factor=1.05, **start),  # type: ignore[arg-type]
            32_768,
        ),
        "llama3": (
            RopeSettings("llama3", THETA, factor=8.0, low_freq_factor=1.0, high_freq_factor=4.0, **start),  # type: ignore[arg-type]
            131_072,
        ),
        "longrope": (RopeSettings("longrope", THETA, factor=4.0, **lists, **start), 32_768),  # type: ignore[arg-type]
    }


_ATTENTION = {"attention_factor": 1.0}
_LIMITS = {"low_freq_factor": 1.0, "high_freq_factor": 4.0}
KINDS: dict[str, dict[str, object]] = {
    "keep": {},
    "theta": {"theta": 8e6},
    "ntk": {},
    "dynamic_ntk": {},
    "critical_ntk": {},
    "linear": {},
    "yarn": {},
    "llama3": _LIMITS,
    "longrope": {},
    "e2llm": {},
}
ADDED: dict[str, dict[str, object]] = {
    "": {},
    "drop_scaling: true": {"drop_scaling": True},
    "mixed_window: true": {"mixed_window": True, **_ATTENTION},
}


def section(kind: str, added: dict[str, object]) -> Rope | None:
    """The section; None where the fields have no meaning for the type."""
    values = {"type": kind, **KINDS[kind], **added}
    if kind not in ("yarn", "longrope"):
        values.pop("attention_factor", None)
    try:
        return Rope.model_validate(values)
    except ValueError:
        return None


def outcome(base: RopeSettings, rope: Rope, window: int) -> str:
    try:
        exported = run_rope(base, rope, HEAD_DIM, window, TARGET).exported
    except ConfigError:
        return "refused"
    text = exported.rope_type
    if base.rope_type == "default":
        return text
    return f"kept: {text}" if replacement(base, rope, exported) is None else f"said: {text}"


def table() -> str:
    models = bases()
    lines = [
        f"| `rope:` | {' | '.join(f'on {name}' if name != 'default' else 'on plain RoPE' for name in models)} |",
        f"|---|{'---|' * len(models)}",
    ]
    for text, added in ADDED.items():
        for kind in KINDS:
            rope = section(kind, added)
            if rope is not None:
                cells = [outcome(base, rope, window) for base, window in models.values()]
                lines.append(f"| {f'{kind}, {text}' if text else kind} | {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def with_table(page: str) -> str:
    """The page with today's table between its marks."""
    before, _, rest = page.partition(BEGIN)
    return before + BEGIN + "\n" + table() + "\n" + END + rest.partition(END)[2]


if __name__ == "__main__":
    PAGE.write_text(with_table(PAGE.read_text(encoding="utf-8")), encoding="utf-8")
