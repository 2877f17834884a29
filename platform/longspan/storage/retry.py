"""One retry policy for every request to an object store: how long to go on, and when to stop at once.

The client's own retries are switched off (`client.py`), so that the budget means what it says; only aiohttp still
repeats a request once when its connection dies.

Without a `set_policy` the policy of a process is the defaults, changed by three environment variables (seconds):
LONGSPAN_RETRY_BUDGET_S, LONGSPAN_CONNECT_TIMEOUT_S and LONGSPAN_READ_TIMEOUT_S. Ray workers on the driver's machine
inherit them; on other machines, name them in the runtime environment's `env_vars`. `set_policy` is for one process.
"""

import logging
import math
import os
import random
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TypeVar

from longspan.errors import ConfigError, StorageError

_LOG = logging.getLogger(__name__)
_QUIET_TRIES = 3  # a store that asks to slow down now and then is no news
_RESULT = TypeVar("_RESULT")
# The system's generator: waiting must not advance one that a run samples from, nor repeat itself after a fork.
_JITTER = random.SystemRandom()


@dataclass(frozen=True, slots=True, kw_only=True)
class RetryPolicy:
    """When a request counts as failed, and for how long it is tried again. Times in seconds."""

    budget_s: float = 300.0
    """No new try starts later than this after the first. Each request (one part of a large object) has its own."""
    first_delay_s: float = 0.2
    """Upper end of the first wait; it doubles with every try. A wait is drawn uniformly below its upper end."""
    max_delay_s: float = 8.0
    """The upper end of a wait grows no further than this."""
    connect_timeout_s: float = 10.0
    """For one connection to be made."""
    read_timeout_s: float = 30.0
    """Between two pieces of an answer; longer means that the connection has stalled."""
    min_bytes_per_s: float = 65536.0
    """A transfer slower than this (after `read_timeout_s` of grace) is cut and tried again on a new connection."""

    def attempt_timeout_s(self, num_bytes: int) -> float:
        """How long one try that moves `num_bytes` may take."""
        return self.connect_timeout_s + self.read_timeout_s + num_bytes / self.min_bytes_per_s


@dataclass(frozen=True, slots=True)
class Failure:
    """What one failed try means. `reason` is one line, free of credentials; `error` is what to raise if it is final.

    An `error` that is the exception itself is no failure of the store but a bug, and goes up as it is.
    """

    reason: str
    error: Exception
    is_transient: bool = False
    is_stale_login: bool = False


_VARIABLES = {
    "budget_s": "LONGSPAN_RETRY_BUDGET_S",
    "connect_timeout_s": "LONGSPAN_CONNECT_TIMEOUT_S",
    "read_timeout_s": "LONGSPAN_READ_TIMEOUT_S",
}
_policy: RetryPolicy | None = None  # None = the one that the environment says


def get_policy() -> RetryPolicy:
    """The policy of this process. Raises ConfigError for an environment variable that is no time."""
    return _policy_of_environment() if _policy is None else _policy


def _policy_of_environment() -> RetryPolicy:
    return RetryPolicy(**{field: _seconds(name) for field, name in _VARIABLES.items() if os.environ.get(name)})


def _seconds(name: str) -> float:
    text = os.environ[name]
    try:
        seconds = float(text)
    except ValueError:
        seconds = math.nan
    least = "0 or more" if name == _VARIABLES["budget_s"] else "more than 0"
    if not (math.isfinite(seconds) and (seconds > 0 or (seconds == 0 and least == "0 or more"))):
        raise ConfigError(f"{name}={text!r} is not a time; write seconds, {least}, or unset it")
    return seconds


def set_policy(policy: RetryPolicy | None) -> None:
    """Make `policy` the one of this process, for all its threads; None gives it back to the environment."""
    global _policy
    _policy = policy


@contextmanager
def use_policy(policy: RetryPolicy) -> Iterator[None]:
    """Set `policy` for the duration of a `with` block (`longspan doctor` and tests want to fail fast)."""
    before = _policy
    set_policy(policy)
    try:
        yield
    finally:
        set_policy(before)


def call_with_retries(
    attempt: Callable[[], _RESULT],
    *,
    policy: RetryPolicy,
    doing: str,
    understand: Callable[[Exception], Failure],
    log_in_again: Callable[[], None],
) -> _RESULT:
    """Call `attempt` until it succeeds, fails for good, or the budget of `policy` is spent.

    `doing` ("read s3://b/k") goes into log lines and the final error. `understand` says what an exception means.
    Credentials that were refused are fetched anew once, through `log_in_again`. Raises StorageError.
    """
    start_s = time.monotonic()
    has_new_login = False
    num_tries = 0
    while True:
        num_tries += 1
        try:
            return attempt()
        except Exception as exception:
            failure = understand(exception)
            if failure.error is exception:
                raise
        if failure.is_stale_login and not has_new_login:
            has_new_login = True
            log_in_again()
            continue
        if not failure.is_transient:
            raise failure.error from None  # its text says all; the client's own traceback is pages long
        left_s = policy.budget_s - (time.monotonic() - start_s)
        if left_s <= 0:
            raise StorageError(
                f"cannot {doing}: gave up after {num_tries} tries in {policy.budget_s - left_s:.1f} s; "
                f"last cause: {failure.reason}"
            ) from None
        limit_s = min(policy.max_delay_s, policy.first_delay_s * 2.0 ** min(num_tries - 1, 30))
        delay_s = min(left_s, _JITTER.uniform(0.0, limit_s))
        level = logging.INFO if num_tries < _QUIET_TRIES else logging.WARNING
        _LOG.log(level, "cannot %s yet (try %d): %s; next in %.1f s", doing, num_tries, failure.reason, delay_s)
        time.sleep(delay_s)
