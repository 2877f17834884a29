"""Plots: a PNG of the expected size for every kind of data, no figure left open, errors that name the mend."""

import math
import os
import struct
import subprocess
import sys
from itertools import pairwise
from pathlib import Path

import pytest

import longspan
from longspan.errors import DataError
from longspan.observe import plot_style, plots, plots_sweep, plots_training

GRID = {
    "lengths": [128, 256, 1024],
    "depths": [0.0, 0.5, 1.0],
    "accuracy": [[1, 0.5, 0], [1, 0.6, None], [1, 1, math.nan]],
}
CURVE = {"positions": [16, 128, 1024], "loss": [4.0, 3.8, None]}


def run_lines(num_steps):
    return [
        {
            "step": step,
            "loss": 3 + 1 / step,
            "grad_norm": None if step == 2 else 1.0,
            "learning_rate": 1e-3,
            "tokens_per_s": 9e3,
        }
        for step in range(1, num_steps + 1)
    ]


def trial(metric, **params):
    return {"params": params, "metric": metric}


BINS = [
    {"from_step": 0, "below_step": 10, "asked": {"a": 0.5, "b": 0.5}, "achieved": {"a": 0.55, "b": 0.45}},
    {"from_step": 10, "below_step": 12, "asked": {"a": 1.0, "b": 0.0}, "achieved": {"a": 1.0}},
]
SIDES = ({"1k": 0.9, "16k": 0.1}, {"1k": 0.5, "16k": 0.5})
DOCUMENTS = [{"from": 1, "below": 2, "samples": 30}, {"from": 2, "below": 4, "samples": 1000}]
TRIALS = [
    trial(3.1, **{"train.learning_rate": 1e-4, "positions.type": "pose", "wd": 0}),
    trial(2.9, **{"train.learning_rate": 1e-2, "positions.type": "longrecipe", "wd": 0}),
    trial(None, **{"train.learning_rate": 1e-3, "positions.type": None, "wd": 0}),
]


def png_size(path):
    data = path.read_bytes()
    assert data[:8] == b"\x89PNG\r\n\x1a\n"
    return struct.unpack(">II", data[16:24])


DRAWINGS = {
    "one needle grid": (lambda path: plots.needle_heatmaps({"base": GRID}, path, window=128), (960, 450)),
    "five needle grids": (lambda path: plots.needle_heatmaps({f"m{i}": GRID for i in range(5)}, path), (1725, 780)),
    "window beyond all lengths": (lambda path: plots.needle_heatmaps({"base": GRID}, path, window=4096), (960, 450)),
    "loss by position": (lambda path: plots.loss_by_position({"base": CURVE}, path, window=128), (1230, 660)),
    "one run": (lambda path: plots.training_curves({"run": run_lines(3)}, path), (1500, 930)),
    "long and short runs": (
        lambda path: plots.training_curves({"a": run_lines(100), "b": run_lines(1), "none": []}, path),
        (1500, 930),
    ),
    "linear coverage": (
        lambda path: plots.position_coverage([0, 100, 200, 300], [5, 0, 2], 400, path),
        (1230, 585),
    ),
    "octave coverage": (
        lambda path: plots.position_coverage([0, 1, 2, 4, 8, 16], [1, 1, 1, 0, 1], 16, path, "relative distance"),
        (1230, 585),
    ),
    "length mix": (lambda path: plots.length_mix({"<1k": 90, "1k+": 10}, {"1k+": 5, "16k+": 5}, path), (960, 585)),
    "mix over training": (lambda path: plots.mix_over_training(BINS, path), (1230, 780)),
    "mix of twenty sources": (
        lambda path: plots.mix_over_training(
            [{"from_step": 0, "below_step": 1, "asked": (mix := {f"_s{i}": i for i in range(20)}), "achieved": mix}],
            path,
        ),
        (1230, 780),
    ),
    "lengths of one source": (lambda path: plots.length_mix_by_source({"$a_{": SIDES}, path), (960, 427)),
    "lengths of thirteen sources": (
        lambda path: plots.length_mix_by_source({f"s{i}": SIDES for i in range(13)}, path),
        (1455, 1305),
    ),
    "packing": (lambda path: plots.packing(DOCUMENTS, 0.004, path), (960, 540)),
    "accuracy": (
        lambda path: plots.accuracy_by_length(
            {"base": {"128": 1.0, 1024: None}, "b": {512: 0.4}}, path, 128, chance=0.1
        ),
        (1230, 630),
    ),
    "sweep": (lambda path: plots.sweep_parallel_coordinates(TRIALS, path, "val", lower_is_better=False), (960, 660)),
    "sweep of many values": (
        lambda path: plots.sweep_parallel_coordinates([trial(1.0, a=i, b=10.0**-i) for i in range(1, 9)], path),
        (960, 660),
    ),
}


@pytest.mark.parametrize("drawing", DRAWINGS)
@pytest.mark.filterwarnings("error")
def test_each_plot_is_a_png_of_its_size(tmp_path, drawing):
    from matplotlib import pyplot, rcParams

    draw, size = DRAWINGS[drawing]
    path = tmp_path / "new" / "folder" / "plot.png"
    before = dict(rcParams)
    draw(path)
    assert png_size(path) == pytest.approx(size, abs=1)
    assert pyplot.get_fignums() == []
    assert dict(rcParams) == before, "the plot's style leaked into the caller's matplotlib"


