"""Which process this is, told so that another one of the same machine can say whether it is dead.

A process id alone is given out again: the boot, the namespace of ids (containers of one machine have their own) and the
process's start belong to it. Where the system does not tell them (other than Linux), nothing is ever called dead.
"""

import getpass
import os
import socket
from dataclasses import dataclass
from pathlib import Path

_DEAD = ("Z", "X")  # a zombie only waits for its parent to ask


@dataclass(frozen=True)
class Process:
    """`scope` is one boot and namespace of process ids, `started` the start in clock ticks since the boot; "" and 0
    where the system does not tell.
    """

    host: str
    user: str
    pid: int
    scope: str
    started: int


def this_process() -> Process:
    try:
        user = getpass.getuser()
    except (OSError, KeyError):  # a container's user id without a name
        user = str(os.geteuid())
    found = _state(os.getpid())
    return Process(socket.gethostname(), user, os.getpid(), _scope(), found[1] if found else 0)


def is_dead(process: Process) -> bool:
    """Whether it is certain that the process has ended."""
    if not process.scope or not process.started or process.scope != _scope():
        return False
    found = _state(process.pid)
    if found is not None:
        state, started = found
        return state in _DEAD or started != process.started
    try:
        os.kill(process.pid, 0)
    except ProcessLookupError:
        return True
    except OSError:  # another user's, whom this system does not show
        pass
    return False


def _scope() -> str:
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        return f"{boot} {os.readlink('/proc/self/ns/pid')}"
    except OSError:
        return ""


def _state(pid: int) -> tuple[str, int] | None:
    """State letter and start of the process of this id, None if none is shown."""
    try:
        # The second field is the name, in parentheses, and may hold anything.
        state, *rest = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        return state, int(rest[18])
    except (OSError, ValueError):
        return None
