"""Plots that only a comparison has: a row a method, however many there are, and a row a claim."""

import math
import textwrap
from collections.abc import Mapping, Sequence
from typing import Any

from longspan.compare.claims import FAILS, HOLDS
from longspan.compare.results import MethodResult, metric_key
from longspan.compare.statistics import mean, spread
from longspan.config.compare import LOSSES
from longspan.observe import plot_style as style
from longspan.observe.formatting import token_length
from longspan.observe.plot_style import PngPath

LINES_AT_MOST = 8
"""Methods that one plot of lines can hold apart: as many as there are colours."""
_VERDICT_COLORS = {HOLDS: "#009E73", FAILS: "#D55E00"}


def best_methods(results: Mapping[str, MethodResult], reference: str, length: int) -> list[str]:
    """The reference and the methods with the highest mean accuracy at `length`, at most `LINES_AT_MOST`, in order."""
    ranked = sorted(results, key=lambda name: -mean(results[name].metrics[metric_key("tasks", length)]))
    kept = [name for name in results if name == reference]
    kept += [name for name in ranked if name != reference][: LINES_AT_MOST - len(kept)]
    return [name for name in results if name in kept]


def accuracy_grid(
    results: Mapping[str, MethodResult], tasks: Sequence[str], lengths: Sequence[int], path: PngPath
) -> None:
    """A row a method, a column a length, a panel a task and one for their mean; the number in a cell is percent."""
    panels = ["tasks", *tasks] if len(tasks) > 1 else list(tasks)
    width = 2.0 + len(panels) * max(1.3, 0.48 * len(lengths))
    colors = style.red_to_green()
    subtitle = f"Percent right by context length, mean over seeds; {token_length(lengths[-1])} is the longest asked"
    with style.figure(path, "Accuracy of every method", width, 1.5 + 0.27 * len(results), subtitle) as figure:
        for axes, metric in zip(figure.subplots(1, len(panels), squeeze=False, sharey=True)[0], panels, strict=True):
            rows = [[mean(one.metrics[metric_key(metric, length)]) for length in lengths] for one in results.values()]
            axes.imshow(rows, cmap=colors, vmin=0, vmax=1, aspect="auto", interpolation="nearest")
            for row, values in enumerate(rows):
                for column, value in enumerate(values):
                    ink = "white" if style.lightness(colors(value)) < 55 else style.INK
                    axes.text(column, row, f"{100 * value:.0f}", ha="center", va="center", fontsize=8, color=ink)
            axes.set_xticks(range(len(lengths)), [token_length(length) for length in lengths])
            axes.set_yticks(range(len(results)), list(results))
            axes.set_title("mean" if metric == "tasks" else metric)
            axes.grid(visible=False)
            axes.tick_params(length=0)


def accuracy_by_task(results: Mapping[str, MethodResult], tasks: Sequence[str], length: int, path: PngPath) -> None:
    """A row a method, a panel a task: every seed as a small dot, the mean as a large one with its deviation; beside
    them the training FLOPs.
    """
    height = 1.6 + 0.3 * len(results)
    width = 2.2 + 1.9 * (len(tasks) + 1)
    subtitle = f"At {length:,} tokens; large: mean over seeds with standard deviation, small: each seed"
    with style.figure(path, "Accuracy by task, and what it cost", max(width, 6.4), height, subtitle) as figure:
        *panels, cost = figure.subplots(1, len(tasks) + 1, squeeze=False, sharey=True)[0]
        for row, result in enumerate(results.values()):
            color = style.SERIES[row % len(style.SERIES)]
            for axes, task in zip(panels, tasks, strict=True):
                values = result.metrics[metric_key(task, length)]
                axes.plot([100 * v for v in values.values()], [row] * len(values), "o", color=color, ms=3, alpha=0.5)
                deviation = 100 * (spread(values) or 0.0)
                axes.errorbar([100 * mean(values)], [row], xerr=[deviation], fmt="o", color=color, ms=6, capsize=3)
            if result.flops:
                cost.plot([result.flops], [row], "s", color=color, ms=6)
        for axes, task in zip(panels, tasks, strict=True):
            axes.set(xlim=(-3, 103), xlabel="Accuracy (%)", title=task)
        cost.set(xscale="log", xlabel="FLOPs", title="training")
        # matplotlib's own labels on a logarithmic axis are TeX, which these plots do not set.
        for axis_labels in (cost.xaxis.set_major_formatter, cost.xaxis.set_minor_formatter):
            axis_labels(lambda value, place: f"{value:.0e}".replace("e+", "e") if _leads(value) else "")
        panels[0].set_yticks(range(len(results)), list(results))
        panels[0].invert_yaxis()


def claims_plot(claims: Sequence[Mapping[str, Any]], interval: str, path: PngPath) -> None:
    """The advantage that each claim is about, with its interval; the tick is what the claim asks for.

    Args:
        claims: as `claims.judge` returns them, at least one with a difference.
        interval: what the interval is, for the caption.
    """
    known = [claim for claim in claims if claim["difference"] is not None]
    with style.figure(path, "Claims", 9.6, 1.5 + 0.46 * len(known), interval) as figure:
        axes = figure.subplots()
        axes.axvline(0, color=style.MUTED, linewidth=1)
        for row, claim in enumerate(known):
            color = _VERDICT_COLORS.get(claim["verdict"], style.MUTED)
            middle = claim["difference"]
            low, high = (middle if claim[end] is None else claim[end] for end in ("low", "high"))
            axes.errorbar(
                [middle], [row], xerr=[[middle - low], [high - middle]], fmt="o", color=color, ms=6, capsize=3
            )
            asked = -claim["points"] if claim["relation"] == "within" else claim["points"]
            axes.plot([asked], [row], "|", color=style.INK, ms=13, mew=1.6)
            axes.text(1.01, row, claim["verdict"], transform=axes.get_yaxis_transform(), va="center", color=color)
        axes.set_yticks(range(len(known)), ["\n".join(textwrap.wrap(_named(claim), 52)) for claim in known])
        axes.set_xlabel("Advantage (points of accuracy, or hundredths of a nat); the mark: what is claimed")
        axes.set_xscale("symlog", linthresh=10)
        axes.set_xticks(ticks := _ticks(known), [str(tick) for tick in ticks])
        axes.invert_yaxis()


def _named(claim: Mapping[str, Any]) -> str:
    where = claim["metric"] if claim["metric"] in LOSSES else f"{claim['metric']} @{token_length(claim['length'])}"
    return f"{claim['name']} ({where})"


def _ticks(claims: Sequence[Mapping[str, Any]]) -> list[int]:
    """Round numbers on both sides of 0, out to the furthest end of an interval."""
    ends = [abs(claim[key]) for claim in claims for key in ("difference", "low", "high") if claim[key] is not None]
    far = [tick for tick in (2, 5, 10, 20, 50, 100, 200, 500) if tick <= 2 * max(ends)]
    return [*(-tick for tick in reversed(far)), 0, *far]


def _leads(value: float) -> bool:
    """Whether a tick of a logarithmic axis gets a label: 1, 2 and 5 times a power of ten."""
    return math.isfinite(value) and f"{value:.0e}"[0] in "125"
