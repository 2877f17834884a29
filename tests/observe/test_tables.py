"""The console table of an evaluation."""

import io

import pytest
from rich.console import Console

from longspan.errors import DataError
from longspan.observe.results import all_lengths, model_rows
from longspan.observe.tables import print_results

SUMMARY = {
    "window": 128,
    "models": {
        "base [red]x[/red]": {"needle_accuracy": {"1024": 0.17, "128": 0.99}, "tokens": 0, "seconds": 0.0},
        "LongRecipe": {
            "needle_accuracy": {"128": 1.0, "512": 0.985},
            "tokens": 368_400,
            "seconds": 83,
            "note": "0.3 T",
        },
    },
}


def printed(summary):
    # On an ASCII stream rich draws its boxes in ASCII, which is easy to cut at.
    out = io.TextIOWrapper(io.BytesIO(), encoding="ascii", write_through=True)
    print_results(summary, Console(file=out, width=120))
    return out.buffer.getvalue().decode("ascii")


def cells(text, row):
    line = next(line for line in text.splitlines() if row in line)
    return [cell.strip() for cell in line.split("|")[1:-1]]


def test_lengths_rise_and_every_figure_has_its_place():
    text = printed(SUMMARY)
    assert cells(text, "model") == ["model", "128", "512", "1k", "tokens", "time", "note"]
    assert cells(text, "base") == ["base [red]x[/red]", "99", "-", "17", "0", "0 s", ""]
    assert cells(text, "LongRecipe") == ["LongRecipe", "100", "98.5", "-", "368k", "1 min 23 s", "0.3 T"]
    assert "training window of 128 tokens" in text


def test_without_notes_and_window_there_is_no_column_or_word_for_them():
    text = printed({"models": {"a": {"needle_accuracy": {"128": 0.5}}}})
    assert "note" not in text
    assert "window" not in text


@pytest.mark.parametrize("summary", [{}, {"models": {}}, {"models": [1]}])
def test_a_summary_without_models_is_refused(summary):
    with pytest.raises(DataError, match="no models to show"):
        printed(summary)


@pytest.mark.parametrize(
    ("models", "message"),
    [
        ({"m": 3}, r"models\.m: expected an object"),
        ({"m": {"needle_accuracy": [1]}}, r"models\.m: expected an object"),
        ({"m": {"needle_accuracy": {"long": 1}}}, r"models\.m\.needle_accuracy: 'long' is not a length"),
    ],
)
def test_models_of_another_shape_are_named(models, message):
    with pytest.raises(DataError, match=message):
        model_rows(models)


def test_rows_keep_what_they_do_not_know():
    (row,) = model_rows({"m": {"needle_accuracy": {"256": None, "128": 1}, "relative_cost": 0.2}})
    assert row.accuracy == {256: None, 128: 1.0}
    assert row.others == {"relative_cost": 0.2}
    assert all_lengths([row]) == [128, 256]
