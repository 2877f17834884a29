"""Plots of a training run and of the data it saw: curves by step, position coverage, document lengths.

The report, `plan` and the sampling tools call these with plain numbers; `plots.py` is the door to them.
"""

import math
from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import TYPE_CHECKING, Any

from longspan.errors import DataError
from longspan.observe import plot_style as style
from longspan.observe.formatting import as_float, compact, percent
from longspan.observe.plot_style import PngPath

if TYPE_CHECKING:
    from matplotlib.axes import Axes


def training_curves(metrics_by_run: Mapping[str, Sequence[Mapping[str, Any]]], path: PngPath) -> None:
    """Loss, gradient norm, learning rate and speed by optimizer step, one colour for each run.

    Args:
        metrics_by_run: run name to lines of its metrics.jsonl. Long runs are drawn faint with their moving mean on top.
        path: the PNG to write.

    Raises:
        DataError: no run has a line.
    """
    runs = {name: lines for name, lines in metrics_by_run.items() if lines}
    if not runs:
        raise DataError("training_curves: no run with a metrics line to draw; give at least one finished step")
    panels = (
        ("loss", "Loss", "Loss (nats per token)", True),
        ("grad_norm", "Gradient norm", "L2 norm before clipping", True),
        ("learning_rate", "Learning rate", "Learning rate", False),
        ("tokens_per_s", "Throughput", "Tokens per second", True),
    )
    subtitle = next(iter(runs)) if len(runs) == 1 else f"{len(runs)} runs"
    with style.figure(path, "Training by optimizer step", 10.0, 6.2, subtitle) as figure:
        grid = figure.subplots(2, 2, sharex=True)
        for axes, (field, title, label, smooth) in zip(grid.flat, panels, strict=True):
            for index, (name, lines) in enumerate(runs.items()):
                _training_line(axes, lines, field, name, style.series_style(index), smooth)
            axes.set(title=title, ylabel=label)
            axes.margins(x=0.01)
            if field != "loss":
                axes.set_ylim(bottom=0)
        for axes in grid[1]:
            axes.set_xlabel("Optimizer step")
        grid[1, 0].yaxis.set_major_formatter(lambda value, _: f"{value:.3g}")
        grid[1, 1].yaxis.set_major_formatter(lambda value, _: compact(value))
        if len(runs) > 1:
            handles, labels = grid[0, 0].get_legend_handles_labels()
            figure.legend(handles, labels, loc="outside lower center", ncols=min(len(runs), 5), handlelength=2.8)


def position_coverage(
    edges: Sequence[float],
    counts: Sequence[float],
    target: int,
    path: PngPath,
    quantity: str = "RoPE position",
) -> None:
    """How often training meets each position (or relative distance) up to the target window; gaps are marked.

    Args:
        edges: N + 1 rising bucket edges in tokens; buckets that widen (octaves) get a logarithmic axis.
        counts: N counts, how often the bucket was met.
        target: the window that training is to reach, in tokens.
        path: the PNG to write.
        quantity: what is counted: "RoPE position" or "relative distance".

    Raises:
        DataError: edges and counts do not fit, nothing was counted, or the target is not above the first edge.
    """
    if len(edges) != len(counts) + 1 or any(right <= left for left, right in pairwise(edges)):
        raise DataError(
            f"position_coverage: {len(edges)} edges and {len(counts)} counts; N counts need N + 1 rising edges"
        )
    if sum(counts) <= 0:
        raise DataError("position_coverage: every bucket is empty; give the histogram of at least one sample")
    if target <= edges[0]:
        raise DataError(
            f"position_coverage: target {target} is not above the first edge {edges[0]}; give the whole window"
        )
    buckets = [(left, right, count) for (left, right), count in zip(pairwise(edges), counts, strict=True)]
    missed = [(left, min(right, target)) for left, right, count in buckets if not count and left < target]
    if edges[-1] < target:
        missed.append((edges[-1], target))
    share_met = 1 - sum(right - left for left, right in missed) / (target - edges[0])
    # Rounded down: only a window without any gap may read 100 %.
    subtitle = f"Training meets {percent(math.floor(1000 * share_met) / 1000)} of the {target:,}-token window"
    with style.figure(path, f"Coverage: {quantity}", 8.2, 3.9, subtitle) as figure:
        _coverage_bars(figure.subplots(), buckets, missed, target, quantity)


