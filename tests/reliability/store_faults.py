"""What `longspan.storage` does when a store fails: one read (or write) for each kind of fault, number of faults in a
row, and size of object, through a proxy that strikes before a mock store.

    python tests/reliability/store_faults.py            (all cells, about 5 minutes on 2 cores)
    python tests/reliability/store_faults.py --quick    (a sample of them, below 20 s)

Every cell must give the right bytes, or, where the fault is final, one line that says what is wrong. Exit code 1 if one
does not. The cells run under a retry policy with short waits (at most 50 ms instead of 8 s) and its default budget of
5 minutes: how long the default waits survive is a matter of arithmetic, tested in tests/storage/test_retry.py. Cells
that wait for a time-out (slow, stall) have short ones. Several processes share them, because endpoint and policy
belong to a process; each has a proxy of its own.
"""

# ruff: noqa: E402  (a script finds the package before it imports it)
import argparse
import asyncio
import functools
import logging
import math
import multiprocessing
import random
import sys
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path

import aiohttp
import pytest
from rich.console import Console
from rich.table import Table

ROOT = Path(__file__).parents[2]
sys.path.insert(0, str(ROOT))
sys.path.insert(0, str(ROOT / "platform"))

from longspan import storage
from longspan.errors import StorageError
from longspan.storage.s3 import PART_BYTES
from tests.s3 import Fault, FaultProxy, clean_environment, new_bucket, serve_moto

SIZES = {"1 KiB": 1 << 10, "1 MiB": 1 << 20, "20 MiB": 20 << 20}
FAULTS_IN_A_ROW = (1, 4, 24, 60)
KINDS_OF_THE_BAR = ("500", "503", "reset", "truncate", "flip", "slow", "404", "etag")
MORE_KINDS = ("lost", "stall", "403", "expired")
KINDS_OF_WRITES = ("500", "503", "reset", "lost")
MOST_BYTES = 1.1
"""Bytes sent by the store for each byte needed."""
NUM_FLIPS = 1000
FAST = storage.RetryPolicy(first_delay_s=0.005, max_delay_s=0.05)
IMPATIENT = replace(FAST, connect_timeout_s=1.0, read_timeout_s=0.3, min_bytes_per_s=8e6)
PHRASES = {
    "404": "it does not exist",
    "403": "permission denied (403 AccessDenied)",
    "expired": "the store refused the credentials (400 ExpiredToken); renew them",
    "flip": "after 3 fetches; it is damaged or was replaced",
    "etag": "it was replaced while being read",
}


@dataclass(frozen=True)
class Cell:
    """One trial: `task` (read, write, list, flips) meets `times` faults of `kind`; `amount` in bytes, keys or reads."""

    task: str
    kind: str
    times: int
    amount: int

    @property
    def num_parts(self) -> int:
        return math.ceil(self.amount / PART_BYTES)


@dataclass(frozen=True)
class Verdict:
    """What a cell came to; `wrong` is empty if that is as it must be."""

    cell: Cell
    outcome: str
    wrong: str
    seconds: float
    num_requests: int
    bytes_ratio: float


