"""The progress of a training run on rank 0: a live bar in a terminal, a plain line now and then in a job's log.

The training loop calls the yielded function once per finished step; nothing it does can change the run.
"""

import os
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from typing import TYPE_CHECKING, TextIO

from longspan.observe.formatting import MISSING, as_float, compact, is_number, number

if TYPE_CHECKING:
    from rich.console import Console

Update = Callable[[int, Mapping[str, object]], None]


def training_progress(
    total_steps: int,
    start_step: int,
    description: str,
    enabled: bool | None = None,
    *,
    interval_s: float = 15.0,
    stream: TextIO | None = None,
) -> AbstractContextManager[Update]:
    """A context manager that yields `update(step, metrics)`; `step` counts finished steps out of `total_steps`.

    Args:
        total_steps: optimizer steps of the whole run.
        start_step: finished steps when this process began (0, or the step resumed from).
        description: what is running, usually the recipe's name.
        enabled: False is silent. None means rank 0 only, by the environment variable RANK (unset: rank 0).
        interval_s: off a terminal, print at most one line in this many seconds; the first and the last step seen are
            always printed.
        stream: where to write; standard output by default.
    """
    out = sys.stdout if stream is None else stream
    if enabled is None:
        enabled = os.environ.get("RANK", "0") == "0"
    if not enabled:
        return _silent()
    if out.isatty():
        from rich.console import Console

        return live_bar(total_steps, start_step, description, Console(file=out))
    return plain_lines(total_steps, start_step, description, out, interval_s)


def describe(metrics: Mapping[str, object]) -> list[str]:
    """The step's metrics as short labelled texts; fields that are absent are left out, null ones read as a dash."""
    shown = []
    for field, label, form in (
        ("loss", "loss {}", _four_places),
        ("grad_norm", "grad {}", _two_places),
        ("learning_rate", "lr {}", _scientific),
        ("tokens_per_s", "{} tok/s", compact),
        ("max_position", "max pos {}", number),
    ):
        if field in metrics:
            shown.append(label.format(form(metrics[field])))
    if "data_wait_s" in metrics:
        shown.insert(len(shown) - ("max_position" in metrics), f"wait {_wait(metrics)}")
    return shown


@contextmanager
def plain_lines(
    total_steps: int,
    start_step: int,
    description: str,
    out: TextIO,
    interval_s: float,
    clock: Callable[[], float] = time.monotonic,
) -> Iterator[Update]:
    """`training_progress` off a terminal: whole lines without control codes, sane in `ray job logs`."""
    began = clock()
    printed_at: float | None = None
    waiting: tuple[int, Mapping[str, object], float] | None = None

    def print_line(step: int, metrics: Mapping[str, object], now: float) -> None:
        share = 100 * step / total_steps if total_steps else 100
        rate = (now - began) / max(step - start_step, 1)
        eta = [f"eta {_clock_time(rate * (total_steps - step))}"] if step < total_steps else []
        head = f"{description} {step}/{total_steps} ({share:.0f}%)"
        print(" | ".join([head, *describe(metrics), *eta]), file=out, flush=True)

    def update(step: int, metrics: Mapping[str, object]) -> None:
        nonlocal printed_at, waiting
        now = clock()
        if printed_at is None or now - printed_at >= interval_s or step >= total_steps:
            print_line(step, metrics, now)
            printed_at, waiting = now, None
        else:
            waiting = (step, metrics, now)

    try:
        yield update
    finally:
        # A run that stops early (preemption, an error) still says how far it came.
        if waiting is not None:
            print_line(*waiting)


@contextmanager
def live_bar(total_steps: int, start_step: int, description: str, console: "Console") -> Iterator[Update]:
    """`training_progress` in a terminal: one bar with counts and times, the metrics on a line under it."""
    from rich.console import Group
    from rich.live import Live
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        Progress,
        TextColumn,
        TimeElapsedColumn,
        TimeRemainingColumn,
    )
    from rich.text import Text

    # markup=False: a recipe's name is text, whatever brackets it holds.
    bar = Progress(
        TextColumn("{task.description}", style="bold", markup=False),
        BarColumn(bar_width=None),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TextColumn("eta", style="dim"),
        TimeRemainingColumn(),
        console=console,
        expand=True,
    )
    task = bar.add_task(description, total=total_steps, completed=start_step)
    line = Text("waiting for the first step", style="dim")
    with Live(Group(bar, line), console=console, refresh_per_second=4) as live:

        def update(step: int, metrics: Mapping[str, object]) -> None:
            bar.update(task, completed=step)
            line.plain = "  ".join(describe(metrics)) or MISSING

        try:
            yield update
        finally:
            live.refresh()


@contextmanager
def _silent() -> Iterator[Update]:
    yield lambda step, metrics: None


def _four_places(value: object) -> str:
    return f"{as_float(value):.4f}" if is_number(value) else MISSING


def _two_places(value: object) -> str:
    return f"{as_float(value):.2f}" if is_number(value) else MISSING


def _scientific(value: object) -> str:
    return f"{as_float(value):.2e}" if is_number(value) else MISSING


def _wait(metrics: Mapping[str, object]) -> str:
    """Time spent waiting for data: as a share of the step where its length is known, in seconds otherwise."""
    wait, step = as_float(metrics["data_wait_s"]), as_float(metrics.get("step_s"))
    if not is_number(wait):
        return MISSING
    return f"{100 * wait / step:.0f}%" if step > 0 else f"{wait:.2f}s"


def _clock_time(seconds: float) -> str:
    whole = max(0, round(seconds))
    return f"{whole // 3600}:{whole % 3600 // 60:02d}:{whole % 60:02d}"
