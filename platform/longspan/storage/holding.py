"""Holding an output while a block runs: its lease taken, kept alive by a thread, checked before every write, let go.

`hold` is what drivers call. Outputs below a held one (a pipeline's stages, a sweep's trials) are covered by its lease.
`carried` takes the leases of this process along to a worker, whose writes are then checked as the driver's are.
"""

import logging
import os
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from contextvars import ContextVar
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from longspan.errors import LeaseLostError, LongspanError, StorageError
from longspan.storage import guard, lease_files
from longspan.storage.lease import (
    Lease,
    acquire,
    look,
    new_holder,
    refuse_held,
    release,
    renew,
    sweep,
    verify,
)
from longspan.uri import Location, Uri, parse

_logger = logging.getLogger(__name__)
_CLOCK = getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC)  # goes on while the machine sleeps


class _Held:
    """A lease in use. A class because thread and writers share when it was seen last, and that it is lost."""

    def __init__(self, lease: Lease, beats: bool) -> None:
        self.lease = lease
        self._beats = beats
        self._lock = threading.Lock()
        self._seen = self._renewed = time.clock_gettime(_CLOCK)
        self._lost: str | None = None

    def check(self, max_age_s: float) -> None:
        """Raise LeaseLostError if it is lost. After a long standstill it is renewed before anything is written."""
        now = time.clock_gettime(_CLOCK)
        if self._lost is None and self._beats and now - self._renewed >= self.lease.expiry_s / 2:
            self.beat()
        elif self._lost is None and now - self._seen >= max_age_s:
            self._do(verify)
        if self._lost is not None:
            raise LeaseLostError(self._lost)

    def beat(self) -> None:
        """Give a sign of life. Raises LeaseLostError."""
        now = time.clock_gettime(_CLOCK)
        self._do(renew)
        self._renewed = now

    def _do(self, action: Callable[[Lease], None]) -> None:
        now = time.clock_gettime(_CLOCK)
        try:
            with self._lock:
                action(self.lease)
        except LeaseLostError as error:
            self._lost = self._lost or str(error)
            raise
        self._seen = now


_current: ContextVar[tuple[_Held, ...]] = ContextVar("held", default=())
_take_over: ContextVar[bool] = ContextVar("take_over", default=False)


@contextmanager
def taking_over(wanted: bool) -> Iterator[None]:
    """Have `hold` take outputs from drivers that live too: what `--take-over` says."""
    before = _take_over.set(wanted)
    try:
        yield
    finally:
        _take_over.reset(before)


@contextmanager
def hold(uri: Uri, what: str) -> Iterator[None]:
    """Be the one driver that writes below `uri` (local or s3://) while the block runs.

    Below an output that is held already nothing is taken, and what dead drivers have left there is cleared away.

    Args:
        what: what is done there, for whoever comes second ("train").

    Raises:
        HeldError: another driver holds the output, or one around it.
        LeaseLostError: the output was taken over while the block ran; nothing was written after that.
        StorageError: the output cannot be written.
    """
    output = parse(uri)
    outer = next((held for held in _current.get() if held.lease.output.contains(output)), None)
    if outer is not None:
        if outer.lease.output != output:
            sweep(output)
        yield
        return
    _refuse_around(output)
    absent = _absent_folders(output)
    try:
        lease = acquire(output, new_holder(what, _command()), _take_over.get())
        held = _Held(lease, beats=True)
        try:
            with _entered(held), _beating(held):
                yield
        except Exception as error:
            _raise_lost(lease, error)
            raise
        finally:
            _let_go(lease)
    finally:
        with suppress(OSError):  # whoever is refused later leaves nothing behind
            for folder in absent:
                os.rmdir(folder)


def current_leases() -> tuple[Lease, ...]:
    """Those that this thread holds, for `adopted` elsewhere."""
    return tuple(held.lease for held in _current.get())


@contextmanager
def adopted(leases: tuple[Lease, ...]) -> Iterator[None]:
    """Write in the name of a driver elsewhere: every write below its outputs is checked, and `hold` finds it covered.

    Raises:
        LeaseLostError: one of them is lost already.
    """
    with ExitStack() as stack:
        for lease in leases:
            if lease not in current_leases():
                held = _Held(lease, beats=False)
                verify(lease)
                stack.enter_context(_entered(held))
        yield


@dataclass(frozen=True)
class Carried:
    """`call` under the leases of the process that made this; picklable if `call` is."""

    call: Callable[..., Any]
    leases: tuple[Lease, ...]

    def __call__(self, *arguments: Any, **options: Any) -> Any:
        with adopted(self.leases):
            return self.call(*arguments, **options)


def carried(call: Callable[..., Any]) -> Carried:
    """`call` as a function that may run in another process, or on another machine, in this driver's name."""
    return Carried(call, current_leases())


@contextmanager
def _entered(held: _Held) -> Iterator[None]:
    before = _current.set((*_current.get(), held))
    try:
        with guard.guarded(held.lease.output, held.check):
            yield
    finally:
        _current.reset(before)


@contextmanager
def _beating(held: _Held) -> Iterator[None]:
    stop = threading.Event()
    thread = threading.Thread(target=_beat, args=(held, stop), name="longspan-lease", daemon=True)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join(timeout=held.lease.interval_s)


def _beat(held: _Held, stop: threading.Event) -> None:
    interval_s = wait_s = held.lease.interval_s
    while not stop.wait(wait_s):
        wait_s = interval_s
        try:
            with lease_files.quick_requests(interval_s):
                held.beat()
        except LeaseLostError as error:
            _logger.error("%s", error)
            return
        except LongspanError as error:
            wait_s = interval_s / 4
            _logger.warning("no heartbeat for %s (%s); the next in %.0f s", held.lease.output.uri, error, wait_s)


def _raise_lost(lease: Lease, error: Exception) -> None:
    """Whatever a lost lease has led to (workers that were refused, a commit that failed), the lease is the cause."""
    if isinstance(error, LeaseLostError):
        return
    try:
        verify(lease)
    except LeaseLostError as cause:
        raise cause from error
    except StorageError:
        pass


def _let_go(lease: Lease) -> None:
    try:
        release(lease)
    except StorageError as error:
        _logger.warning("%s: its lease is not released (%s); it ends by itself", lease.output.uri, error)


def _refuse_around(output: Location) -> None:
    """Raises HeldError if a folder around the output is held, as a pipeline's is around its stages."""
    path = Path("/", output.path)
    for folder in path.parents:
        around = Location(output.bucket, str(folder).lstrip("/") if output.is_remote else str(folder))
        with suppress(StorageError):  # not ours to read, so not ours to write
            seen = look(around)
            if seen is not None and not seen.is_over:
                raise refuse_held(around, seen, take_over=False)


def _absent_folders(output: Location) -> list[Path]:
    """The local folders that are to be made for the output, from it upwards."""
    if output.is_remote:
        return []
    path = Path(output.path)
    return [folder for folder in (path, *path.parents) if not folder.exists()]


def _command() -> str:
    return " ".join([os.path.basename(sys.argv[0]), *sys.argv[1:]])
