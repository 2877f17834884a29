"""What a reader's numbers say beside the reference, and the table of it all."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

TOLERANCE = 1e-3
"""Nats: how far a token's log-probability may be from the reference. Kernels differ by some 1e-5, a wrong RoPE by 1."""


def compare(
    result: Mapping[str, Any],
    expected: Mapping[str, np.ndarray],
    fixed: Mapping[str, np.ndarray],
    target: int,
) -> dict[str, Any]:
    """A cell of the matrix: {"verdict", "window", "off": {prompt: nats, or None beyond the window}}.

    Args:
        result: of a reader.
        expected: log-probabilities by prompt, as transformers is to compute them.
        fixed: the same, were every prompt served as one of the whole window.
        target: the window that was exported, in tokens.
    """
    if "error" in result:
        return {"verdict": f"refuses: {result['error']}"}
    found = dict(zip(expected, result["logprobs"], strict=True))
    off, off_fixed = (
        {name: None if found[name] is None else _distance(found[name], side[name]) for name in side}
        for side in (expected, fixed)
    )
    cell = {"window": result["window"], "off": off}
    wrong = _wrong(off)
    window = "" if result["window"] == target else f", window {result['window']:,}"
    if not wrong:
        return {"verdict": f"equal{window}", **cell}
    if not _wrong(off_fixed):
        return {"verdict": f"every prompt as one of {target:,}{window}", **cell}
    largest = np.max([off[name] for name in wrong])
    amount = f"by up to {largest:.1g}" if np.isfinite(largest) else "(not a number)"
    return {"verdict": f"differs {amount}{window}: {', '.join(wrong)}", **cell}


def _distance(found: Sequence[float], expected: np.ndarray) -> float:
    return float(np.abs(np.asarray(found) - expected).max())


def _wrong(off: Mapping[str, float | None]) -> list[str]:
    return [name for name, distance in off.items() if distance is not None and not distance <= TOLERANCE]


def table(rows: Sequence[Mapping[str, Any]], readers: Sequence[str]) -> str:
    """Markdown: a row a kind, a column a reader; families apart where they differ."""
    kinds = list(dict.fromkeys(row["kind"] for row in rows))
    lines = [
        f"| exported | written as | {' | '.join(readers)} | plain RoPE would be off by |",
        f"|{'---|' * (len(readers) + 3)}",
    ]
    for kind in kinds:
        own = [row for row in rows if row["kind"] == kind]
        cells = [_together({row["family"]: row["cells"].get(reader) for row in own}) for reader in readers]
        control = min(row["control"] for row in own)
        lines.append(f"| {kind} | {own[0]['written']} | {' | '.join(cells)} | {f'{control:.1f}' if control else '-'} |")
    return "\n".join(lines) + "\n"


def _together(cells: Mapping[str, Mapping[str, Any] | None]) -> str:
    verdicts = {family: cell["verdict"] if cell else "-" for family, cell in cells.items()}
    if len(set(verdicts.values())) == 1:
        return next(iter(verdicts.values()))
    return "; ".join(f"{family}: {verdict}" for family, verdict in verdicts.items())
