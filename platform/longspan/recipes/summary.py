"""What a pipeline and its stages came to: one table over all stages, as summary.json, plots and report.html.

`run` writes these; `observe.tables.results_table(summary)` prints the same table in the terminal.
"""

import json
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from longspan import storage
from longspan.config.pipeline import BASE, MergeStage, Pipeline, Stage
from longspan.recipes.plan import Record
from longspan.versions import versions

_FROM_TRAINING = ("steps", "tokens", "seconds", "final_loss", "max_position", "target_length", "checkpoint")
_FROM_MERGE = ("weight", "rope", "vocabulary", "dtype", "parameters", "bytes", "files", "seconds")


def stage_summary(stage: Stage, result: Mapping[str, Any]) -> dict[str, Any]:
    """The few figures of a stage that its record and the table keep."""
    keys = _FROM_MERGE if isinstance(stage, MergeStage) else _FROM_TRAINING
    kept = {key: result[key] for key in keys if key in result}
    if isinstance(stage, MergeStage):
        return {"kind": "merge", "a": stage.a, "b": stage.b, "checkpoint": result.get("output"), **kept}
    return {"kind": "train", **kept}


def model_row(summary: Mapping[str, Any], evaluation: Mapping[str, Any] | None) -> dict[str, Any]:
    """One model as `observe.results.model_rows` reads it: accuracy by length, cost, and what was done to it."""
    row: dict[str, Any] = {"needle_accuracy": accuracy(evaluation)}
    if evaluation:
        row["held_out_loss"] = evaluation["loss_by_position"]["mean"]
        if "short_loss" in evaluation:
            row["short_loss"] = evaluation["short_loss"]["mean"]
    row |= {key: summary[key] for key in ("steps", "final_loss", "tokens", "seconds") if key in summary}
    return {**row, "note": _note(summary)}


def accuracy(evaluation: Mapping[str, Any] | None) -> dict[str, float]:
    """Needle accuracy in [0, 1] by context length in tokens."""
    if not evaluation:
        return {}
    needle = evaluation["needle"]
    return {str(length): mean for length, mean in zip(needle["lengths"], needle["mean"], strict=True)}


def _note(summary: Mapping[str, Any]) -> str:
    kind = summary.get("kind")
    if kind == "merge":
        share = summary.get("weight", 0.5)
        return f"{1 - share:g} {summary['a']} + {share:g} {summary['b']}, RoPE of {summary.get('rope')}"
    return "before any stage" if kind == BASE else ""


def pipeline_summary(
    pipeline: Pipeline, base: Mapping[str, Any] | None, records: Mapping[str, Record]
) -> dict[str, Any]:
    """The summary of all stages that are made; `base` holds the base model's answers, None where it was not asked."""
    made = {stage.name: records[stage.name] for stage in pipeline.stages if _is_made(records.get(stage.name))}
    models = {BASE: model_row({"kind": BASE}, base)} if base else {}
    models |= {name: model_row(record.summary, record.evaluation) for name, record in made.items()}
    finished = len(made) == len(pipeline.stages)
    last = pipeline.stages[-1]
    return {
        "kind": "pipeline",
        "name": pipeline.name,
        "finished": finished,
        "base": pipeline.base,
        "stages": {stage.name: stage.folder for stage in pipeline.stages},
        **({"checkpoint": storage.join(pipeline.folder(last), "checkpoint")} if finished else {}),
        "tokens": sum(record.summary.get("tokens", 0) for record in made.values()),
        "seconds": sum(record.summary.get("seconds", 0.0) for record in made.values()),
        "models": models,
        "versions": versions(),
    }


def _is_made(record: Record | None) -> bool:
    return record is not None and bool(record.made)


def write_summary(pipeline: Pipeline, base: Mapping[str, Any] | None, records: Mapping[str, Record]) -> dict[str, Any]:
    """Write OUTPUT/summary.json, the plots over all stages and OUTPUT/report.html; returns the summary."""
    from longspan.observe.report import write_report

    summary = pipeline_summary(pipeline, base, records)
    # In the order of the stages, which sorted keys would not keep and the report's table shows.
    storage.write_text(storage.join(pipeline.output, "summary.json"), json.dumps(summary, indent=2) + "\n")
    answers = {BASE: base} if base else {}
    answers |= {name: records[name].evaluation for name in summary["models"] if name != BASE}
    _write_plots(pipeline.output, {name: found for name, found in answers.items() if found})
    write_report(pipeline.output)
    return summary


def write_stage_report(folder: str, record: Record) -> None:
    """FOLDER/summary.json and report.html of a finished stage, with its plots where it was evaluated."""
    from longspan.observe.report import write_report

    if (
        not record.evaluation
        and record.summary["kind"] == "train"
        and storage.exists(storage.join(folder, "report.html"))
    ):
        return  # the training's own, which says all there is
    uri = storage.join(folder, "summary.json")
    summary: dict[str, Any] = storage.read_json(uri) if storage.exists(uri) else {"name": record.name}
    summary |= {"finished": True, "versions": summary.get("versions") or versions(), **record.summary}
    if record.evaluation:
        summary["models"] = {record.name: model_row(record.summary, record.evaluation)}
        summary["evaluation"] = dict(record.evaluation)
        _write_plots(folder, {record.name: record.evaluation})
    storage.write_json(uri, summary)
    write_report(folder)


def _write_plots(folder: str, answers: Mapping[str, Mapping[str, Any]]) -> None:
    if not answers:
        return
    from longspan.observe.plots import accuracy_by_length, loss_by_position, needle_heatmaps

    lines = {name: {int(length): mean for length, mean in accuracy(found).items()} for name, found in answers.items()}
    with tempfile.TemporaryDirectory() as directory:
        paths = [
            Path(directory, f"{name}.png") for name in ("accuracy_by_length", "needle_heatmaps", "loss_by_position")
        ]
        accuracy_by_length(lines, paths[0], None)
        grids = {name: {**found["needle"], "scales": found.get("scales")} for name, found in answers.items()}
        needle_heatmaps(grids, paths[1])
        loss_by_position({name: found["loss_by_position"] for name, found in answers.items()}, paths[2], None)
        for path in paths:
            storage.upload_file(str(path), storage.join(folder, "plots", path.name))
