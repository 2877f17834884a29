"""Plots of a sample plan: the mix over training, document lengths by source, how samples are packed.

`longspan plan` and the report draw them from RUN/plan.json (`draw_plan`); `plots.py` is the door to each of them.
"""

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from longspan.errors import DataError
from longspan.observe import plot_style as style
from longspan.observe.formatting import percent, token_length
from longspan.observe.plot_style import PngPath
from longspan.observe.plots_training import length_mix, position_coverage

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_MOST_SERIES = 8
_MOST_PANELS = 12
_OTHERS = "others"
_BEFORE, _AFTER = "#a9b4bf", style.SERIES[0]


def draw_plan(description: Mapping[str, Any], folder: PngPath) -> list[Path]:
    """All plots of a plan's description (`planner.describe_plan`), as PNG files in a local folder.

    Raises:
        DataError: the description lacks what a plot needs.
    """
    try:
        return _draw_plan(description, Path(folder))
    except (KeyError, TypeError, IndexError) as error:
        raise DataError(f"plan.json: not the description of a plan ({error!r}); run `longspan plan` again") from None


def _draw_plan(description: Mapping[str, Any], folder: Path) -> list[Path]:
    drawn = {name: folder / f"{name}.png" for name in ("mix_over_training", "packing", "length_mix")}
    mix_over_training(description["mix"], drawn["mix_over_training"])
    packing(description["packing"]["documents_histogram"], description["packing"]["padding_share"], drawn["packing"])
    length_mix(*_sides(description["lengths"]), drawn["length_mix"])
    drawn_from = {name: source for name, source in description["sources"].items() if source["samples"]}
    sources = {name: _sides(source["lengths"]) for name, source in drawn_from.items()}
    if len(sources) > 1:
        drawn["length_mix_by_source"] = folder / "length_mix_by_source.png"
        length_mix_by_source(sources, drawn["length_mix_by_source"])
    positions, target = description["positions"], description["run"]["target_length"]
    edges, shares = positions["distance_edges"], positions["distance_shares"]
    if any(shares):  # documents of a single token have no distances
        drawn["position_coverage"] = folder / "position_coverage.png"
        position_coverage(edges, shares, target, drawn["position_coverage"], "relative distance")
    return list(drawn.values())


def mix_over_training(bins: Sequence[Mapping[str, Any]], path: PngPath) -> None:
    """Each source's share of the trained tokens over the run: stacked areas, as asked above and as planned below.

    Args:
        bins: in order, {"from_step", "below_step": optimizer steps, "asked", "achieved": {source: share of 1}}.
        path: the PNG to write.

    Raises:
        DataError: there is no bin, or no source in them.
    """
    totals: dict[str, float] = {}
    for part in bins:
        for side in ("asked", "achieved"):
            for name, share in part[side].items():
                totals[name] = totals.get(name, 0.0) + share
    if sum(totals.values()) <= 0:
        raise DataError("mix_over_training: no source has a share in any bin; give at least one bin of a plan")
    names = [name for name in totals if totals[name] > 0]
    large = sorted(names, key=lambda name: -totals[name])[: _MOST_SERIES - 1]
    shown = names if len(names) <= _MOST_SERIES else [*(name for name in names if name in large), _OTHERS]
    edges = [float(part["from_step"]) for part in bins] + [float(bins[-1]["below_step"])]
    with style.figure(path, "Mix of sources over training", 8.2, 5.2, "Share of the tokens of each step") as figure:
        panels = figure.subplots(2, 1, sharex=True)
        for axes, (side, title) in zip(panels, (("asked", "Asked"), ("achieved", "In the plan")), strict=True):
            layers = [[100 * _layer(part[side], name, shown) for part in bins] for name in shown]
            axes.stackplot(
                edges,
                [[*layer, layer[-1]] for layer in layers],
                labels=shown,
                colors=[style.SERIES[index % len(style.SERIES)] for index in range(len(shown))],
                step="post",
                edgecolor="white",
                linewidth=0.4,
            )
            axes.set(title=title, ylabel="Tokens (%)", ylim=(0, 100), xlim=(edges[0], edges[-1]))
        panels[1].set_xlabel("Optimizer step")
        handles, labels = panels[0].get_legend_handles_labels()
        # Top down as the areas are stacked; names that begin with "_" are dropped by matplotlib, so they are set here.
        figure.legend(handles[::-1], labels[::-1], loc="outside right center")


