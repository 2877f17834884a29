"""What the demonstration may say: sentences that follow from its own numbers, and the checks that it must pass."""

import json
import time
from pathlib import Path
from typing import Any

from longspan import storage
from longspan.demo import settings
from longspan.errors import LongspanError
from longspan.planner.costs import flops_per_token, model_sizes
from longspan.versions import versions

TITLES = {
    "base": ("Base, untouched", "trained at 128 tokens"),
    "ntk": ("Base + NTK", "RoPE base raised, nothing trained"),
    "yarn": ("Base + YaRN", "RoPE scaled, nothing trained"),
    "longrecipe": ("LongRecipe", "307-token samples, positions spread over 1,024"),
    "no-gaps": ("No gaps", "the same samples and RoPE, ordinary positions"),
    "full-length": ("Full length", "1,024-token samples, about equal compute"),
}
EXTENDED_AT_LEAST, BASE_AT_MOST = 0.95, 0.35
_CLOSE = 0.02


def summarise(
    output: str,
    evaluations: dict[str, dict[str, Any]],
    summaries: dict[str, dict[str, Any]],
    timings: dict[str, float],
    started: float,
) -> dict[str, Any]:
    """Write OUTPUT/summary.json, plots and report.html; print the table.

    Raises:
        LongspanError: the extended model or the base is not what the demonstration must show.
    """
    from longspan.observe.plots import accuracy_by_length, loss_by_position, needle_heatmaps
    from longspan.observe.report import write_report
    from longspan.observe.tables import print_results

    models = {name: _model(evaluations[name], summaries.get(name), name) for name in TITLES}
    checks = _checks(models)
    summary: dict[str, Any] = {
        "kind": "demo",
        "name": "longspan demo",
        "window": settings.WINDOW,
        "target": settings.TARGET,
        "models": models,
        "findings": findings(models),
        "checks": checks,
        "chance": {"blind": 1 / 16, "among the needles present": 0.1},
        "checkpoint": f"{output}/longrecipe/checkpoint",
        "versions": versions(),
    }
    plots = Path(output, "plots")
    storage.check_lease(output)  # plots are drawn into it, past storage
    plots.mkdir(parents=True, exist_ok=True)
    titles = {name: TITLES[name][0] for name in TITLES}
    needle_heatmaps(
        {titles[name]: evaluations[name]["needle"] for name in TITLES}, plots / "needle_heatmaps.png", settings.WINDOW
    )
    loss_by_position(
        {titles[name]: evaluations[name]["loss_by_position"] for name in TITLES},
        plots / "loss_by_position.png",
        settings.WINDOW,
    )
    accuracy_by_length(
        {titles[name]: models[name]["needle_accuracy"] for name in TITLES},
        plots / "accuracy_by_length.png",
        settings.WINDOW,
    )
    summary["timings"] = timings | {"total": round(time.perf_counter() - started, 2)}
    # Not write_json: it sorts keys, and the models are to be read in the order of TITLES.
    storage.write_text(f"{output}/summary.json", json.dumps(summary, indent=2) + "\n")
    storage.write_json(f"{output}/evaluations.json", evaluations)
    report = write_report(output)
    print_results(summary)
    for line in summary["findings"]:
        print(f"- {line}")  # noqa: T201
    print(f"checkpoint: {summary['checkpoint']}\nreport: {report}")  # noqa: T201
    failed = [name for name, passed in checks.items() if not passed]
    if failed:
        raise LongspanError(f"the demonstration did not show what it must: {'; '.join(failed)}; see {report}")
    return summary


def _model(evaluation: dict[str, Any], summary: dict[str, Any] | None, name: str) -> dict[str, Any]:
    needle = evaluation["needle"]
    curve = evaluation["loss_by_position"]
    return {
        "needle_accuracy": {str(n): mean for n, mean in zip(needle["lengths"], needle["mean"], strict=True)},
        "tokens": summary["tokens"] if summary else 0,
        "seconds": round(summary["seconds"], 2) if summary else 0.0,
        "flops": _flops(summary),
        "held_out_loss": curve["mean"],
        "note": TITLES[name][1],
    }


def _flops(summary: dict[str, Any] | None) -> float:
    """Useful training FLOPs (planner.costs): what "equal compute" is measured by."""
    if summary is None:
        return 0.0
    sizes = model_sizes(storage.read_json(storage.join(summary["checkpoint"], "config.json")))
    length = settings.TARGET if summary["name"] == "full-length" else settings.SAMPLE
    return summary["tokens"] * flops_per_token(sizes, length)


def _checks(models: dict[str, Any]) -> dict[str, bool]:
    extended, base = models["longrecipe"]["needle_accuracy"], models["base"]["needle_accuracy"]
    target, window = str(settings.TARGET), str(settings.WINDOW)
    return {
        f"longrecipe at least {EXTENDED_AT_LEAST} at {target}": extended[target] >= EXTENDED_AT_LEAST,
        f"longrecipe at least {EXTENDED_AT_LEAST} at {window}": extended[window] >= EXTENDED_AT_LEAST,
        f"base at most {BASE_AT_MOST} at {target}": base[target] <= BASE_AT_MOST,
    }


def findings(models: dict[str, Any]) -> list[str]:
    """Sentences that the run's numbers bear out, and no others."""
    target, window = str(settings.TARGET), str(settings.WINDOW)
    at = {name: model["needle_accuracy"] for name, model in models.items()}
    long, full = models["longrecipe"], models["full-length"]
    lines = [
        f"The base retrieves {at['base'][window]:.0%} at {window} tokens and {at['base'][target]:.0%} at {target};"
        f" extended with LongRecipe positions it retrieves {at['longrecipe'][target]:.0%} at {target}"
        f" and {at['longrecipe'][window]:.0%} at {window}.",
        f"The same samples without gaps reach {at['no-gaps'][target]:.0%}: "
        + _difference(at["longrecipe"][target] - at["no-gaps"][target]),
        f"Full-length training on {full['tokens']:,} tokens ({full['flops']:.2g} FLOPs) reaches"
        f" {at['full-length'][target]:.0%}, LongRecipe on {long['tokens']:,} tokens ({long['flops']:.2g} FLOPs)"
        f" {at['longrecipe'][target]:.0%}: at this size and compute they are"
        f" {'level' if abs(at['full-length'][target] - at['longrecipe'][target]) <= _CLOSE else 'apart'}.",
    ]
    if at["yarn"][target] >= at["longrecipe"][target] - _CLOSE:
        lines.append(
            f"YaRN without any training reaches {at['yarn'][target]:.0%}: on this easy one-hop task training was not"
            " needed to retrieve, and the demonstration is no evidence that it was."
        )
    else:
        lines.append(f"YaRN without any training reaches {at['yarn'][target]:.0%}.")
    lines.append("One seed, one tiny model: a check that every part works, not a comparison of methods.")
    return lines


def _difference(gain: float) -> str:
    if gain > _CLOSE:
        return f"the gaps in the positions are worth {gain * 100:.0f} points here."
    return "the gaps in the positions made no clear difference here."
