"""What the report says, worked out from a run's summary and metrics: plain texts for the template to place.

Pure: `report.py` reads the files and draws, this file decides which number goes where, `report.html.j2` only lays out.
"""

import json
import math
from collections.abc import Mapping, Sequence
from statistics import median
from typing import Any

from longspan.observe.formatting import as_float, duration, is_number, number, percent
from longspan.observe.results import all_lengths, model_rows

Pairs = list[tuple[str, str]]

_KINDS = {
    "train": "Training run",
    "demo": "Demonstration",
    "evaluation": "Evaluation",
    "compare": "Comparison",
    "pipeline": "Pipeline",
    "merge": "Merge",
}
_TILES = (
    ("steps", "Optimizer steps", number),
    ("tokens", "Tokens", number),
    ("seconds", "Time", duration),
    ("final_loss", "Final loss", number),
    ("max_position", "Largest position", number),
    ("window", "Training window (tokens)", number),
    ("target", "Target window (tokens)", number),
)
# File name without .png: what it shows, and how to read it.
_PLOTS = {
    "claims": (
        "Claims",
        "Green: holds. Orange: does not. Grey: these seeds cannot tell. The mark is what the claim asks for.",
    ),
    "accuracy_grid": ("Accuracy of every method", "Percent right by context length; a row for each method."),
    "accuracy_by_task": (
        "Accuracy by task, and what it cost",
        "At the longest length: small dots are seeds, large ones their means.",
    ),
    "accuracy_by_length": (
        "Needle retrieval by context length",
        "One line for each model. Where shaded: contexts longer than the training window.",
    ),
    "needle_heatmaps": (
        "Needle retrieval by context length and needle depth",
        "Each cell: percent of needles retrieved. Right of the dashed line: beyond the training window.",
    ),
    "loss_by_position": (
        "Held-out loss by position in the context",
        "A model that uses its whole context stays low to the right end; one that cannot rises beyond its window.",
    ),
    "training_curves": ("Training curves", "Faint: each optimizer step. Strong: moving mean."),
    "position_coverage": ("Position coverage", "Hatched: parts of the target window that training never met."),
    "mix_over_training": (
        "Mix of sources over training",
        "Above: the shares that the recipe asks for. Below: those of the samples in the plan.",
    ),
    "length_mix": (
        "Tokens by document length",
        "Grey: the corpus. Blue: what training sees after upsampling and selection.",
    ),
    "length_mix_by_source": (
        "Tokens by document length and source",
        "Upsampling moves weight inside a source; its share of the mix stays.",
    ),
    "packing": ("Documents in a sample", "Short documents share a sample; a long one may fill several."),
    "sweep_parallel_coordinates": ("Trials of the sweep", "One line for each trial, dark is better, bold is the best."),
}


