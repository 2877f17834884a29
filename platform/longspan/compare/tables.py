"""A comparison's results as tables: rich ones for the console, Markdown for documents. They read compare.json's values.

`present` calls these; numbers are means over seeds with the sample standard deviation after ±.
"""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal

from longspan.compare.results import metric_key
from longspan.observe.formatting import MISSING, compact, duration, number, token_length

if TYPE_CHECKING:
    from rich.table import Table

Row = list[str]


def score_rows(summary: Mapping[str, Any]) -> tuple[Row, list[Row]]:
    """Head and rows of accuracy in percent: each task at the longest length, their mean at every length."""
    lengths, tasks = summary["lengths"], summary["tasks"]
    longest = lengths[-1]
    keys = [metric_key(task, longest) for task in tasks]
    heads = [f"{task} @{token_length(longest)}" for task in tasks]
    if len(tasks) > 1 or len(lengths) > 1:
        keys += [metric_key("tasks", length) for length in lengths]
        heads += [f"mean @{token_length(length)}" for length in lengths]
    rows = [[name, *(_percent(method["metrics"][key]) for key in keys)] for name, method in summary["methods"].items()]
    return ["method", *heads], rows


def cost_rows(summary: Mapping[str, Any]) -> tuple[Row, list[Row]]:
    """Head and rows of losses, of what was spent, and of the difference to the reference at the longest length."""
    key = metric_key("tasks", summary["lengths"][-1])
    rows = []
    for name, method in summary["methods"].items():
        losses = [_loss(method["metrics"][metric]) for metric in ("loss", "last_loss", "short_loss")]
        spent = [
            compact(method["tokens"]) if method["trained"] else "0",
            f"{method['flops']:.2e}".replace("e+", "e") if method["trained"] else "0",
            duration(method["seconds"]) if method["trained"] else "0 s",
        ]
        rows.append([name, *losses, *spent, _difference(method.get("against_reference", {}).get(key))])
    head = ["method", "loss", "loss, last bucket", "loss, short", "tokens", "FLOPs", "time"]
    return [*head, f"mean @{token_length(summary['lengths'][-1])} against {summary['reference']}"], rows


def claim_rows(summary: Mapping[str, Any]) -> tuple[Row, list[Row]]:
    """Head and rows of the claims with their verdicts."""
    rows = []
    for claim in summary["claims"]:
        share = claim["compute_share"]
        where = claim["metric"] + (f" @{token_length(claim['length'])}" if claim["length"] else "")
        interval = _interval(claim["difference"], claim["low"], claim["high"])
        rows.append([claim["name"], where, interval, MISSING if share is None else f"{share:.0%}", claim["verdict"]])
    return ["claim", "metric", "advantage in points", "compute", "verdict"], rows


def score_table(summary: Mapping[str, Any]) -> "Table":
    seeds, questions = len(summary["seeds"]), summary["questions"]
    caption = f"percent of answers right, mean ± deviation over {seeds} seeds; {questions} questions a task and length"
    return _table(f"{summary['name']}: accuracy", caption, *score_rows(summary))


def cost_table(summary: Mapping[str, Any]) -> "Table":
    caption = f"loss in nats per token; last column: points of accuracy, {summary['interval']}"
    return _table(f"{summary['name']}: losses and cost", caption, *cost_rows(summary))


def claim_table(summary: Mapping[str, Any]) -> "Table":
    return _table(f"{summary['name']}: claims", summary["interval"], *claim_rows(summary))


def markdown(summary: Mapping[str, Any]) -> str:
    """The same tables for a document."""
    parts = [_markdown(*score_rows(summary)), _markdown(*cost_rows(summary))]
    if summary["claims"]:
        parts.append(_markdown(*claim_rows(summary)))
    notes = "".join(f"- {name}: {method['note']}\n" for name, method in summary["methods"].items() if method["note"])
    failed = "".join(f"- {label} failed: {reason}\n" for label, reason in summary["failed"].items())
    seeds = ", ".join(str(seed) for seed in summary["seeds"])
    foot = f"Means over seeds {seeds}, ± sample standard deviation. {summary['interval']}.\n"
    return "\n".join([*parts, notes + failed, foot])


def _table(title: str, caption: str, head: Row, rows: Sequence[Row]) -> "Table":
    from rich.table import Table
    from rich.text import Text

    table = Table(title=Text(title), caption=Text(caption))
    for place, column in enumerate(head):
        text_column = place == 0 or column in ("metric", "verdict")
        justify: Literal["left", "right"] = "left" if text_column else "right"
        table.add_column(Text(column), justify=justify, overflow="fold", no_wrap=column == "method")
    for row in rows:
        table.add_row(*(Text(cell) for cell in row))
    return table


def _markdown(head: Row, rows: Sequence[Row]) -> str:
    rule = ["---", *("--:" for _ in head[1:])]
    lines = [head, rule, *rows]
    return "".join(f"| {' | '.join(cell.replace('|', '/') for cell in line)} |\n" for line in lines)


def _percent(metric: Mapping[str, Any]) -> str:
    text = f"{100 * metric['mean']:.1f}"
    return text if metric["spread"] is None else f"{text} ± {100 * metric['spread']:.1f}"


def _loss(metric: Mapping[str, Any]) -> str:
    return number(round(metric["mean"], 3))


def _difference(difference: Mapping[str, Any] | None) -> str:
    if difference is None:
        return MISSING
    low, high = (None if difference[key] is None else 100 * difference[key] for key in ("low", "high"))
    return _interval(100 * difference["mean"], low, high)


def _interval(middle: float | None, low: float | None, high: float | None) -> str:
    if middle is None:
        return MISSING
    return f"{middle:+.1f}" if low is None or high is None else f"{middle:+.1f} [{low:+.1f}, {high:+.1f}]"
