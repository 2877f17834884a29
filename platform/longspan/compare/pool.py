"""Calls in processes of their own that end with the one that started them, and stop when the user says so.

`run` gives it the runs of a comparison; it knows nothing of them.
"""

import multiprocessing
import os
import signal
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from functools import partial
from types import FrameType
from typing import Any, TypeVar

from longspan.errors import LaunchError

Item = TypeVar("Item")
Result = TypeVar("Result")
_shared: dict[str, Any] = {}
"""In a worker: `stop`, an event that is set once no further call is to begin."""


def in_processes(call: Callable[[Item], Result], items: Sequence[Item], workers: int) -> Iterator[tuple[Item, Result]]:
    """`call(item)` for each item in `workers` processes, as they end; `call` and items must be picklable.

    When the caller is interrupted or goes no further, calls that run are waited for and no other begins. Ctrl-C reaches
    a call only where it asks for the signal itself, as training does, which then saves and returns.

    Raises:
        LaunchError: a process died.
    """
    # spawn: torch and its threads do not survive a fork.
    context = multiprocessing.get_context("spawn")
    stop = context.Event()
    with _one_interrupt():
        pool = ProcessPoolExecutor(workers, mp_context=context, initializer=_begin, initargs=(stop,))
        try:
            futures = {pool.submit(partial(_unless_stopped, call), item): item for item in items}
            for future in as_completed(futures):
                for result in future.result():
                    yield futures[future], result
        except BrokenProcessPool:
            raise LaunchError(
                "a run's process died (out of memory?); the same command resumes from its last checkpoint, --set"
                " workers=1 runs one at a time"
            ) from None
        finally:
            stop.set()
            pool.shutdown(wait=True, cancel_futures=True)


@contextmanager
def _one_interrupt() -> Iterator[None]:
    """The first Ctrl-C raises KeyboardInterrupt, further ones do nothing: they would break off the wait for the calls
    and leave the pool half closed. In another thread than the main one, and where it is ignored, nothing is changed.
    """

    def interrupted(number: int, frame: FrameType | None) -> None:
        signal.signal(signal.SIGINT, _pass_over)
        raise KeyboardInterrupt

    before = signal.getsignal(signal.SIGINT)
    changed = before is not signal.SIG_IGN and threading.current_thread() is threading.main_thread()
    if changed:
        signal.signal(signal.SIGINT, interrupted)
    try:
        yield
    finally:
        if changed:
            signal.signal(signal.SIGINT, before)


def _pass_over(number: int, frame: FrameType | None) -> None:
    """Unlike SIG_IGN it says nothing of what the user wants of the program (`launch.local.stop_signals`)."""


def _begin(stop: Any) -> None:
    _shared["stop"] = stop
    # The terminal sends Ctrl-C to every process: here it would break the pool's own queues.
    if signal.getsignal(signal.SIGINT) is not signal.SIG_IGN:
        signal.signal(signal.SIGINT, _pass_over)
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    """A worker whose parent was killed would wait for its next call for ever."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)


def _unless_stopped(call: Callable[[Item], Result], item: Item) -> list[Result]:
    """The result, or nothing: the pool hands out one call more than it can take back."""
    return [] if _shared["stop"].is_set() else [call(item)]
