"""`longspan evaluate`: any model on a prepared corpus' held-out text, as a table and, if asked, a report."""

import json
import tempfile
from contextlib import nullcontext
from pathlib import Path
from typing import Any

from longspan import storage
from longspan.config.model import Model
from longspan.corpus.manifest import named_manifest
from longspan.evaluate.heldout import check_held_out
from longspan.evaluate.run import EvaluationSettings, evaluate_model
from longspan.launch.contents import corpus_contents, model_contents
from longspan.model.identity import identity_digest


def assess(model: str, manifest: str, settings: EvaluationSettings, output: str | None) -> Any:
    """The table for the console; with `output`, also summary.json, plots and report.html there."""
    from longspan.observe.tables import results_table

    known = named_manifest(manifest, "--manifest")
    check_held_out(known, settings.text_source, settings.lengths, ("--source", "--lengths"))
    with storage.hold(output, "evaluate") if output is not None else nullcontext():
        return results_table(_assess(model, manifest, settings, output))


def _assess(model: str, manifest: str, settings: EvaluationSettings, output: str | None) -> dict[str, Any]:
    result = evaluate_model(model, manifest, settings)
    name = Path(model.rstrip("/")).name
    needle = result["needle"]
    accuracy = {str(n): mean for n, mean in zip(needle["lengths"], needle["mean"], strict=True)}
    summary = {
        "kind": "evaluation",
        "name": name,
        "models": {name: {"needle_accuracy": accuracy, "held_out_loss": result["loss_by_position"]["mean"]}},
        "evaluation": result,
        "contents": {
            field: content if isinstance(content, str) else identity_digest(content)
            for field, content in {
                **model_contents(Model(path=model)),
                **corpus_contents("evaluate.manifest", manifest),
            }.items()
        },
    }
    if output is not None:
        write_evaluation(output, name, summary)
    return summary


def write_evaluation(output: str, name: str, summary: dict[str, Any]) -> None:
    """OUTPUT/summary.json with its plots and report."""
    from longspan.observe.plots import loss_by_position, needle_heatmaps
    from longspan.observe.report import write_report

    evaluation = summary["evaluation"]
    with tempfile.TemporaryDirectory() as directory:
        grid, curve = Path(directory, "needle_heatmaps.png"), Path(directory, "loss_by_position.png")
        needle_heatmaps({name: {**evaluation["needle"], "scales": evaluation.get("scales")}}, grid)
        loss_by_position({name: evaluation["loss_by_position"]}, curve, None)
        for path in (grid, curve):
            storage.upload_file(str(path), storage.join(output, "plots", path.name))
    storage.write_text(storage.join(output, "summary.json"), json.dumps(summary, indent=2) + "\n")
    write_report(output)
