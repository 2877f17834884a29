"""The report: every number in its place, nothing loaded from elsewhere, nothing of the data read as HTML."""

import base64
import json
import re
from html.parser import HTMLParser

import pytest

from longspan import storage
from longspan.errors import DataError
from longspan.observe import report_view
from longspan.observe.metrics import MetricsLog
from longspan.observe.report import write_report

TRAIN = {
    "kind": "train",
    "name": "extend-8x",
    "steps": 3,
    "tokens": 368_400,
    "seconds": 83.0,
    "final_loss": 3.21349,
    "model": "runs/base",
    "rope": {"type": "default", "theta": 4596.2},
    "max_position": 1023,
    "versions": {"torch": "2.13.0"},
    "resumed_from": [1, 2],
    "compiled": False,
}
DEMO = {
    "kind": "demo",
    "models": {
        "base": {"needle_accuracy": {"1024": 0.17, "128": 0.99}, "tokens": 0, "seconds": 0.0, "note": "as it was"},
        "LongRecipe": {
            "needle_accuracy": {"128": 1.0, "1024": None},
            "tokens": 368_400,
            "seconds": 15.9,
            "relative_cost": 0.226,
            "rope": {"theta": 4596},
        },
    },
    "findings": ["The base fails at 1,024 tokens."],
    "timings": {"base_training": 28.0, "extend": 14.0},
    "window": 128,
    "target": 1024,
    "seed": 3,
}
PIXEL = base64.b64decode(
    "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGAWjR9awAAAABJRU5ErkJggg=="
)


class Page(HTMLParser):
    """The page's elements and visible texts, with tables as rows of cells."""

    def __init__(self, text):
        super().__init__(convert_charrefs=True)
        self.tags, self.texts, self.rows, self._cell, self._in_style = [], [], [], None, False
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        self._in_style = tag == "style"
        if tag == "tr":
            self.rows.append([])
        elif tag in ("td", "th"):
            self._cell = []

    def handle_endtag(self, tag):
        self._in_style = False
        if tag in ("td", "th"):
            self.rows[-1].append("".join(self._cell).strip())
            self._cell = None

    def handle_data(self, data):
        if self._in_style:
            return
        if self._cell is not None:
            self._cell.append(data)
        if data.strip():
            self.texts.append(data.strip())

    def images(self):
        return [attrs for tag, attrs in self.tags if tag == "img"]


def write_run(run_uri, summary=None, num_steps=0, recipe=None, plots=None):
    if summary is not None:
        storage.write_text(storage.join(run_uri, "summary.json"), json.dumps(summary))
    if num_steps:
        with MetricsLog.open(run_uri) as log:
            for step in range(1, num_steps + 1):
                log.append(
                    {
                        "step": step,
                        "loss": 5.0 - step,
                        "grad_norm": 1.5,
                        "learning_rate": 1e-3,
                        "tokens_per_s": 24_000.4,
                        "data_wait_s": 0.01,
                        "step_s": 0.5,
                        "max_position": 1000 + step,
                    }
                )
    if recipe:
        storage.write_text(storage.join(run_uri, "recipe.yaml"), recipe)
    for name, data in (plots or {}).items():
        storage.write_bytes(storage.join(run_uri, "plots", name), data)


def read_page(run_uri):
    uri = write_report(run_uri)
    assert uri == storage.join(run_uri, "report.html")
    return Page(storage.read_text(uri))


def test_a_training_run_on_every_storage(run_uri):
    write_run(run_uri, TRAIN, num_steps=3, recipe="positions:\n  type: longrecipe\n")
    page = read_page(run_uri)
    for text in (
        "Training run",
        "extend-8x",
        "368,400",
        "1 min 23 s",
        "3.213",
        "1,023",
        "positions:\n  type: longrecipe",
    ):
        assert text in page.texts
    for row in (
        ["model", "runs/base"],
        ["rope.theta", "4,596"],
        ["torch", "2.13.0"],
        ["resumed_from", "[1, 2]"],
        ["compiled", "no"],
        ["Loss, first to last (nats per token)", "4 to 2"],
        ["Tokens per second, median", "24,000"],
        ["Waiting for data, share of step time", "2%"],
        ["Largest position reached", "1,003"],
    ):
        assert row in page.rows
    (image,) = page.images()
    assert image["alt"] == "Training curves"
    drawn = storage.read_bytes(storage.join(run_uri, "plots", "training_curves.png"))
    assert image["src"] == "data:image/png;base64," + base64.b64encode(drawn).decode()


def test_a_demo(tmp_path):
    write_run(str(tmp_path), DEMO, plots={"needle_heatmaps.png": PIXEL, "my_own-plot.png": PIXEL, "notes.txt": b"x"})
    page = read_page(str(tmp_path))
    for row in (
        ["Model", "128", "1,024", "Tokens", "Time", "relative cost", "Note"],
        ["base", "99%", "17%", "0", "0 s", "-", "as it was"],
        ["LongRecipe", "100%", "-", "368,400", "15.9 s", "0.226", ""],
        ["base training", "28 s", ""],
        ["extend", "14 s", ""],
        ["seed", "3"],
        ["models.LongRecipe.rope.theta", "4,596"],
    ):
        assert row in page.rows
    for text in ("Demonstration", "What this shows", "The base fails at 1,024 tokens.", "Training window (tokens)"):
        assert text in page.texts
    assert [image["alt"] for image in page.images()] == [
        "Needle retrieval by context length",
        "Needle retrieval by context length and needle depth",
        "My own plot",
    ]
    assert [attrs["class"] for tag, attrs in page.tags if tag == "th" and "num" in attrs.get("class", "")][:3] == [
        "num",
        "num beyond",
        "num",
    ]
    shades = {attrs.get("class") for tag, attrs in page.tags if tag == "td"}
    assert {"num s4", "num s0"} <= shades
    assert [attrs["style"] for tag, attrs in page.tags if attrs.get("class") == "bar"] == [
        "width: 100.0%",
        "width: 50.0%",
    ]


