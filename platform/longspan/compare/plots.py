"""Plots that only a comparison has: accuracy of each task with its spread, and accuracy against training compute."""

from collections.abc import Mapping, Sequence

from longspan.compare.results import MethodResult, metric_key
from longspan.compare.statistics import mean, spread
from longspan.observe import plot_style as style
from longspan.observe.plot_style import PngPath


def accuracy_by_task(results: Mapping[str, MethodResult], tasks: Sequence[str], length: int, path: PngPath) -> None:
    """One panel a task, one row a method: every seed as a small dot, the mean as a large one with its deviation."""
    height = 1.6 + 0.34 * len(results)
    width = 2.2 + 2.2 * len(tasks)
    subtitle = f"At {length:,} tokens; large: mean over seeds with standard deviation, small: each seed"
    with style.figure(path, "Accuracy by task", max(width, 6.4), height, subtitle) as figure:
        panels = figure.subplots(1, len(tasks), squeeze=False, sharey=True)[0]
        for axes, task in zip(panels, tasks, strict=True):
            for row, result in enumerate(results.values()):
                values = result.metrics[metric_key(task, length)]
                color = style.SERIES[row % len(style.SERIES)]
                axes.plot([100 * v for v in values.values()], [row] * len(values), "o", color=color, ms=3, alpha=0.5)
                deviation = 100 * (spread(values) or 0.0)
                axes.errorbar([100 * mean(values)], [row], xerr=[deviation], fmt="o", color=color, ms=6.5, capsize=3)
            axes.set(xlim=(-3, 103), xlabel="Accuracy (%)", title=task)
        panels[0].set_yticks(range(len(results)), list(results))
        panels[0].invert_yaxis()


def accuracy_by_cost(results: Mapping[str, MethodResult], length: int, path: PngPath) -> None:
    """Mean accuracy over the tasks against training FLOPs; what was not trained stands at the left edge."""
    spent = [result.flops for result in results.values() if result.flops]
    left = min(spent, default=1.0) / 3
    with style.figure(
        path, "Accuracy against training compute", 7.6, 4.4, f"Mean over tasks at {length:,} tokens"
    ) as figure:
        axes = figure.subplots()
        for index, (name, result) in enumerate(results.items()):
            values = result.metrics[metric_key("tasks", length)]
            axes.errorbar(
                [result.flops or left],
                [100 * mean(values)],
                yerr=[100 * (spread(values) or 0.0)],
                label=name if result.flops else f"{name} (untrained)",
                capsize=3,
                **{**style.series_style(index, marker=True), "linestyle": "none"},
            )
        axes.set_xscale("log")
        # matplotlib's own labels on a logarithmic axis are TeX, which these plots do not set.
        for axis_labels in (axes.xaxis.set_major_formatter, axes.xaxis.set_minor_formatter):
            axis_labels(lambda value, place: f"{value:.0e}".replace("e+", "e") if _leads(value) else "")
        axes.set(xlabel="Training FLOPs", ylabel="Accuracy (%)", ylim=(-3, 103))
        style.legend_right(axes)


def _leads(value: float) -> bool:
    """Whether a tick of a logarithmic axis gets a label: 1, 2 and 5 times a power of ten."""
    return f"{value:.0e}"[0] in "125"