def _coverage_bars(
    axes: "Axes",
    buckets: Sequence[tuple[float, float, float]],
    missed: Sequence[tuple[float, float]],
    target: int,
    quantity: str,
) -> None:
    total = sum(count for _, _, count in buckets)
    shares = [100 * count / total for _, _, count in buckets]
    widths = [right - left for left, right, _ in buckets]
    octaves = max(widths) >= 4 * min(widths)
    # A logarithmic axis has no 0: the first bucket is drawn one octave wide.
    start = buckets[0][1] / 2 if octaves and buckets[0][0] <= 0 else buckets[0][0]
    lefts = [max(left, start) for left, _, _ in buckets]
    rights = [right for _, right, _ in buckets]
    widths = [right - left for left, right in zip(lefts, rights, strict=True)]
    look: dict[str, Any] = {"color": style.SERIES[0], "edgecolor": "white" if octaves else "none", "linewidth": 0.8}
    axes.bar(lefts, shares, widths, align="edge", label="met in training", **look)
    peak = max(shares)
    if missed:
        spans = [(max(left, start), right - max(left, start)) for left, right in missed]
        look = {"facecolor": "#fbe9e7", "edgecolor": style.NEVER, "hatch": "////", "linewidth": 0}
        axes.broken_barh(spans, (0, peak), label="never met", **look)
    axes.axvline(target, color=style.INK, linewidth=1.1, linestyle=(0, (4, 3)), label=f"target: {target:,} tokens")
    end = max(rights[-1], target)
    if octaves:
        style.length_axis(axes, style.powers_of_two(start, end))
        axes.set_xlim(start, end * 1.08)
    else:
        axes.set_xlim(start, end + 0.02 * (end - start))
        axes.xaxis.set_major_formatter(lambda value, _: f"{value:,.0f}")
    label = f"{quantity[0].upper()}{quantity[1:]} (tokens)"
    axes.set(xlabel=label, ylabel="Share of all counts (%)", ylim=(0, 1.06 * peak))
    style.legend_right(axes)


def length_mix(before: Mapping[str, float], after: Mapping[str, float], path: PngPath) -> None:
    """The share of tokens in each document-length bucket, in the corpus and after upsampling and selection.

    Args:
        before: bucket label (in the order to draw) to tokens in the corpus.
        after: the same for the tokens that training sees. A bucket missing on one side counts as 0.

    Raises:
        DataError: one side has no tokens.
    """
    buckets = list(dict.fromkeys([*before, *after]))
    for side, tokens in (("before", before), ("after", after)):
        if sum(tokens.values()) <= 0:
            raise DataError(f"length_mix: {side} holds no tokens; give at least one bucket above 0")
    with style.figure(path, "Tokens by document length", max(6.4, 0.95 * len(buckets) + 2.2), 3.9) as figure:
        axes = figure.subplots()
        sides = ((before, "corpus", "#a9b4bf", -0.2), (after, "training", style.SERIES[0], 0.2))
        for tokens, label, color, shift in sides:
            shares = [100 * tokens.get(bucket, 0) / sum(tokens.values()) for bucket in buckets]
            bars = axes.bar([x + shift for x in range(len(buckets))], shares, 0.38, color=color, label=label)
            labels = [f"{share:.0f}" if share >= 0.5 else "<1" if share else "0" for share in shares]
            axes.bar_label(bars, labels, fontsize=8, color=style.MUTED, padding=2)
        axes.set_xticks(range(len(buckets)), buckets)
        axes.grid(visible=False, axis="x")
        axes.set(xlabel="Document length (tokens)", ylabel="Share of tokens (%)")
        axes.margins(y=0.12)
        style.legend_right(axes)


def _training_line(
    axes: "Axes", lines: Sequence[Mapping[str, Any]], field: str, name: str, look: dict[str, Any], smooth: bool
) -> None:
    steps = [line["step"] for line in lines]
    values = [as_float(line.get(field)) for line in lines]
    if smooth and len(values) >= 60:
        axes.plot(steps, values, color=look["color"], alpha=0.25, linewidth=0.9)
        values = _moving_mean(values, reach=max(3, len(values) // 60))
    axes.plot(steps, values, label=name, **look)


def _moving_mean(values: Sequence[float], reach: int) -> list[float]:
    """Mean over up to `reach` values on both sides, so that it does not lag; NaN where there is none to average."""
    sums, sizes = [0.0], [0]
    for value in values:
        sums.append(sums[-1] + (0.0 if math.isnan(value) else value))
        sizes.append(sizes[-1] + (not math.isnan(value)))
    means = []
    for index in range(len(values)):
        # At the steep start the window shrinks on both sides alike, or it would bend the curve; at the flat end it is
        # cut on one side only, or the last values would be drawn raw.
        low, high = max(0, index - reach), min(len(values), index + min(reach, index) + 1)
        size = sizes[high] - sizes[low]
        means.append((sums[high] - sums[low]) / size if size else math.nan)
    return means
