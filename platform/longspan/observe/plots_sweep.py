"""The parallel-coordinates plot of a sweep: an axis for each hyper-parameter, a line for each trial, the metric last.

`sweep/` calls it with finished trials. Its axes (linear, logarithmic or categories) are worked out here.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from longspan.errors import DataError
from longspan.observe import plot_style as style
from longspan.observe.formatting import as_float, is_number, number
from longspan.observe.plot_style import PngPath

if TYPE_CHECKING:
    from matplotlib.axes import Axes


@dataclass(frozen=True)
class Scale:
    """Where the values of one column lie on its axis, 0 (bottom) to 1 (top)."""

    heights: dict[Any, float]
    ticks: tuple[tuple[float, str], ...]


def sweep_parallel_coordinates(
    trials: Sequence[Mapping[str, Any]], path: PngPath, metric_name: str = "loss", lower_is_better: bool = True
) -> None:
    """Every trial of a sweep as a line through its parameters to its metric; the best one drawn bold.

    Args:
        trials: {"params": {name: number, text, bool or None}, "metric": float; None or NaN for a failed trial}.
            Parameters that are the same in all trials get no axis.
        metric_name: label of the last axis.

    Raises:
        DataError: no trial has a metric, or no parameter differs between trials.
    """
    finished = [trial for trial in trials if is_number(trial["metric"])]
    if not finished:
        raise DataError(
            f"sweep_parallel_coordinates: none of {len(trials)} trials has a finite metric; nothing to compare"
        )
    names = list(dict.fromkeys(name for trial in trials for name in trial["params"]))
    columns = {name: [_plain(trial["params"].get(name)) for trial in trials] for name in names}
    columns = {name: values for name, values in columns.items() if len(set(values)) > 1}
    if not columns:
        raise DataError(
            "sweep_parallel_coordinates: no parameter differs between the trials; give at least two values of one"
        )
    scales = [_scale(values) for values in columns.values()]
    metric = _scale([float(trial["metric"]) for trial in finished])
    best = (min if lower_is_better else max)(finished, key=lambda trial: float(trial["metric"]))
    failed = len(trials) - len(finished)
    subtitle = f"{len(trials)} trials; bold: best {metric_name} ({number(best['metric'])})"
    subtitle += f"; grey: {failed} without a result" if failed else ""
    width = max(6.4, 1.55 * (len(columns) + 1) + 1.2)
    with style.figure(path, "Sweep", width, 4.4, subtitle) as figure:
        axes = figure.subplots()
        for index, trial in enumerate(trials):
            heights = [scale.heights[values[index]] for scale, values in zip(scales, columns.values(), strict=True)]
            _trial_line(axes, heights, trial, metric, is_best=trial is best, lower_is_better=lower_is_better)
        for x, (name, scale) in enumerate([*zip(columns, scales, strict=True), (metric_name, metric)]):
            _axis(axes, x, name, scale, last=x == len(columns))
        axes.set(xlim=(-0.35, len(columns) + 0.45), ylim=(-0.06, 1.18))
        axes.set_axis_off()


def _scale(values: Sequence[Any]) -> Scale:
    distinct = set(values)
    if not all(is_number(value) for value in distinct):
        ordered = sorted(distinct, key=str)
        heights = {value: index / max(len(ordered) - 1, 1) for index, value in enumerate(ordered)}
        return Scale(heights, tuple((heights[value], _short(str(value))) for value in ordered))
    low, high = min(distinct), max(distinct)
    if low == high:
        return Scale(dict.fromkeys(distinct, 0.5), ((0.5, number(low)),))
    logarithmic = low > 0 and high / low >= 20
    bend = math.log if logarithmic else float
    heights = {value: (bend(value) - bend(low)) / (bend(high) - bend(low)) for value in distinct}
    if len(distinct) <= 6:
        return Scale(heights, tuple((heights[value], number(value)) for value in sorted(distinct)))
    whole = all(float(value).is_integer() for value in distinct)
    ticks = [value for value in _round_values(low, high, logarithmic, whole) if low <= value <= high]
    return Scale(
        heights, tuple(((bend(value) - bend(low)) / (bend(high) - bend(low)), f"{value:.4g}") for value in ticks)
    )


def _round_values(low: float, high: float, logarithmic: bool, whole: bool) -> list[float]:
    if not logarithmic:
        from matplotlib.ticker import MaxNLocator

        return [float(value) for value in MaxNLocator(5, integer=whole).tick_values(low, high)]
    decades = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    digits = (1, 3) if len(decades) <= 4 else (1,)
    return [digit * 10.0**decade for decade in decades for digit in digits]


def _trial_line(
    axes: "Axes",
    heights: Sequence[float],
    trial: Mapping[str, Any],
    metric: Scale,
    is_best: bool,
    lower_is_better: bool,
) -> None:
    from matplotlib import colormaps
    from matplotlib.patches import PathPatch
    from matplotlib.path import Path as Curve

    color: Any = "#aab2ba"
    look = {"alpha": 0.7, "linewidth": 1.0, "linestyle": (0, (2, 2)), "zorder": 1}
    if is_number(trial["metric"]):
        height = metric.heights[float(trial["metric"])]
        heights = [*heights, height]
        # Good trials are dark whichever way the metric points; the lightest fifth of the map would vanish on white.
        color = colormaps["cividis"](0.85 * (height if lower_is_better else 1 - height))
        look = {"alpha": 0.75, "linewidth": 1.4, "linestyle": "-", "zorder": 2}
    if is_best:
        color, look = style.SERIES[1], {"alpha": 1.0, "linewidth": 3.2, "linestyle": "-", "zorder": 4}
    points, codes = [(0.0, heights[0])], [Curve.MOVETO]
    for x in range(1, len(heights)):
        # Level at both ends, so that lines through one point can be followed.
        points += [(x - 0.6, heights[x - 1]), (x - 0.4, heights[x]), (x, heights[x])]
        codes += [Curve.CURVE4] * 3
    axes.add_patch(PathPatch(Curve(points, codes), facecolor="none", edgecolor=color, **look))


def _axis(axes: "Axes", x: int, name: str, scale: Scale, last: bool) -> None:
    axes.plot([x, x], [0, 1], color=style.INK, linewidth=1.1, zorder=3)
    group, _, own_name = name.rpartition(".")
    axes.text(x, 1.065, _short(own_name), ha="center", va="bottom", fontsize=9.5, fontweight="bold")
    axes.text(x, 1.135, _short(group, 28), ha="center", va="bottom", fontsize=7.5, color=style.MUTED)
    for height, label in scale.ticks:
        axes.plot([x - 0.015, x + 0.015], [height, height], color=style.INK, linewidth=1.1, zorder=3)
        box = {"facecolor": "white", "alpha": 0.8, "edgecolor": "none", "pad": 0.8}
        look: dict[str, Any] = {"va": "center", "fontsize": 8, "color": style.MUTED, "zorder": 5, "bbox": box}
        axes.text(x + 0.03 if last else x - 0.03, height, label, ha="left" if last else "right", **look)


def _plain(value: object) -> object:
    """A hashable value of a column: numbers as float, everything else as the text that it prints as."""
    return as_float(value) if is_number(value) else str(value)


def _short(text: str, limit: int = 22) -> str:
    """A long name from its end, which is the part that tells it apart."""
    return text if len(text) <= limit else f"...{text[3 - limit :]}"