def length_mix_by_source(sources: Mapping[str, tuple[Mapping[str, float], Mapping[str, float]]], path: PngPath) -> None:
    """Tokens by document length, in the corpus and in the plan: a panel for each source.

    Args:
        sources: name to (before, after), as for `length_mix`. Beyond twelve sources the first twelve are drawn.

    Raises:
        DataError: there is no source, or one has no tokens on a side.
    """
    if not sources:
        raise DataError("length_mix_by_source: no source to draw; give at least one")
    for name, sides in sources.items():
        if min(sum(tokens.values()) for tokens in sides) <= 0:
            raise DataError(f"length_mix_by_source: {name} holds no tokens on one side; give a bucket above 0")
    shown = list(sources)[:_MOST_PANELS]
    num_columns = min(len(shown), 3)
    num_rows = math.ceil(len(shown) / num_columns)
    subtitle = "Grey: the corpus. Blue: training. Share of the source's tokens (%), by document length in tokens"
    if len(sources) > len(shown):
        subtitle += f"; {len(sources) - len(shown)} more sources are in plan.json"
    width, height = 3.1 * num_columns + 0.4, 1.95 * num_rows + 0.9
    with style.figure(path, "Tokens by document length and source", max(width, 6.4), height, subtitle) as figure:
        panels = figure.subplots(num_rows, num_columns, squeeze=False)
        for index, axes in enumerate(panels.flat):
            if index >= len(shown):
                axes.set_axis_off()
                continue
            _length_bars(axes, *sources[shown[index]])
            axes.set_title(shown[index])


def packing(histogram: Sequence[Mapping[str, Any]], padding_share: float, path: PngPath) -> None:
    """How many documents a sample is made of.

    Args:
        histogram: in order, {"from", "below": documents in a sample, "samples": how many such samples}.
        padding_share: share of all tokens of the samples that is padding, in [0, 1].

    Raises:
        DataError: no sample was counted.
    """
    total = sum(part["samples"] for part in histogram)
    if total <= 0:
        raise DataError("packing: no sample was counted; give the histogram of a plan")
    subtitle = f"Padding: {percent(padding_share)} of all tokens" if padding_share else "No padding"
    labels = [_range(part["from"], part["below"]) for part in histogram]
    with style.figure(path, "Documents in a sample", max(6.4, 0.7 * len(labels) + 2.2), 3.6, subtitle) as figure:
        axes = figure.subplots()
        shares = [100 * part["samples"] / total for part in histogram]
        bars = axes.bar(range(len(labels)), shares, 0.7, color=_AFTER)
        texts = [f"{share:.0f}" if share >= 0.5 else "<1" if share else "0" for share in shares]
        axes.bar_label(bars, texts, fontsize=8, color=style.MUTED, padding=2)
        axes.set_xticks(range(len(labels)), labels)
        axes.grid(visible=False, axis="x")
        axes.set(xlabel="Documents, or pieces of them, in a sample", ylabel="Share of samples (%)")
        axes.margins(y=0.12)


def _layer(shares: Mapping[str, float], name: str, shown: Sequence[str]) -> float:
    if name == _OTHERS and name not in shares:
        return sum(share for other, share in shares.items() if other not in shown)
    return shares.get(name, 0.0)


def _length_bars(axes: "Axes", before: Mapping[str, float], after: Mapping[str, float]) -> None:
    buckets = list(dict.fromkeys([*before, *after]))
    for tokens, color, shift in ((before, _BEFORE, -0.2), (after, _AFTER, 0.2)):
        total = sum(tokens.values())
        axes.bar(
            [x + shift for x in range(len(buckets))],
            [100 * tokens.get(bucket, 0) / total for bucket in buckets],
            0.38,
            color=color,
        )
    stride = -(-len(buckets) // 6)
    axes.set_xticks(range(0, len(buckets), stride), buckets[::stride])
    axes.grid(visible=False, axis="x")


def _sides(lengths: Sequence[Mapping[str, Any]]) -> tuple[dict[str, float], dict[str, float]]:
    """Shares of tokens before and after, by the label of their bucket."""
    before, after = (
        {token_length(bucket["from"]): bucket[side] for bucket in lengths} for side in ("share_before", "share_after")
    )
    return before, after


def _range(begin: int, below: int) -> str:
    return f"{begin:,}" if below == begin + 1 else f"{begin:,}-{below - 1:,}"
