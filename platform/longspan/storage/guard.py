"""No write below an output that this process has lost: every change of `local` and `s3` passes here first.

`hold` says what is held; a write elsewhere is nobody's business and costs a look into an empty table.
"""

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from longspan.uri import Location

_lock = threading.Lock()
_held: list[tuple[Location, Callable[[float], None]]] = []


def check(location: Location, max_age_s: float = 0.0) -> None:
    """Raise LeaseLostError if `location` lies below an output that was held by this process and no longer is.

    Args:
        max_age_s: how long ago the lease may have been seen last, where asking each time would cost too much.
    """
    for root, check_lease in tuple(_held):
        if root.contains(location):
            check_lease(max_age_s)


@contextmanager
def guarded(root: Location, check_lease: Callable[[float], None]) -> Iterator[None]:
    """Have `check_lease` called before every write below `root`, in all threads of this process."""
    entry = (root, check_lease)
    with _lock:
        _held.append(entry)
    try:
        yield
    finally:
        with _lock:
            _held.remove(entry)
