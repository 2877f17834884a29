"""The look that all of longspan's plots share: palette, figure set-up, saving, the training-window mark.

The `plots_*` files draw; this one decides colours, type and size. matplotlib is imported only inside functions.
Figures are made without pyplot, so they are on nobody's global list and gone when the function returns.
"""

import math
import textwrap
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from longspan.observe.formatting import token_length

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.colors import Colormap
    from matplotlib.figure import Figure

PngPath = str | Path

DPI = 150
INK = "#1f2933"
MUTED = "#66727f"
GRID = "#e3e7eb"
BEYOND = "#f3f5f7"
NEVER = "#b3392f"

# Okabe and Ito's palette (2008), told apart under all common colour blindness; yellow is left out: too faint on white.
SERIES = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#333333", "#8C564B")
LINES = ("-", (0, (5, 2)), (0, (1, 1.4)), (0, (6, 2, 1, 2)))
MARKERS = ("o", "s", "^", "D", "v", "<", "h")

# Red to green whose lightness only ever rises: without colour vision it still reads dark (wrong) to light (right).
RED_TO_GREEN = ("#8e1b2c", "#c7423f", "#e67f52", "#f0b264", "#e6d27e", "#bfe3a1", "#a5ebad")

_RC: dict[Any, Any] = {
    "font.family": "sans-serif",
    "font.sans-serif": ["DejaVu Sans"],
    "font.size": 9.5,
    "axes.titlesize": 10.5,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "axes.titlepad": 8,
    "axes.labelsize": 9.5,
    "axes.labelcolor": INK,
    "axes.edgecolor": "#9aa5b1",
    "axes.linewidth": 0.8,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": GRID,
    "grid.linewidth": 0.8,
    "xtick.color": MUTED,
    "ytick.color": MUTED,
    "xtick.labelsize": 8.5,
    "ytick.labelsize": 8.5,
    "text.color": INK,
    # Names of models and parameters are data: a dollar sign in one is a dollar sign, not mathematics.
    "text.parse_math": False,
    "legend.frameon": False,
    "legend.fontsize": 9,
    "lines.linewidth": 1.8,
    "lines.markersize": 4.5,
    "figure.facecolor": "white",
    "savefig.facecolor": "white",
}


@contextmanager
def figure(path: PngPath, title: str, width: float, height: float, subtitle: str = "") -> Iterator["Figure"]:
    """A styled figure of `width` x `height` inches that is saved as PNG at `DPI` to a local path on the way out.

    The parent folder is made. Nothing is written when the body raises.
    """
    import matplotlib
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    # DejaVu Sans at 9.5 points sets about 13.5 letters to the inch.
    wrapped = textwrap.wrap(subtitle, width=int(13.5 * width))
    with matplotlib.rc_context(_RC):
        drawn = Figure(figsize=(width, height), dpi=DPI, layout="constrained")
        FigureCanvasAgg(drawn)
        left, top = 0.12 / width, 1 - 0.10 / height
        drawn.text(left, top, title, ha="left", va="top", fontsize=13, fontweight="bold")
        drawn.text(left, top - 0.27 / height, "\n".join(wrapped), ha="left", va="top", fontsize=9.5, color=MUTED)
        head = (0.44 + 0.2 * len(wrapped)) / height
        drawn.get_layout_engine().set(rect=(0.005, 0.005, 0.99, 0.99 - head))  # type: ignore[union-attr,call-arg]
        yield drawn
        Path(path).parent.mkdir(parents=True, exist_ok=True)
        drawn.savefig(path, format="png", dpi=DPI)


def red_to_green() -> "Colormap":
    """The accuracy colour map, 0 to 1, with a flat grey for cells that were not measured."""
    from matplotlib.colors import LinearSegmentedColormap

    return LinearSegmentedColormap.from_list("longspan_accuracy", RED_TO_GREEN).with_extremes(bad="#eceff2")


def lightness(rgb: Sequence[float]) -> float:
    """CIE L* (0 black to 100 white) of an sRGB colour with channels in [0, 1]."""
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in rgb[:3]]
    luminance = 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]
    return 116 * luminance ** (1 / 3) - 16 if luminance > 216 / 24389 else luminance * 24389 / 27


def series_style(index: int, marker: bool = False) -> dict[str, Any]:
    """Colour, line and marker of the series with this index: all three differ, so no reader depends on colour alone."""
    style: dict[str, Any] = {"color": SERIES[index % len(SERIES)], "linestyle": LINES[index % len(LINES)]}
    if marker:
        style |= {"marker": MARKERS[index % len(MARKERS)], "markeredgecolor": "white", "markeredgewidth": 0.6}
        style["markersize"] = 6.5
    return style


def length_axis(axes: "Axes", ticks: Sequence[int]) -> None:
    """A base-2 logarithmic x axis of token counts with these ticks, thinned to at most nine."""
    axes.set_xscale("log", base=2)
    stride = -(-len(ticks) // 9)
    shown = list(ticks)[::-1][::stride][::-1]
    axes.set_xticks(shown, [token_length(tick) for tick in shown])
    axes.minorticks_off()


def powers_of_two(nearest: float, furthest: float) -> list[int]:
    """The powers of two from `nearest` to `furthest`, both within; ticks for `length_axis`."""
    first, last = math.ceil(math.log2(max(nearest, 1))), math.floor(math.log2(max(furthest, 1)))
    return [1 << power for power in range(first, last + 1)]


def mark_window(axes: "Axes", window: int | None, right: float) -> None:
    """Draw the end of the training window on a logarithmic x axis and shade what lies beyond it, up to `right`.

    Nothing is drawn when the data end before it.
    """
    if window is None or right <= window:
        return
    axes.axvspan(window, right, color=BEYOND, zorder=0, linewidth=0)
    # The label goes to the side that has room for it.
    left = axes.get_xlim()[0]
    in_right_half = window > math.sqrt(max(left, 1) * right)
    axes.axvline(window, color=INK, linewidth=1.1, linestyle=(0, (4, 3)), zorder=1)
    axes.annotate(
        f"training window: {window:,}",
        xy=(window, 1),
        xycoords=("data", "axes fraction"),
        xytext=(-4 if in_right_half else 4, 3),
        ha="right" if in_right_half else "left",
        textcoords="offset points",
        fontsize=8,
        color=MUTED,
        va="bottom",
    )


def legend_right(axes: "Axes") -> None:
    """The legend outside on the right, so that it never hides data."""
    axes.legend(loc="center left", bbox_to_anchor=(1.01, 0.5), handlelength=2.8, labelspacing=0.7)
