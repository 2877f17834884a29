"""From evaluations to one result a method, and to the tables that show it."""

import pytest

from longspan.compare.present import summarise
from longspan.compare.results import gather, metrics_of
from longspan.compare.tables import claim_rows, cost_rows, cost_table, markdown, score_rows, score_table
from tests.compare.material import comparison, evaluation, measured

CLAIM = {"name": "short is as good", "method": "short", "against": "full", "metric": "recall", "relation": "within"}


def runs() -> list:  # type: ignore[type-arg]
    found = measured("yarn", {None: evaluation(0.4)}, 0.0)
    found += measured("short", {0: evaluation(0.9), 1: evaluation(0.7)}, 50.0)
    return found + measured("full", {0: evaluation(0.9), 1: evaluation(0.8)})


def test_metrics_are_named_by_task_and_length() -> None:
    found = metrics_of(evaluation(0.9, 0.5), ["recall", "larger"])
    assert (found["recall@128"], found["larger@128"], found["tasks@128"]) == (0.9, 0.5, pytest.approx(0.7))
    assert (found["tasks@64"], found["loss"], found["last_loss"], found["short_loss"]) == (1.0, 3.25, 3.0, 3.5)


def test_seeds_are_gathered_and_curves_averaged() -> None:
    two = measured("a", {3: evaluation(0.9, loss=2.0), 4: evaluation(0.7, loss=3.0)})
    result = gather(two, ["recall"])["a"]
    assert result.metrics["recall@128"] == {3: 0.9, 4: 0.7}
    assert result.curve == {"positions": [8.0, 90.0], "loss": [3.5, 2.5]}


def test_the_summary_keeps_the_order_of_the_comparison_and_says_what_failed() -> None:
    asked = comparison(claims=[CLAIM])
    results = gather(runs()[::-1], asked.evaluate.tasks)
    summary = summarise(asked, results, {"short, seed 7": "no room"})
    assert list(summary["methods"]) == ["yarn", "short", "full"]
    assert summary["failed"] == {"short, seed 7": "no room"}
    assert "against_reference" not in summary["methods"]["full"]
    difference = summary["methods"]["short"]["against_reference"]["recall@128"]
    assert difference["mean"] == pytest.approx(-0.05)
    assert difference["pairs"] == 2
    assert summary["methods"]["yarn"]["metrics"]["recall@128"]["values"] == {"untrained": 0.4}
    assert summary["claims"][0]["verdict"] == "not decided at this number of seeds"
    without = summarise(asked, {name: results[name] for name in ("yarn", "full")}, {})
    assert without["claims"] == []


def test_tables_show_means_spreads_and_cost() -> None:
    asked = comparison(claims=[CLAIM])
    summary = summarise(asked, gather(runs(), asked.evaluate.tasks), {})
    head, rows = score_rows(summary)
    assert head == ["method", "recall @128", "larger @128", "mean @64", "mean @128"]
    assert rows[1] == ["short", "80.0 ± 14.1", "50.0 ± 0.0", "100.0 ± 0.0", "65.0 ± 7.1"]
    assert rows[0][1] == "40.0"
    head, rows = cost_rows(summary)
    assert rows[0] == ["yarn", "3.25", "3", "3.5", "0", "0", "0 s", rows[0][-1]]
    assert rows[1][4:7] == ["256", "5.00e01", "2 s"]
    assert rows[1][-1] == "-2.5 [-34.3, +29.3]"
    assert rows[2][-1] == "-"
    assert claim_rows(summary)[1][0][3:] == ["50%", "not decided at this number of seeds"]
    assert score_table(summary).row_count == cost_table(summary).row_count == 3


def test_markdown_is_whole_tables_with_their_notes() -> None:
    asked = comparison(claims=[CLAIM | {"name": "short | as good"}])
    text = markdown(summarise(asked, gather(runs(), asked.evaluate.tasks), {"x, seed 1": "broke"}))
    for table in text.split("\n\n")[:3]:
        assert len({line.count("|") for line in table.splitlines()}) == 1
    assert "| short / as good |" in text
    assert "- short: a quarter\n" in text
    assert "- x, seed 1 failed: broke\n" in text
