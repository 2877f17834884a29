"""What a comparison leaves behind: compare.json, table.md, plots, report.html, and its tables on the console."""

import json
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from longspan import storage
from longspan.compare.claims import judge
from longspan.compare.plots import accuracy_by_task, accuracy_grid, best_methods, claims_plot
from longspan.compare.results import Measured, MethodResult, gather, metric_key, to_dict
from longspan.compare.statistics import CONFIDENCE, mean
from longspan.compare.tables import claim_table, cost_table, markdown, score_table
from longspan.config.compare import Comparison
from longspan.config.load import to_yaml
from longspan.versions import versions

INTERVAL = f"{CONFIDENCE:.0%} interval of the paired difference, Student's t over seeds"


def present(
    comparison: Comparison, measured: Sequence[Measured], failures: Mapping[str, str], seconds: float
) -> dict[str, Any]:
    """Write everything, print the tables, and return what compare.json holds.

    Args:
        measured: at least one run of the reference.
        failures: why a run has no result, by its label.
        seconds: wall time of this call.
    """
    from rich.console import Console

    results = gather(measured, comparison.evaluate.tasks)
    summary = summarise(comparison, results, failures)
    summary["timings"] = {"this call": round(seconds, 1)}
    output = storage.absolute(comparison.output_uri)
    storage.write_text(storage.join(output, "compare.json"), json.dumps(summary, indent=2) + "\n")
    storage.write_text(storage.join(output, "comparison.yaml"), to_yaml(comparison))
    storage.write_text(storage.join(output, "table.md"), markdown(summary))
    _draw(comparison, results, summary, output)
    report = _report(summary, output)
    console = Console()
    for table in (score_table(summary), cost_table(summary), *([claim_table(summary)] if summary["claims"] else [])):
        console.print(table)
    console.print(f"{output}/compare.json\n{report}", markup=False, highlight=False)
    return summary


def summarise(
    comparison: Comparison, results: Mapping[str, MethodResult], failures: Mapping[str, str]
) -> dict[str, Any]:
    """Everything that was found, as JSON-able values; methods in the order of the comparison."""
    lengths = sorted(set(comparison.evaluate.lengths))
    reference = results.get(comparison.reference)
    methods = {}
    for method in comparison.methods:
        if method.name in results:
            values = to_dict(results[method.name], reference)
            methods[method.name] = {"note": method.note, "trained": method.train, **values}
    known = [claim for claim in comparison.claims if claim.method in results and claim.against in results]
    return {
        "kind": "compare",
        "name": comparison.name,
        "lengths": lengths,
        "tasks": list(comparison.evaluate.tasks),
        "seeds": list(comparison.seeds),
        "questions": comparison.evaluate.questions * comparison.evaluate.examples,
        "budget": comparison.budget.model_dump(mode="json", exclude_none=True),
        "reference": comparison.reference,
        "interval": INTERVAL,
        "methods": methods,
        "claims": [judge(claim, results, lengths) for claim in known],
        "failed": dict(failures),
        "versions": versions(),
    }


def _draw(comparison: Comparison, results: Mapping[str, MethodResult], summary: Mapping[str, Any], output: str) -> None:
    from longspan.observe.plots import accuracy_by_length, loss_by_position

    lengths, tasks = summary["lengths"], comparison.evaluate.tasks
    window = comparison.evaluate.short_length or lengths[0]
    shown = {name: results[name] for name in best_methods(results, comparison.reference, lengths[-1])}
    lines = {
        name: {length: mean(result.metrics[metric_key("tasks", length)]) for length in lengths}
        for name, result in shown.items()
    }
    with tempfile.TemporaryDirectory() as folder:
        accuracy_grid(results, tasks, lengths, Path(folder, "accuracy_grid.png"))
        accuracy_by_task(results, tasks, lengths[-1], Path(folder, "accuracy_by_task.png"))
        if any(claim["difference"] is not None for claim in summary["claims"]):
            claims_plot(summary["claims"], summary["interval"], Path(folder, "claims.png"))
        accuracy_by_length(lines, Path(folder, "accuracy_by_length.png"), window)
        curves = {name: result.curve for name, result in shown.items()}
        loss_by_position(curves, Path(folder, "loss_by_position.png"), window)
        for path in sorted(Path(folder).iterdir()):
            storage.upload_file(str(path), storage.join(output, "plots", path.name))


def _report(summary: Mapping[str, Any], output: str) -> str:
    """OUTPUT/summary.json in the form that `observe.report` reads, and the page; returns its URI."""
    from longspan.observe.report import write_report

    lengths = summary["lengths"]
    models = {
        name: {
            "needle_accuracy": {
                str(length): method["metrics"][metric_key("tasks", length)]["mean"] for length in lengths
            },
            "tokens": method["tokens"],
            "seconds": method["seconds"],
            "flops": method["flops"],
            **{key: method["metrics"][key]["mean"] for key in ("loss", "last_loss", "short_loss")},
            "note": method["note"],
        }
        for name, method in summary["methods"].items()
    }
    findings = [f"{claim['name']}: {claim['verdict']}" for claim in summary["claims"]]
    page = {"models": models, "window": lengths[0], "findings": findings}
    rest = {key: summary[key] for key in summary if key not in ("methods", "claims")}
    storage.write_text(storage.join(output, "summary.json"), json.dumps(rest | page, indent=2) + "\n")
    return write_report(output)