@pytest.mark.filterwarnings("error")
def test_hostile_names_are_drawn_as_plain_text(tmp_path):
    plots.accuracy_by_length({"$\\frac{$": {128: 0.5}, "_hidden": {128: 0.6}}, tmp_path / "plot.png")
    assert png_size(tmp_path / "plot.png")


def test_importing_the_plots_does_not_import_matplotlib():
    code = "import sys, longspan.observe.plots, longspan.observe.report; sys.exit('matplotlib' in sys.modules)"
    source_root = str(Path(longspan.__file__).parents[1])
    environment = {**os.environ, "PYTHONPATH": source_root}
    assert subprocess.run([sys.executable, "-c", code], check=False, env=environment).returncode == 0


@pytest.mark.parametrize(
    ("draw", "message"),
    [
        (lambda path: plots.needle_heatmaps({}, path), "no model to draw"),
        (
            lambda path: plots.needle_heatmaps({"m": GRID | {"lengths": [128]}}, path),
            r"m has 1 lengths, 3 depths .*\[3\]",
        ),
        (lambda path: plots.needle_heatmaps({"m": GRID | {"depths": [0, 50, 100]}}, path), "fractions, not percent"),
        (lambda path: plots.loss_by_position({}, path), "no curve"),
        (
            lambda path: plots.loss_by_position({"m": {"positions": [1, 2], "loss": [1]}}, path),
            "m has 2 positions and 1 losses",
        ),
        (lambda path: plots.loss_by_position({"m": {"positions": [], "loss": []}}, path), "at least one"),
        (lambda path: plots.training_curves({"run": []}, path), "no run with a metrics line"),
        (lambda path: plots.position_coverage([0, 1], [1, 2], 4, path), "2 edges and 2 counts"),
        (lambda path: plots.position_coverage([0, 1, 1], [1, 2], 4, path), "rising edges"),
        (lambda path: plots.position_coverage([0, 1, 2], [0, 0], 4, path), "every bucket is empty"),
        (lambda path: plots.position_coverage([8, 9], [1], 8, path), "target 8 is not above the first edge 8"),
        (lambda path: plots.length_mix({"a": 1}, {"a": 0}, path), "after holds no tokens"),
        (lambda path: plots.mix_over_training([], path), "no source has a share"),
        (lambda path: plots.length_mix_by_source({}, path), "no source to draw"),
        (lambda path: plots.length_mix_by_source({"m": ({"a": 1}, {"a": 0})}, path), "m holds no tokens on one side"),
        (lambda path: plots.packing([], 0.0, path), "no sample was counted"),
        (lambda path: plots.draw_plan({"mix": BINS}, path.parent), "not the description of a plan .*packing"),
        (lambda path: plots.accuracy_by_length({"m": {}}, path), "no model with a measured length"),
        (lambda path: plots.accuracy_by_length({"m": {"long": 1}}, path), "m has the length 'long'"),
        (
            lambda path: plots.sweep_parallel_coordinates([trial(None, a=1)], path),
            "none of 1 trials has a finite metric",
        ),
        (lambda path: plots.sweep_parallel_coordinates([trial(1, a=1), trial(2, a=1)], path), "no parameter differs"),
    ],
)
def test_data_that_cannot_be_drawn_is_named_and_leaves_no_file(tmp_path, draw, message):
    with pytest.raises(DataError, match=message):
        draw(tmp_path / "plot.png")
    assert not (tmp_path / "plot.png").exists()


def plan_description(**changes):
    lengths = [{"from": 1024, "share_before": 0.9, "share_after": 0.5}]
    lengths.append({"from": 2048, "share_before": 0.1, "share_after": 0.5})
    return {
        "run": {"target_length": 8},
        "mix": BINS,
        "lengths": lengths,
        "sources": {name: {"samples": 9, "lengths": lengths} for name in ("a", "b")},
        "packing": {"documents_histogram": DOCUMENTS, "padding_share": 0.0},
        "positions": {"distance_edges": [0, 4, 8], "distance_shares": [0.7, 0.3]},
    } | changes


def test_a_plan_is_drawn_as_far_as_there_is_something_to_draw(tmp_path):
    names = ["mix_over_training", "packing", "length_mix", "length_mix_by_source", "position_coverage"]
    assert plots.draw_plan(plan_description(), tmp_path) == [tmp_path / f"{name}.png" for name in names]
    assert all(png_size(tmp_path / f"{name}.png") for name in names)
    few = plan_description()
    few["sources"]["b"] = few["sources"]["b"] | {"samples": 0}
    few["positions"] = {"distance_edges": [0, 4, 8], "distance_shares": [0.0, 0.0]}
    assert [path.stem for path in plots.draw_plan(few, tmp_path / "few")] == names[:3]