def all_cells() -> list[Cell]:
    reads = [
        Cell("read", kind, times, size)
        for kind in (*KINDS_OF_THE_BAR, *MORE_KINDS)
        for times in FAULTS_IN_A_ROW
        for size in SIZES.values()
    ]
    writes = [Cell("write", kind, 60, size) for kind in KINDS_OF_WRITES for size in SIZES.values()]
    lists = [Cell("list", kind, 24, num) for num in (1001, 10_000) for kind in ("503", "truncate")]
    flips = [Cell("flips", "flip", 1, NUM_FLIPS // 4) for _ in range(4)]
    return [*reads, *writes, *lists, *flips]


def quick_cells() -> list[Cell]:
    kinds = (*KINDS_OF_THE_BAR, *MORE_KINDS)
    reads = [Cell("read", kind, 4, SIZES["1 KiB"]) for kind in kinds]
    large = [Cell("read", kind, 4, SIZES["20 MiB"]) for kind in ("503", "truncate", "etag")]
    more = [Cell("write", "lost", 24, SIZES["1 MiB"]), Cell("flips", "flip", 1, 20)]
    return [*reads, *large, *more]


def is_final(cell: Cell) -> bool:
    """Whether so many faults of this kind must end in an error instead of the bytes."""
    if cell.kind in ("403", "expired"):
        return cell.times > 1  # new credentials are fetched once
    if cell.kind == "flip":
        return math.ceil(cell.times / cell.num_parts) > 2  # of three fetches none is left; every part takes one fault
    if cell.kind == "etag":
        return cell.times > 2 and cell.num_parts > 1  # one part alone is of one version, whatever happens next
    return cell.kind == "404"


def most_bytes(cell: Cell) -> float:
    """How many bytes may be sent for each one needed. What is damaged or replaced has to be fetched anew."""
    if cell.kind == "flip":
        return min(3, 1 + math.ceil(cell.times / cell.num_parts)) * MOST_BYTES
    return (3 if cell.kind == "etag" else 1) * MOST_BYTES


def read(cell: Cell, proxy: FaultProxy, uri: str) -> tuple[str, str]:
    data = random.Random(f"{cell}").randbytes(cell.amount)
    storage.write_bytes(uri, data)
    digest = storage.digest_bytes(data) if cell.kind == "flip" else None
    proxy.set_faults(Fault(cell.kind, times=cell.times))
    try:
        found = storage.read_bytes(uri, digest=digest)
    except StorageError as error:
        return str(error), wrong_error(cell, str(error), uri)
    right = (data, data[::-1]) if cell.kind == "etag" else (data,)
    if found not in right:
        return "bytes", "the bytes are wrong"
    if is_final(cell):
        return "bytes", "an error was expected"
    struck = proxy.struck[cell.kind]
    enough = struck >= 1 if cell.kind in ("slow", "etag") else struck == cell.times
    return "bytes", "" if enough else f"the fault struck {struck} times only"


def wrong_error(cell: Cell, text: str, uri: str) -> str:
    if not is_final(cell):
        return "the bytes were expected"
    if "\n" in text or not text.startswith(f"cannot read {uri}: "):
        return "not one line that names the object"
    return "" if PHRASES[cell.kind] in text else f"it does not say {PHRASES[cell.kind]!r}"


def write(cell: Cell, proxy: FaultProxy, uri: str) -> tuple[str, str]:
    data = random.Random(f"{cell}").randbytes(cell.amount)
    proxy.set_faults(Fault(cell.kind, times=cell.times))
    storage.write_bytes(uri, data)
    struck = proxy.struck[cell.kind]
    if storage.read_bytes(uri) != data:
        return "bytes", "the bytes are wrong"
    return "written", "" if struck == cell.times else f"the fault struck {struck} times only"


def make_keys(proxy: FaultProxy, uri: str, names: list[str]) -> None:
    """Objects of 0 to 9 bytes, without a client: ten thousand signatures take longer than the test."""

    async def put_all() -> None:
        left = iter(names)
        async with aiohttp.ClientSession() as session:

            async def put_some() -> None:
                for name in left:
                    url = f"{proxy.upstream}/{uri.removeprefix('s3://')}/{name}"
                    async with session.put(url, data=bytes(int(name) % 10)) as answer:
                        assert answer.status == 200

            await asyncio.gather(*(put_some() for _ in range(8)))

    asyncio.run(put_all())


def list_keys(cell: Cell, proxy: FaultProxy, uri: str) -> tuple[str, str]:
    names = [f"{index:06d}" for index in range(cell.amount)]
    make_keys(proxy, uri, names)
    proxy.set_faults(Fault(cell.kind, times=cell.times))
    found = storage.list_sizes(uri)
    if list(found.items()) != [(name, int(name) % 10) for name in names]:
        return f"{len(found)} keys", "keys or sizes are wrong"
    return f"{len(found)} keys", "" if proxy.struck[cell.kind] == cell.times else "the faults did not strike"


def find_flips(cell: Cell, proxy: FaultProxy, uri: str) -> tuple[str, str]:
    """As many reads, each with one flipped bit at another place: found means fetched twice, and the right bytes."""
    num_found = 0
    for seed in range(cell.amount):
        data = random.Random(seed).randbytes(1 + seed * 7)
        storage.write_bytes(uri, data)
        proxy.set_faults(Fault("flip", times=1, seed=seed))
        is_right = storage.read_bytes(uri, digest=storage.digest_bytes(data)) == data
        num_found += is_right and proxy.struck["flip"] == 1 and proxy.num_requests == 2
    return f"{num_found} of {cell.amount} found", "" if num_found == cell.amount else "flipped bits went through"


TASKS: dict[str, Callable[[Cell, FaultProxy, str], tuple[str, str]]] = {
    "read": read,
    "write": write,
    "list": list_keys,
    "flips": find_flips,
}


def run_cell(cell: Cell, proxy: FaultProxy, bucket: str) -> Verdict:
    uri = storage.join(bucket, "cell")
    proxy.set_faults()
    with storage.use_policy(IMPATIENT if cell.kind in ("slow", "stall") else FAST):
        storage.exists(uri)  # makes the client
        start_s = time.monotonic()
        try:
            outcome, wrong = TASKS[cell.task](cell, proxy, uri)
        except Exception as error:
            outcome, wrong = f"{type(error).__name__}: {error}", "an exception that must not be"
        seconds = time.monotonic() - start_s
        num_requests, ratio = proxy.num_requests, proxy.num_body_bytes / cell.amount
        proxy.set_faults()
        storage.delete(uri)
    if cell.task == "read" and not wrong and ratio > most_bytes(cell):
        wrong = f"more than {most_bytes(cell):.1f} bytes sent for each one needed"
    return Verdict(cell, outcome, wrong, seconds, num_requests, ratio)


@functools.cache
def proxy_of_this_process(upstream: str) -> FaultProxy:
    logging.getLogger("longspan").setLevel(logging.ERROR)  # every retry is a line
    proxy = FaultProxy(upstream)
    clean_environment(pytest.MonkeyPatch(), proxy.start())
    return proxy


def run_in_worker(cell: Cell, upstream: str) -> Verdict:
    return run_cell(cell, proxy_of_this_process(upstream), new_bucket(upstream))


def run(cells: list[Cell], num_processes: int) -> list[Verdict]:
    """The verdicts in the order of the cells; those that wait longest start first."""

    def wait(index: int) -> int:
        cell = cells[index]
        return cell.times * (1 + cell.num_parts) if cell.kind in ("slow", "stall") else cell.amount // 10_000

    context = multiprocessing.get_context("spawn")
    with serve_moto() as upstream, ProcessPoolExecutor(num_processes, mp_context=context) as pool:
        futures = {
            index: pool.submit(run_in_worker, cells[index], upstream)
            for index in sorted(range(len(cells)), key=wait, reverse=True)
        }
        return [futures[index].result() for index in range(len(cells))]


def table_of(verdicts: list[Verdict]) -> Table:
    table = Table("task", "fault", "in a row", "amount", "verdict", "outcome", "seconds", "requests", "bytes ratio")
    names = {size: name for name, size in SIZES.items()}
    for verdict in verdicts:
        cell = verdict.cell
        is_bytes = cell.task in ("read", "write")
        table.add_row(
            cell.task,
            cell.kind,
            str(cell.times),
            names[cell.amount] if is_bytes else str(cell.amount),
            f"[red]WRONG: {verdict.wrong}[/]" if verdict.wrong else "[green]right[/]",
            verdict.outcome.rpartition("/cell: ")[2][:60],
            f"{verdict.seconds:.1f}",
            str(verdict.num_requests),
            f"{verdict.bytes_ratio:.2f}" if cell.task == "read" else "-",
        )
    return table


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n\n")[0])
    parser.add_argument("--quick", action="store_true", help="a sample of the cells")
    parser.add_argument("--processes", type=int, default=0, help="how many cells at a time (6; quick: 2)")
    options = parser.parse_args(arguments)
    cells = quick_cells() if options.quick else all_cells()
    start_s = time.monotonic()
    verdicts = run(cells, options.processes or (2 if options.quick else 6))
    console = Console(width=None if sys.stdout.isatty() else 180)
    console.print(table_of(verdicts))
    num_right = sum(not verdict.wrong for verdict in verdicts)
    console.print(f"{num_right} of {len(cells)} cells right in {time.monotonic() - start_s:.0f} s")
    return 0 if num_right == len(cells) else 1


if __name__ == "__main__":
    sys.exit(main())