def test_the_page_asks_the_network_for_nothing(tmp_path):
    write_run(str(tmp_path), TRAIN | DEMO, num_steps=2, recipe="a: 1")
    text = storage.read_text(write_report(str(tmp_path)))
    page = Page(text)
    assert not {"script", "link", "iframe", "object", "base", "form"} & {tag for tag, _ in page.tags}
    links = [
        value for _, attrs in page.tags for key, value in attrs.items() if key in ("src", "href", "srcset", "action")
    ]
    assert links
    assert all(value.startswith("data:image/png;base64,") for value in links)
    assert not re.search(r"url\(|@import|https?://", text)
    policy = next(attrs["content"] for tag, attrs in page.tags if attrs.get("http-equiv") == "Content-Security-Policy")
    assert policy.startswith("default-src 'none'")


HOSTILE = "<script>alert(1)</script>\"'><img src=x onerror=y>{{ 7*7 }}"


def test_hostile_names_stay_text(tmp_path):
    summary = {
        "kind": HOSTILE,
        "name": HOSTILE,
        "findings": [HOSTILE],
        "versions": {HOSTILE: HOSTILE},
        HOSTILE: HOSTILE,
        "models": {
            HOSTILE: {"needle_accuracy": {"128": 1}, "note": HOSTILE, HOSTILE: HOSTILE, "deep": {HOSTILE: [HOSTILE]}}
        },
        "timings": {HOSTILE: 1.0},
    }
    write_run(str(tmp_path), summary, num_steps=1, recipe=HOSTILE, plots={"<b>&.png": PIXEL})
    page = read_page(str(tmp_path))
    assert "script" not in {tag for tag, _ in page.tags}
    assert not [attrs for _, attrs in page.tags if "onerror" in attrs]
    assert page.texts.count(HOSTILE) >= 8
    assert "49" not in page.texts
    assert "<b>&" in [image["alt"] for image in page.images()]


def test_a_running_run_has_metrics_but_no_summary(tmp_path):
    run = str(tmp_path / "my-run")
    write_run(run, num_steps=2)
    page = read_page(run)
    assert "my-run" in page.texts
    assert ["Steps logged", "1 to 2"] in page.rows
    for absent in ("What this shows", "Recipe", "Results by model", "Versions", "Details", "Where the time went"):
        assert absent not in page.texts


def test_training_curves_follow_the_metrics_but_a_given_accuracy_plot_is_kept(tmp_path):
    write_run(str(tmp_path), DEMO, 2, plots={"training_curves.png": PIXEL, "accuracy_by_length.png": PIXEL})
    write_report(str(tmp_path))
    assert (tmp_path / "plots/training_curves.png").read_bytes() != PIXEL
    assert (tmp_path / "plots/accuracy_by_length.png").read_bytes() == PIXEL


def test_an_empty_directory_is_named_with_the_mend(run_uri):
    with pytest.raises(
        DataError, match=r"neither summary\.json nor metrics\.jsonl is here; give the directory of a run"
    ):
        write_report(run_uri)


@pytest.mark.parametrize(
    ("text", "message"), [("{", "summary.json: not valid JSON"), ("[1]", "holds a list; a summary is one")]
)
def test_a_damaged_summary_is_named(tmp_path, text, message):
    (tmp_path / "summary.json").write_text(text)
    with pytest.raises(DataError, match=message):
        write_report(str(tmp_path))


@pytest.mark.parametrize(
    "odd",
    [
        {"findings": "one text", "timings": {"a": "x"}, "versions": "2.0", "models": []},
        {"steps": None, "tokens": "many", "timings": {}, "models": {}, "window": "wide"},
        {"models": {"m": {"needle_accuracy": {"128": 0.5}}}, "window": "wide", "timings": [1]},
        {"models": {"m": {"ruler": 0.5}}},
    ],
)
def test_values_of_another_shape_are_still_shown(tmp_path, odd):
    write_run(str(tmp_path), odd)
    page = read_page(str(tmp_path))
    shown = " ".join(text for row in page.rows for text in row)
    for key, value in odd.items():
        if key != "models" or not value:
            assert key in shown
            assert (value if isinstance(value, str) else "") in shown


def test_all_zero_timings_divide_by_nothing():
    view = report_view.build_view({"timings": {"a": 0}}, [], "run")
    assert view["timings"] == [("a", "0 s", 0.0)]


def test_facts_leave_out_what_no_line_has():
    assert report_view.training_facts([]) == []
    assert report_view.training_facts([{"step": 4, "loss": None, "data_wait_s": 1.0}]) == [("Steps logged", "4 to 4")]