def test_small_sources_are_drawn_together(tmp_path, monkeypatch):
    from matplotlib.axes import Axes

    drawn = []
    original = Axes.stackplot
    monkeypatch.setattr(
        Axes, "stackplot", lambda axes, x, y, **look: drawn.append((x, y, look)) or original(axes, x, y, **look)
    )
    shares = {f"s{i}": (i + 1) / 55 for i in range(10)}
    plots.mix_over_training(
        [{"from_step": 3, "below_step": 7, "asked": shares, "achieved": {"s9": 1.0}}], tmp_path / "plot.png"
    )
    (edges, asked, look), (_, achieved, _) = drawn
    assert edges == [3, 7]
    assert look["labels"] == [*(f"s{i}" for i in range(3, 10)), "others"]
    assert [layer[0] for layer in asked][-1] == pytest.approx(100 * (1 + 2 + 3) / 55)
    assert sum(layer[0] for layer in asked) == pytest.approx(100)
    assert [layer[0] for layer in achieved] == [0] * 6 + [100, 0]


def heatmap_texts_and_lines(grid, window):
    from matplotlib.figure import Figure

    from longspan.observe import plots_evaluation

    axes = Figure().subplots()
    plots_evaluation._heatmap(axes, grid, window)
    return [text.get_text() for text in axes.texts], [line.get_xdata()[0] for line in axes.lines]


def test_heatmap_cells_carry_their_values_and_the_line_ends_the_window():
    texts, lines = heatmap_texts_and_lines(GRID, 256)
    assert texts == ["100", "50", "0", "100", "60", "n/a", "100", "100", "n/a"]
    assert lines == [1.5]
    assert heatmap_texts_and_lines(GRID, 2048)[1] == []
    assert heatmap_texts_and_lines(GRID, None)[1] == []


@pytest.mark.parametrize(
    ("edges", "counts", "target", "share"),
    [
        ([0, 100, 200], [1, 1], 200, "100%"),
        ([0, 100, 200], [1, 0], 200, "50%"),
        ([0, 100, 200], [1, 1], 400, "50%"),
        ([0, 100, 900], [1, 0], 200, "50%"),
        ([0, 9999, 10000], [1, 0], 10000, "99.9%"),
    ],
)
def test_coverage_counts_every_gap_of_the_window(tmp_path, monkeypatch, edges, counts, target, share):
    subtitles = []
    original = plot_style.figure
    monkeypatch.setattr(plot_style, "figure", lambda *given: subtitles.append(given[-1]) or original(*given))
    plots.position_coverage(edges, counts, target, tmp_path / "plot.png")
    assert subtitles == [f"Training meets {share} of the {target:,}-token window"]


@pytest.mark.parametrize(("lower_is_better", "best"), [(True, "2.9"), (False, "3.1")])
def test_the_best_trial_follows_the_direction_of_the_metric(tmp_path, monkeypatch, lower_is_better, best):
    subtitles = []
    original = plot_style.figure
    monkeypatch.setattr(plot_style, "figure", lambda *given: subtitles.append(given[-1]) or original(*given))
    plots.sweep_parallel_coordinates(TRIALS, tmp_path / "plot.png", "val", lower_is_better)
    assert subtitles == [f"3 trials; bold: best val ({best}); grey: 1 without a result"]


def test_sweep_axes_are_linear_logarithmic_or_categories():
    linear = plots_sweep._scale([1.0, 2.0, 5.0])
    assert linear.heights == {1.0: 0.0, 2.0: 0.25, 5.0: 1.0}
    assert linear.ticks == ((0.0, "1"), (0.25, "2"), (1.0, "5"))
    logarithmic = plots_sweep._scale([1e-4, 1e-3, 1e-2])
    assert logarithmic.heights[1e-3] == pytest.approx(0.5)
    assert plots_sweep._scale(["b", "a", 3.0]).heights == {3.0: 0.0, "a": 0.5, "b": 1.0}
    assert plots_sweep._scale([7.0, 7.0]).ticks == ((0.5, "7"),)
    many = plots_sweep._scale([float(value) for value in range(2, 20)])
    assert [label for _, label in many.ticks] == ["4", "8", "12", "16"]


def test_the_accuracy_colours_only_grow_lighter():
    colors = plot_style.red_to_green()
    lightness = [plot_style.lightness(colors(value / 100)) for value in range(101)]
    assert all(later > earlier for earlier, later in pairwise(lightness))
    assert lightness[-1] - lightness[0] > 50


def test_series_differ_in_more_than_colour():
    looks = [tuple(map(str, plot_style.series_style(index, marker=True).values())) for index in range(56)]
    assert len(set(looks)) == 56
    neighbours = [plot_style.series_style(index, marker=True) for index in range(8)]
    assert len({style["color"] for style in neighbours}) == 8


def test_moving_mean_smooths_without_lag_and_keeps_no_gap():
    ramp = plots_training._moving_mean([float(value) for value in range(50)], reach=5)
    assert ramp[:45] == pytest.approx(range(45))
    assert plots_training._moving_mean([1.0, math.nan, 3.0], reach=1)[1] == 2.0
    assert math.isnan(plots_training._moving_mean([math.nan, 1.0], reach=1)[0])
