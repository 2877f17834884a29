"""RUN/report.html: one self-contained page about a finished or running run, made from the files in its directory.

`longspan report RUN` and the end of a demo call `write_report`; it reads and writes through `storage`, so RUN may be
in S3.
"""

import base64
import tempfile
from collections.abc import Callable, Mapping, Sequence
from importlib import resources
from pathlib import Path
from typing import Any

from longspan import __version__, storage
from longspan.errors import DataError
from longspan.observe.metrics import read_metrics
from longspan.observe.plots import accuracy_by_length, draw_plan, training_curves
from longspan.observe.report_view import build_view, plot_caption, plot_order
from longspan.observe.results import all_lengths, model_rows


def write_report(run_uri: str) -> str:
    """Draw the plots that follow from the run's numbers, write RUN/report.html, and return its URI.

    Reads RUN/summary.json, RUN/metrics.jsonl, RUN/plan.json, RUN/recipe.yaml and RUN/plots/*.png; what is missing is
    left out. RUN/plots/training_curves.png is drawn anew from the metrics, and the plots of the plan from plan.json;
    RUN/plots/accuracy_by_length.png only where missing.

    Raises:
        DataError: the directory holds neither a summary nor metrics, or one of them is damaged.
        StorageError: the directory cannot be read or written.
    """
    summary = _read_summary(run_uri)
    metrics = read_metrics(run_uri)
    if summary is None and not metrics:
        raise DataError(
            f"{storage.absolute(run_uri)}: neither summary.json nor metrics.jsonl is here; "
            "give the directory of a run that has finished at least one step or an evaluation"
        )
    summary = summary or {}
    plan_uri = storage.join(run_uri, "plan.json")
    plan = storage.read_json(plan_uri) if storage.exists(plan_uri) else None
    view = build_view(summary, metrics, storage.absolute(run_uri).rsplit("/", 1)[-1], plan)
    recipe_uri = storage.join(run_uri, "recipe.yaml")
    page = render(
        view
        | {
            "run_uri": storage.absolute(run_uri),
            "recipe": storage.read_text(recipe_uri) if storage.exists(recipe_uri) else None,
            "plots": _collect_plots(run_uri, view["name"], summary, metrics, plan),
        }
    )
    report_uri = storage.join(run_uri, "report.html")
    storage.write_text(report_uri, page)
    return report_uri


def render(view: Mapping[str, Any]) -> str:
    """The page for a view: `report_view.build_view` plus run_uri, recipe and plots. Every value is escaped."""
    from jinja2 import Environment, StrictUndefined

    template = resources.files("longspan.observe").joinpath("report.html.j2").read_text(encoding="utf-8")
    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    return environment.from_string(template).render(view, longspan_version=__version__)


def _read_summary(run_uri: str) -> dict[str, Any] | None:
    uri = storage.join(run_uri, "summary.json")
    if not storage.exists(uri):
        return None
    summary = storage.read_json(uri)
    if not isinstance(summary, dict):
        raise DataError(f"{uri}: holds a {type(summary).__name__}; a summary is one JSON object")
    return summary


def _collect_plots(
    run_uri: str,
    name: str,
    summary: Mapping[str, Any],
    metrics: Sequence[Mapping[str, Any]],
    plan: Mapping[str, Any] | None,
) -> list[dict[str, str]]:
    plots_uri = storage.join(run_uri, "plots")
    names = {file for file in storage.list_files(plots_uri, recursive=False) if file.endswith(".png")}
    if metrics:
        _draw(storage.join(plots_uri, "training_curves.png"), lambda path: training_curves({name: metrics}, path))
        names.add("training_curves.png")
    models = summary.get("models")
    rows = model_rows(models) if isinstance(models, Mapping) else []
    if all_lengths(rows) and "accuracy_by_length.png" not in names:
        results = {row.name: row.accuracy for row in rows}
        window = summary.get("window")
        known_window = window if isinstance(window, int) else None
        _draw(
            storage.join(plots_uri, "accuracy_by_length.png"),
            lambda path: accuracy_by_length(results, path, known_window),
        )
        names.add("accuracy_by_length.png")
    if plan is not None:
        names |= write_plan_plots(run_uri, plan)
    plots = []
    for file in sorted(names, key=plot_order):
        title, hint = plot_caption(file)
        image = base64.b64encode(storage.read_bytes(storage.join(plots_uri, file))).decode("ascii")
        plots.append({"title": title, "hint": hint, "base64": image})
    return plots


def write_plan_plots(run_uri: str, description: Mapping[str, Any]) -> set[str]:
    """Draw the plots of a plan's description to RUN/plots; returns their file names."""
    with tempfile.TemporaryDirectory() as folder:
        paths = draw_plan(description, folder)
        for path in paths:
            storage.upload_file(str(path), storage.join(run_uri, "plots", path.name))
    return {path.name for path in paths}


def _draw(uri: str, draw: Callable[[Path], None]) -> None:
    """Draw to a local file and hand it to storage, which replaces what is at `uri` in one move."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "plot.png"
        draw(path)
        storage.write_bytes(uri, path.read_bytes())
