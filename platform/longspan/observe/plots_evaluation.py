"""Plots of an evaluation: the needle grid, loss by position, accuracy by length.

`evaluate/`, `compare/` and the demo call these with plain results; `plots.py` is the door to them.
"""

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from longspan.errors import DataError
from longspan.observe import plot_style as style
from longspan.observe.formatting import as_float, token_length
from longspan.observe.plot_style import PngPath

if TYPE_CHECKING:
    from matplotlib.axes import Axes


def needle_heatmaps(grids: Mapping[str, Mapping[str, Any]], path: PngPath, window: int | None = None) -> None:
    """Needle retrieval by context length (x) and needle depth (y), one panel for each model, percent in every cell.

    Args:
        grids: model name to {"lengths": L tokens, "depths": D fractions of the context in [0, 1] (0 is its start),
            "accuracy": [D][L] fractions in [0, 1], None or NaN where not measured}; where the RoPE scale was chosen
            by length also "scales": {length in digits: scale}, written under the lengths.
        path: the PNG to write.
        window: the length at which training ended; a line is drawn behind the last column within it.

    Raises:
        DataError: no model, or a grid whose shape or values do not fit.
    """
    if not grids:
        raise DataError("needle_heatmaps: no model to draw; give at least one grid")
    for name, grid in grids.items():
        _check_grid(name, grid)
    num_columns = min(len(grids), 4 if len(grids) != 6 else 3)
    num_rows = math.ceil(len(grids) / num_columns)
    num_lengths = max(len(grid["lengths"]) for grid in grids.values())
    num_depths = max(len(grid["depths"]) for grid in grids.values())
    panel_width, panel_height = max(2.6, 0.46 * num_lengths + 0.7), max(2.2, 0.28 * num_depths + 0.95)
    width, height = num_columns * panel_width + 1.1, num_rows * panel_height + 0.8
    subtitle = "Percent of needles retrieved, by context length and needle depth"
    subtitle += f"; dashed line: end of the training window ({window:,} tokens)" if window else ""
    subtitle += "; g: RoPE scale" if any(grid.get("scales") for grid in grids.values()) else ""
    with style.figure(path, "Needle retrieval", max(width, 6.4), height, subtitle) as figure:
        panels = figure.subplots(num_rows, num_columns, squeeze=False)
        for index, axes in enumerate(panels.flat):
            if index >= len(grids):
                axes.set_axis_off()
                continue
            name = list(grids)[index]
            image = _heatmap(axes, grids[name], window)
            axes.set_title(name)
            if index % num_columns == 0:
                axes.set_ylabel("Needle depth (%)")
            if index + num_columns >= len(grids):
                axes.set_xlabel("Context length (tokens)")
        bar = figure.colorbar(image, ax=panels, fraction=0.03, pad=0.015, aspect=28, ticks=[0, 0.25, 0.5, 0.75, 1])
        bar.ax.set_yticklabels(["0", "25", "50", "75", "100"])
        bar.outline.set_visible(False)  # type: ignore[operator]
        bar.set_label("Accuracy (%)")


def loss_by_position(
    curves: Mapping[str, Mapping[str, Sequence[float]]], path: PngPath, window: int | None = None
) -> None:
    """Held-out loss by position in the context, one line for each model, the trained window marked.

    Args:
        curves: model name to {"positions": token positions (>= 1), "loss": nats per token at them}.

    Raises:
        DataError: no curve, or positions and losses of different length.
    """
    if not curves:
        raise DataError("loss_by_position: no curve to draw; give at least one")
    for name, curve in curves.items():
        if len(curve["positions"]) != len(curve["loss"]) or not len(curve["loss"]):
            raise DataError(
                f"loss_by_position: {name} has {len(curve['positions'])} positions and {len(curve['loss'])} losses; "
                "give one loss for each position, and at least one"
            )
    furthest = max(max(curve["positions"]) for curve in curves.values())
    nearest = min(min(curve["positions"]) for curve in curves.values())
    with style.figure(path, "Loss by position in the context", 8.2, 4.4, "Held-out text; lower is better") as figure:
        axes = figure.subplots()
        few = max(len(curve["loss"]) for curve in curves.values()) <= 40
        for index, (name, curve) in enumerate(curves.items()):
            values = [as_float(value) for value in curve["loss"]]
            axes.plot(curve["positions"], values, label=name, **style.series_style(index, marker=few))
        style.length_axis(axes, style.powers_of_two(nearest, furthest))
        style.mark_window(axes, window, furthest)
        axes.set(xlabel="Position in the context (tokens)", ylabel="Loss (nats per token)")
        axes.margins(x=0.02)
        style.legend_right(axes)


