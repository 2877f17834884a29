"""`longspan prepare` on a machine or a cluster: units on Ray Data's workers, with a bar of what is done.

Little text is tokenised in this process, sooner than Ray would have started. Both ways run the same function on the
same units, so they write the same bytes.
"""

import os
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, TextIO

import longspan.errors
from longspan.config.corpus import Corpus
from longspan.corpus.manifest import Manifest
from longspan.corpus.prepare import DoUnit, RunUnits, Status, in_order, prepare
from longspan.corpus.units import Unit
from longspan.corpus.work import UnitResult
from longspan.errors import LaunchError, LongspanError
from longspan.observe.formatting import compact
from longspan.slots import Need, require_slots

RAY_BYTES = 64 << 20
"""More input than this is given to Ray."""
_LINE_INTERVAL_S = 15.0


def prepare_corpus(corpus: Corpus, workers: int = 0, address: str | None = None) -> Manifest:
    """`corpus.prepare.prepare` with progress on stderr, on Ray if it is worth it or asked for.

    Args:
        workers: units that run at a time; 0 is as many as there are CPU slots, and more than 1 asks for Ray.
        address: of a Ray cluster; RAY_ADDRESS stands for it. Either asks for Ray.

    Raises:
        LongspanError: as `corpus.prepare.prepare`, or LaunchError: no such cluster, or its workers kept failing.
    """
    with unit_progress(sys.stderr) as (say, watch):
        return prepare(corpus, say, run_units=choose_runner(workers, address, say), watch=watch)


def choose_runner(workers: int, address: str | None, say: Callable[[str], None]) -> RunUnits:
    """Runs units in this process if they are few and Ray was not asked for, else on Ray."""
    asked = workers > 1 or bool(address or os.environ.get("RAY_ADDRESS"))

    def run(do_unit: DoUnit, units: Sequence[Unit]) -> Iterator[UnitResult]:
        if not units or workers == 1 or not (asked or sum(unit.num_bytes for unit in units) > RAY_BYTES):
            yield from in_order(do_unit, units)
            return
        _join(workers, address, say)
        yield from run_on_ray(do_unit, units, workers)

    return run


def _join(workers: int, address: str | None, say: Callable[[str], None]) -> None:
    import ray

    if not ray.is_initialized():
        from longspan.launch.cluster import join_cluster

        join_cluster(address, workers, "--address")
        say(f"Ray: {ray.cluster_resources().get('CPU', 0):g} CPU slots")


def run_on_ray(do_unit: DoUnit, units: Sequence[Unit], workers: int = 0) -> Iterator[UnitResult]:
    """Each unit is a task of Ray Data with one CPU; results come as they are done.

    A task whose worker dies is run again by Ray: it writes the same files.

    Raises:
        ConfigError: the cluster has no CPU slot.
        LongspanError: the one that a unit met, as the class that it was.
        LaunchError: Ray gave a task up. Any other exception of a unit is Ray's, with its traceback.
    """
    import logging

    import ray
    from ray.data import ExecutionResources

    def work(row: dict[str, Any]) -> dict[str, Any]:
        return _row(do_unit, units[row["id"]])

    require_slots("prepare", [Need("task", 1, 1)], "start the cluster with CPU slots")
    # It would say that its own progress bars are off, and show its plan.
    logging.getLogger("ray.data").setLevel(logging.ERROR)
    # One block a unit: a task is then a unit, and is done again alone.
    dataset = ray.data.range(len(units), override_num_blocks=len(units)).map(work, num_cpus=1)
    dataset.context.enable_progress_bars = False
    dataset.context.execution_options.preserve_order = False
    if workers:
        dataset.context.execution_options.resource_limits = ExecutionResources(cpu=workers)
    try:
        for row in dataset.iter_rows():
            yield _result(row)
    except ray.exceptions.UserCodeException:
        raise
    except ray.exceptions.RayError as error:
        lines = [line.strip() for line in str(error).splitlines() if line.strip()]
        raise LaunchError(
            f"a worker failed; the same command resumes from the units that are done. Cause: {lines[0]}"
        ) from error


def _row(do_unit: DoUnit, unit: Unit) -> dict[str, Any]:
    """On a worker: the unit's result, or the error that it met; raised here, Ray Data would wrap it."""
    # The task has one CPU: the library's threads would take those of other tasks.
    os.environ["TOKENIZERS_PARALLELISM"] = "false"
    try:
        return {"error": "", **do_unit(unit)._asdict()}
    except LongspanError as error:
        return {"error": f"{type(error).__name__}: {error}", **UnitResult(0, 0, 0)._asdict()}


def _result(row: dict[str, Any]) -> UnitResult:
    kind, _, message = row.pop("error").partition(": ")
    if kind:
        raise getattr(longspan.errors, kind, LongspanError)(message)
    unit = str(row.pop("unit"))
    return UnitResult(**{name: int(value) for name, value in row.items()}, unit=unit)


@contextmanager
def unit_progress(out: TextIO) -> Iterator[tuple[Callable[[str], None], Callable[[Status], None]]]:
    """Yields `say(line)` and `watch(status)`: a bar in a terminal, a plain line now and then elsewhere."""
    if out.isatty():
        with _live_bar(out) as pair:
            yield pair
        return
    printed_at = time.monotonic()
    meter = _meter()

    def say(line: str) -> None:
        print(line, file=out, flush=True)

    def watch(status: Status) -> None:
        nonlocal printed_at
        text = meter(status)
        now = time.monotonic()
        if now - printed_at >= _LINE_INTERVAL_S:
            say(f"{status.units}/{status.num_units} units | {text}")
            printed_at = now

    yield say, watch


@contextmanager
def _live_bar(out: TextIO) -> Iterator[tuple[Callable[[str], None], Callable[[Status], None]]]:
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

    console = Console(file=out)
    columns = (
        TextColumn("prepare", style="bold"),
        BarColumn(bar_width=None),
        TextColumn("{task.fields[text]}", markup=False),
        TimeElapsedColumn(),
        TextColumn("eta", style="dim"),
        TimeRemainingColumn(),
    )
    meter = _meter()
    with Progress(*columns, console=console, expand=True) as bar:
        task = bar.add_task("prepare", total=None, text="")

        def say(line: str) -> None:
            console.print(line, markup=False, highlight=False, soft_wrap=True)

        def watch(status: Status) -> None:
            text = f"{status.units}/{status.num_units} units  {meter(status)}"
            bar.update(task, completed=status.num_bytes, total=max(status.total_bytes, 1), text=text)

        yield say, watch


def _meter() -> Callable[[Status], str]:
    """Tells a status as text, with the rates since the first one that it is given."""
    first: tuple[float, int] | None = None

    def tell(status: Status) -> str:
        nonlocal first
        now = time.monotonic()
        first = first or (now, status.num_bytes)
        seconds = max(now - first[0], 1e-9)
        return (
            f"{compact(status.documents)} documents, {compact(status.tokens)} tokens,"
            f" {compact(status.tokens / seconds)} tokens/s, {(status.num_bytes - first[1]) / seconds / 1e6:.1f} MB/s"
        )

    return tell
