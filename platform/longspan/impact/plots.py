"""The picture of an analysis: which kinds of token the longer context helps, all together and by position."""

from typing import TYPE_CHECKING

from longspan.impact.statistics import ImpactStatistics
from longspan.impact.tally import KindCount
from longspan.observe import plot_style as style
from longspan.observe.formatting import compact

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_KINDS_SHOWN = 12
_LINES_SHOWN = 7


def plot_statistics(statistics: ImpactStatistics, path: style.PngPath) -> None:
    """Lift by kind (parts of speech if they were tagged, else token types), and the types' shares of the top tokens by
    position (of the types with the most of them).

    Args:
        path: the PNG to write, a local path.
    """
    kinds = statistics.by_part_of_speech if statistics.by_part_of_speech is not None else statistics.by_type
    subtitle = (
        f"{compact(statistics.tokens)} scored tokens; top: the {statistics.top_share:.0%} with the highest scores at"
        " their position"
    )
    with style.figure(path, "What the longer context helps", 10.0, 4.6, subtitle) as figure:
        left, right = figure.subplots(1, 2)
        _lift_bars(left, kinds)
        often = sorted(statistics.by_type, key=lambda kind: -kind.top)
        names = [kind.name for kind in often if kind.top][:_LINES_SHOWN]
        ends = [first for first, _ in statistics.by_position]
        for index, name in enumerate(names):
            shares = [row.get(name, 0.0) for _, row in statistics.by_position]
            right.plot(ends, shares, label=name, **style.series_style(index, marker=True))
        if ends:
            style.length_axis(right, ends)
        right.set(title="Share of the top tokens", xlabel="Position (tokens, from)", ylabel="Share")
        right.set_ylim(bottom=0)
        style.legend_right(right)


def _lift_bars(axes: "Axes", kinds: tuple[KindCount, ...]) -> None:
    shown = sorted(kinds, key=lambda kind: kind.lift)[-_KINDS_SHOWN:]
    places = range(len(shown))
    axes.barh(places, [kind.lift for kind in shown], color=style.SERIES[0])
    axes.set_yticks(places, [f"{kind.name} ({compact(kind.count)})" for kind in shown])
    axes.axvline(1, color=style.INK, linewidth=1.1, linestyle=(0, (4, 3)))
    axes.set(title="How often among the top tokens", xlabel="Over chance (1: as often as any token)")
    axes.grid(visible=False, axis="y")
