"""What the benchmarks share: contenders measured in turns, ratios with their spread, a table and a JSON file.

Contenders alternate inside one run, so that whatever else the machine does meets all of them alike; a figure is the
median over the rounds, a ratio the median of the rounds' ratios, a spread the middle half (quartiles) and the range.
"""

import argparse
import json
import os
import platform
import statistics
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

Row = dict[str, Any]


@dataclass(frozen=True)
class Measured:
    """One round of one contender: tokens, wall seconds, and CPU seconds of every process that worked for it.

    `token_sum`: sum of all token ids, to see that contenders delivered the same tokens; -1 where it was not asked for.
    """

    tokens: int
    seconds: float
    cpu_seconds: float
    token_sum: int = -1
    extra: dict[str, Any] = field(default_factory=dict)


Contender = Callable[[bool], Measured]


def timed(work: Callable[[], tuple[int, int]]) -> Measured:
    """One call of `work`, which returns (tokens, sum of the token ids or -1), in this process."""
    cpu, started = time.process_time(), time.perf_counter()
    tokens, token_sum = work()
    return Measured(tokens, time.perf_counter() - started, time.process_time() - cpu, token_sum)


def in_turns(contenders: Mapping[str, Contender], repeats: int) -> dict[str, list[Measured]]:
    """`repeats` rounds of all contenders; the order turns from round to round.

    One round more comes first and is not counted: it warms up, and only it adds up the tokens (argument `check`).
    """
    found: dict[str, list[Measured]] = {name: [] for name in contenders}
    names = list(contenders)
    sums = {name: contenders[name](True).token_sum for name in names}
    for turn in range(repeats):
        for name in names[turn % len(names) :] + names[: turn % len(names)]:
            found[name].append(replace(contenders[name](False), token_sum=sums[name]))
    return found


def spread(values: Sequence[float]) -> dict[str, float]:
    """Median, quartiles and range."""
    quartiles = [values[0]] * 3 if len(values) == 1 else statistics.quantiles(values, n=4, method="inclusive")
    return {
        "median": statistics.median(values),
        "q1": quartiles[0],
        "q3": quartiles[2],
        "min": min(values),
        "max": max(values),
    }


def rates(found: Mapping[str, list[Measured]], baseline: str) -> list[Row]:
    """A row a contender: tokens/s by the clock and by CPU seconds, and both as ratios to `baseline` round by round."""
    rows = []
    for name, rounds in found.items():
        wall = [measured.tokens / measured.seconds for measured in rounds]
        cpu = [measured.tokens / max(measured.cpu_seconds, 1e-9) for measured in rounds]
        base = found[baseline]
        rows.append(
            {
                "contender": name,
                "rounds": len(rounds),
                "tokens": rounds[0].tokens,
                "token_sum": rounds[0].token_sum,
                "tokens_per_s": spread(wall),
                "tokens_per_cpu_s": spread(cpu),
                "ratio": spread([rate * b.seconds / b.tokens for rate, b in zip(wall, base, strict=True)]),
                "cpu_ratio": spread(
                    [rate * max(b.cpu_seconds, 1e-9) / b.tokens for rate, b in zip(cpu, base, strict=True)]
                ),
                **rounds[-1].extra,
            }
        )
    return rows


def cell(value: Any) -> str:
    """A figure for the table: a spread as "median (q1..q3)", a number at three digits."""
    if isinstance(value, dict) and "median" in value:
        return f"{cell(value['median'])} ({cell(value['q1'])}..{cell(value['q3'])})"
    if isinstance(value, bool) or not isinstance(value, int | float):
        return "-" if value is None else str(value)
    if abs(value) >= 1e6:
        return f"{value / 1e6:.4g}M"
    return f"{value:,}" if isinstance(value, int) else f"{value:.3g}"


def report(name: str, rows: Sequence[Row], columns: Sequence[str], output: Path | None, remarks: Sequence[str]) -> None:
    """Print the rows as a table and, with `output`, write them to OUTPUT/NAME.json."""
    table = Table(*columns, title=name)
    for row in rows:
        table.add_row(*(cell(row.get(column)) for column in columns))
    console = Console(width=None if sys.stdout.isatty() else 200)
    console.print(table)
    for remark in remarks:
        console.print(remark, markup=False, highlight=False)
    if output is not None:
        output.mkdir(parents=True, exist_ok=True)
        machine = {"cpus": os.cpu_count(), "machine": platform.machine(), "python": platform.python_version()}
        text = json.dumps({"name": name, "machine": machine, "rows": rows, "remarks": list(remarks)}, indent=1)
        (output / f"{name}.json").write_text(text + "\n")


def arguments(description: str | None, *, peer: bool = False, store: bool = False) -> argparse.Namespace:
    """--tiny, --output and --repeats; with `peer` --peer-python and with `store` --ceph too."""
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tiny", action="store_true", help="small sizes: a check of the script, no figures")
    parser.add_argument("--output", type=Path, help="directory for the figures as JSON")
    parser.add_argument("--repeats", type=int, default=None, help="rounds that count (default 7; 2 with --tiny)")
    if peer:
        parser.add_argument("--peer-python", help="a Python with mosaicml-streaming, in an environment of its own")
    if store:
        parser.add_argument(
            "--ceph", type=Path, help="scripts of a real store, as tests/reliability/real_store.py says"
        )
    found = parser.parse_args()
    found.repeats = found.repeats or (2 if found.tiny else 7)
    return found