def accuracy_by_length(
    results: Mapping[str, Mapping[Any, float | None]],
    path: PngPath,
    window: int | None = None,
    chance: float | None = None,
) -> None:
    """Retrieval accuracy against context length, one line for each model.

    Args:
        results: model name to {length in tokens, as int or digits: accuracy in [0, 1] or None}.
        chance: accuracy of blind guessing in [0, 1], drawn as a floor when given.

    Raises:
        DataError: no model with a measured length, or a length that is not a whole number.
    """
    series = {
        name: sorted((_length(name, key), as_float(value)) for key, value in row.items())
        for name, row in results.items()
    }
    lengths = sorted({length for points in series.values() for length, _ in points})
    if not lengths:
        raise DataError("accuracy_by_length: no model with a measured length; give at least one")
    with style.figure(path, "Needle retrieval by context length", 8.2, 4.2, "Mean over needle depths") as figure:
        axes = figure.subplots()
        for index, (name, points) in enumerate(series.items()):
            accuracies = [100 * accuracy for _, accuracy in points]
            axes.plot(
                [length for length, _ in points], accuracies, label=name, **style.series_style(index, marker=True)
            )
        if chance is not None:
            axes.axhline(100 * chance, color=style.MUTED, linewidth=1, linestyle=":", label="blind guess")
        style.length_axis(axes, lengths)
        style.mark_window(axes, window, lengths[-1])
        axes.set(xlabel="Context length (tokens)", ylabel="Accuracy (%)", ylim=(-3, 103), yticks=range(0, 101, 20))
        axes.margins(x=0.03)
        style.legend_right(axes)


def _heatmap(axes: "Axes", grid: Mapping[str, Any], window: int | None) -> Any:
    lengths, depths = list(grid["lengths"]), list(grid["depths"])
    values = [[as_float(value) for value in row] for row in grid["accuracy"]]
    colors = style.red_to_green()
    image = axes.imshow(values, cmap=colors, vmin=0, vmax=1, aspect="auto", interpolation="nearest")
    for y, row in enumerate(values):
        for x, value in enumerate(row):
            measured = not math.isnan(value)
            dark = measured and style.lightness(colors(value)) < 55
            text = f"{100 * value:.0f}" if measured else "n/a"
            axes.text(x, y, text, ha="center", va="center", fontsize=7.5, color="white" if dark else style.INK)
    scales = grid.get("scales") or {}
    under = [f"\ng={scales[str(length)]}" if str(length) in scales else "" for length in lengths]
    axes.set_xticks(range(len(lengths)), [token_length(n) + line for n, line in zip(lengths, under, strict=True)])
    axes.set_yticks(range(len(depths)), [f"{100 * depth:.0f}" for depth in depths])
    axes.set_xticks([x - 0.5 for x in range(1, len(lengths))], minor=True)
    axes.set_yticks([y - 0.5 for y in range(1, len(depths))], minor=True)
    axes.grid(visible=False)
    axes.grid(which="minor", color="white", linewidth=1.2)
    axes.tick_params(which="both", length=0)
    axes.spines[:].set_visible(False)
    num_inside = sum(length <= (window or 0) for length in lengths)
    if window and num_inside < len(lengths):
        axes.axvline(num_inside - 0.5, color="black", linewidth=1.8, linestyle=(0, (3, 1.6)), clip_on=False)
    return image


def _check_grid(name: str, grid: Mapping[str, Any]) -> None:
    num_lengths, num_depths = len(grid["lengths"]), len(grid["depths"])
    rows = grid["accuracy"]
    if not num_lengths or len(rows) != num_depths or any(len(row) != num_lengths for row in rows):
        raise DataError(
            f"needle_heatmaps: {name} has {num_lengths} lengths, {num_depths} depths and accuracy rows of "
            f"{sorted({len(row) for row in rows})} values; give accuracy[depth][length]"
        )
    fractions = [*grid["depths"], *(value for row in rows for value in row if not math.isnan(as_float(value)))]
    if not all(0 <= value <= 1 for value in fractions):
        raise DataError(f"needle_heatmaps: {name} has depths or accuracies outside [0, 1]; give fractions, not percent")


def _length(name: str, key: object) -> int:
    try:
        return int(str(key))
    except ValueError:
        raise DataError(f"accuracy_by_length: {name} has the length {key!r}; give whole numbers of tokens") from None
