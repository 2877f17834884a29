"""The lease on an output, the protocol alone: one driver holds it, a dead one loses it, one that lost it knows.

Each holder makes a file of the next generation (1, 2, ...); the highest generation holds, and its number and content
are the fencing token. A holder touches its file every quarter of the expiry. A lease may be taken when its file has not
been touched for the expiry (by the store's own clock, `lease_files`), or at once when its holder was a process of this
machine that is dead. Of many takers one makes the file; it then looks again, so that one who was slow sees that others
came before. A file that is gone, replaced, or below another one is a lease that is lost.

Assumed: all clocks run at about the same rate (none is compared with another); a write that has passed `verify` lands
within a quarter of the expiry, which a forced takeover waits for.
"""

import json
import os
import secrets
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass

from longspan.errors import ConfigError, HeldError, LeaseLostError
from longspan.storage import lease_files as files
from longspan.storage.process import Process, is_dead, this_process
from longspan.uri import Location, hide_credentials

EXPIRY_S = 60.0
_VARIABLE = "LONGSPAN_LEASE_EXPIRY_S"
_MAX_TRIES = 100


@dataclass(frozen=True)
class Holder:
    """Who holds a lease, as its file says; never changed after it was made.

    Attributes:
        what: what is done to the output ("train").
        command: the command line, without credentials.
        since: when the lease was taken, UTC, for people.
        nonce: tells this holder from all others.
        expiry_s: seconds without a sign of life after which the lease may be taken.
        process: host, process id and what makes it unique.
    """

    what: str
    command: str
    since: str
    nonce: str
    expiry_s: float
    process: Process

    def __str__(self) -> str:
        where = f"{self.process.user}@{self.process.host}, pid {self.process.pid}"
        return f"'{self.command or self.what}' ({where}) since {self.since}"


@dataclass(frozen=True)
class Lease:
    """A lease as its holder knows it; plain data, so that workers on other machines can `verify` it too."""

    output: Location
    generation: int
    content: bytes
    expiry_s: float

    @property
    def interval_s(self) -> float:
        """Seconds between two signs of life; what a write that has begun may take at most."""
        return self.expiry_s / 4


@dataclass(frozen=True)
class Seen:
    """The lease that is there: its generation, content, and seconds since its holder's last sign of life."""

    generation: int
    content: bytes
    age_s: float

    @property
    def holder(self) -> Holder | None:
        """None where the file is damaged, or its maker has not finished it."""
        try:
            values = json.loads(self.content)
            return Holder(**{**values, "process": Process(**values["process"])})
        except (ValueError, TypeError, KeyError):
            return None

    @property
    def expiry_s(self) -> float:
        return EXPIRY_S if self.holder is None else float(self.holder.expiry_s)

    @property
    def is_over(self) -> bool:
        """Whether anyone may take it."""
        return self.age_s >= self.expiry_s or (self.holder is not None and is_dead(self.holder.process))


def configured_expiry_s() -> float:
    """Seconds from the environment, else a minute. Raises ConfigError for something else."""
    text = os.environ.get(_VARIABLE) or str(EXPIRY_S)
    try:
        seconds = float(text)
    except ValueError:
        seconds = 0.0
    if not 1 <= seconds < float("inf"):
        raise ConfigError(f"{_VARIABLE}={text!r} is not a time; write seconds, 1 or more, or unset it")
    return seconds


def new_holder(what: str, command: str) -> Holder:
    """This process as a holder that is different from every other."""
    now = time.strftime("%Y-%m-%d %H:%M:%S UTC", time.gmtime())
    command = hide_credentials(" ".join(command.split()))
    return Holder(what, command[:200], now, secrets.token_hex(8), configured_expiry_s(), this_process())


def look(output: Location) -> Seen | None:
    """The lease on `output` as it is now, None if nobody has one."""
    for _ in range(_MAX_TRIES):
        found = files.ages(output)
        if not found:
            return None
        generation = max(found)
        content = files.read(output, generation)
        if content is not None:
            return Seen(generation, content, found[generation])
    raise HeldError(f"output: {output.uri} is taken and let go again and again; try again")