def build_view(
    summary: Mapping[str, Any],
    metrics: Sequence[Mapping[str, Any]],
    fallback_name: str,
    plan: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """The template's variables except plots and recipe. Summary keys without a place of their own end up in `details`.

    Of `plan`, the run's plan.json, the report repeats what it warned of.

    Raises:
        DataError: summary["models"] is an object that cannot be read as model rows.
    """
    rest = dict(summary)
    kind = rest.pop("kind", "train" if metrics else None)
    view: dict[str, Any] = {
        "name": str(rest.pop("name", None) or fallback_name),
        "kind": _KINDS.get(str(kind), str(kind or "Run")),
        "tiles": _take_tiles(rest),
        "findings": _take_findings(rest),
        "warnings": [str(text) for text in (plan or {}).get("warnings", [])],
        "accuracy": _take_models(rest, summary.get("window")),
        "changes": _take_changes(rest),
        "training": training_facts(metrics),
        "timings": _take_timings(rest),
        "versions": _take_versions(rest),
    }
    view["details"] = flatten(rest)
    return view


def training_facts(metrics: Sequence[Mapping[str, Any]]) -> Pairs:
    """The metrics lines in a few figures; fields that no line has are left out."""

    def column(field: str) -> list[float]:
        return [value for value in (as_float(line.get(field)) for line in metrics) if not math.isnan(value)]

    facts: Pairs = []
    if metrics:
        facts.append(("Steps logged", f"{number(metrics[0]['step'])} to {number(metrics[-1]['step'])}"))
    if losses := column("loss"):
        facts.append(("Loss, first to last (nats per token)", f"{number(losses[0])} to {number(losses[-1])}"))
        facts.append(("Lowest loss of a step", number(min(losses))))
    if norms := column("grad_norm"):
        facts.append(("Gradient norm, median and largest", f"{number(median(norms))} and {number(max(norms))}"))
    if speeds := column("tokens_per_s"):
        facts.append(("Tokens per second, median", number(round(median(speeds)))))
    if steps := column("step_s"):
        facts.append(("Time of a step, median", duration(median(steps))))
        if (waits := column("data_wait_s")) and sum(steps) > 0:
            facts.append(("Waiting for data, share of step time", percent(sum(waits) / sum(steps))))
    if positions := column("max_position"):
        facts.append(("Largest position reached", number(round(max(positions)))))
    return facts


def flatten(values: Mapping[str, Any], prefix: str = "") -> Pairs:
    """Nested values as dotted keys and texts, in order: {"rope": {"theta": 5e5}} -> [("rope.theta", "500,000")]."""
    pairs: Pairs = []
    for key, value in values.items():
        name = f"{prefix}{key}"
        if isinstance(value, Mapping) and value:
            pairs += flatten(value, f"{name}.")
        else:
            pairs.append((name, _text(value)))
    return pairs


def plot_order(file_name: str) -> tuple[int, str]:
    """Sort key of a plot in the report: known plots in their reading order, then the others by name."""
    stem = file_name.removesuffix(".png")
    return (list(_PLOTS).index(stem) if stem in _PLOTS else len(_PLOTS), stem)


def plot_caption(file_name: str) -> tuple[str, str]:
    """Title and reading hint of a plot; other people's plots get a title from the file name and no hint."""
    stem = file_name.removesuffix(".png")
    words = stem.replace("_", " ").replace("-", " ").strip()
    return _PLOTS.get(stem, (words[:1].upper() + words[1:], ""))


def _take_tiles(rest: dict[str, Any]) -> Pairs:
    return [(label, form(rest.pop(key))) for key, label, form in _TILES if is_number(rest.get(key))]


def _take_findings(rest: dict[str, Any]) -> list[str]:
    findings = rest.get("findings")
    if not isinstance(findings, list):
        return []
    return [_text(finding) for finding in rest.pop("findings")]


def _take_models(rest: dict[str, Any], window: object) -> dict[str, Any] | None:
    """The table of models by lengths; their further plain values as columns, nested ones left in `rest`."""
    if not isinstance(rest.get("models"), Mapping) or not rest["models"]:
        return None
    rows = model_rows(rest.pop("models"))
    lengths = all_lengths(rows)
    plain = list(
        dict.fromkeys(key for row in rows for key, value in row.others.items() if not isinstance(value, Mapping | list))
    )
    nested = {row.name: {key: value for key, value in row.others.items() if key not in plain} for row in rows}
    if nested := {name: values for name, values in nested.items() if values}:
        rest["models"] = nested
    return {
        "lengths": [(number(length), is_number(window) and length > as_float(window)) for length in lengths],
        "columns": [key.replace("_", " ") for key in plain],
        "has_notes": any(row.note for row in rows),
        "rows": [
            {
                "name": row.name,
                "cells": [_accuracy_cell(row.accuracy.get(length)) for length in lengths],
                "tokens": number(row.num_tokens),
                "seconds": duration(row.seconds),
                "others": [_text(row.others.get(key)) for key in plain],
                "note": row.note,
            }
            for row in rows
        ],
    }


def _accuracy_cell(accuracy: float | None) -> tuple[str, int | None]:
    """Text and shade: 0 (red) to 4 (green), None where not measured."""
    return percent(accuracy), None if accuracy is None else min(4, max(0, int(5 * accuracy)))


def _take_changes(rest: dict[str, Any]) -> Pairs:
    """What the run began with, and what was changed when it resumed, in order."""
    parent, changes = rest.pop("parent", None), rest.pop("changes", None)
    pairs = [("Begins with the checkpoint", str(parent))] if parent else []
    for change in changes if isinstance(changes, list) else []:
        values = f"{json.dumps(change.get('was'))} → {json.dumps(change.get('now'))}"
        pairs.append((f"After step {change.get('from_step')}", f"{change.get('field')}: {values}"))
    return pairs


def _take_timings(rest: dict[str, Any]) -> list[tuple[str, str, float]]:
    """(what, how long, percent of the longest) for each entry; left in `rest` unless all are seconds."""
    timings = rest.get("timings")
    if not isinstance(timings, Mapping) or not timings or not all(is_number(value) for value in timings.values()):
        return []
    longest = max(as_float(value) for value in timings.values()) or 1.0
    named = rest.pop("timings").items()
    return [(key.replace("_", " "), duration(value), round(100 * as_float(value) / longest, 1)) for key, value in named]


def _take_versions(rest: dict[str, Any]) -> Pairs:
    return flatten(rest.pop("versions")) if isinstance(rest.get("versions"), Mapping) else []


def _text(value: object) -> str:
    if value is None:
        return number(None)
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, str):
        return value
    return number(value) if is_number(value) else json.dumps(value, default=str)