def refuse_held(output: Location, seen: Seen, take_over: bool = True) -> HeldError:
    """The error that names the holder; with `take_over` it says how to take the lease."""
    who = "another driver" if seen.holder is None else str(seen.holder)
    mend = "; wait for it, or stop it; --take-over stops it before its next write" if take_over else ""
    return HeldError(f"output: {output.uri} is in use by {who}, last heartbeat {max(seen.age_s, 0):.0f} s ago{mend}")


def acquire(
    output: Location, holder: Holder, take_over: bool = False, wait: Callable[[float], None] = time.sleep
) -> Lease:
    """Take the lease on `output` for `holder`.

    Args:
        take_over: take it also from a holder that lives, from the one that is there now and no other.
        wait: called with the seconds that such a holder's last write may take.

    Raises:
        HeldError: someone else holds it, or has been quicker.
    """
    content = json.dumps(asdict(holder)).encode()
    victim = look(output) if take_over else None
    for _ in range(_MAX_TRIES):
        seen = look(output)
        if seen is not None and not _may_take(output, seen, victim):
            raise refuse_held(output, seen)
        generation = seen.generation + 1 if seen else 1
        if not files.create(output, generation, content):
            continue  # someone was quicker: is it theirs now?
        lease = Lease(output, generation, content, holder.expiry_s)
        # Others may have come, and gone, since the look: then it was not from `seen` that the lease was taken.
        if not is_ours(lease) or (seen is not None and files.read(output, seen.generation) != seen.content):
            _remove(lease)
            continue
        _remove_below(lease)
        if seen is not None and not seen.is_over:
            wait(seen.expiry_s / 4)
        return lease
    raise HeldError(f"output: {output.uri} is taken and let go again and again; try again")


def _may_take(output: Location, seen: Seen, victim: Seen | None) -> bool:
    if victim is not None and victim.content == seen.content:
        return True
    if not seen.is_over:
        return False
    # Age and content were read one after the other: between the two another holder may have come.
    again = look(output)
    return again is not None and again.content == seen.content and again.is_over


def is_ours(lease: Lease) -> bool:
    """Whether the lease's file is there, unchanged, and the highest."""
    generations = files.generations(lease.output)
    if not generations or generations[-1] != lease.generation:
        return False
    return files.read(lease.output, lease.generation) == lease.content


def verify(lease: Lease) -> None:
    """Raise LeaseLostError, which says who took it, if the lease is not held any more."""
    if not is_ours(lease):
        raise lost(lease)


def lost(lease: Lease) -> LeaseLostError:
    seen = look(lease.output)
    by = f" by {seen.holder}" if seen is not None and seen.holder is not None else ""
    if seen is None:
        by = ", by one that has ended since, or the output was removed"
    return LeaseLostError(
        f"output: {lease.output.uri} was taken over{by}; this driver writes nothing more there and ends"
    )


def renew(lease: Lease) -> None:
    """Give a sign of life. Raises LeaseLostError if the lease is not held any more, StorageError."""
    verify(lease)
    if not files.touch(lease.output, lease.generation, lease.content):
        raise lost(lease)
    if lease.output.is_remote and not is_ours(lease):
        _remove(lease)  # it was gone, and the touch has made it anew
        raise lost(lease)


def sweep(output: Location) -> None:
    """Remove what dead holders have left, for one who holds the folder around it.

    Raises:
        HeldError: a living one is there.
    """
    seen = look(output)
    if seen is None:
        return
    if not seen.is_over:
        raise refuse_held(output, seen, take_over=False)
    for generation in files.generations(output):
        files.remove(output, generation)
    files.clear(output)


def release(lease: Lease) -> None:
    """Let go: what was below first, the own file last, so that none that comes after is touched."""
    if is_ours(lease):
        _remove_below(lease)
        _remove(lease)
    files.clear(lease.output)


def _remove(lease: Lease) -> None:
    if files.read(lease.output, lease.generation) == lease.content:
        files.remove(lease.output, lease.generation)


def _remove_below(lease: Lease) -> None:
    for generation in files.generations(lease.output):
        if generation < lease.generation:
            files.remove(lease.output, generation)
