"""The retry loop by itself, with a clock that only moves when it sleeps."""

import random
import time
from collections.abc import Callable

import pytest

from longspan.errors import StorageError
from longspan.storage import RetryPolicy, get_policy, set_policy, use_policy
from longspan.storage.retry import Failure, call_with_retries


class _Clock:
    def __init__(self) -> None:
        self.now_s = 0.0
        self.waits: list[float] = []

    def sleep(self, seconds: float) -> None:
        self.waits.append(seconds)
        self.now_s += seconds


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> _Clock:
    clock = _Clock()
    monkeypatch.setattr(time, "monotonic", lambda: clock.now_s)
    monkeypatch.setattr(time, "sleep", clock.sleep)
    return clock


def _understand(exception: Exception) -> Failure:
    kind = str(exception)
    if kind == "bug":
        return Failure(kind, exception)
    return Failure(kind, StorageError(f"final: {kind}"), is_transient=kind == "busy", is_stale_login=kind == "stale")


def _failing(kinds: list[str]) -> Callable[[], str]:
    """An attempt that fails in these ways, one after the other, and then succeeds."""
    left = list(kinds)

    def attempt() -> str:
        if left:
            raise RuntimeError(left.pop(0))
        return "done"

    return attempt


def _call(kinds: list[str], policy: RetryPolicy, logins: list[None] | None = None) -> str:
    log_in_again = (lambda: None) if logins is None else (lambda: logins.append(None))
    return call_with_retries(
        _failing(kinds), policy=policy, doing="read s3://b/k", understand=_understand, log_in_again=log_in_again
    )


def test_waits_grow_to_their_limit(clock: _Clock) -> None:
    policy = RetryPolicy(budget_s=1e6, first_delay_s=1.0, max_delay_s=20.0)
    waits = []
    for _ in range(50):
        assert _call(["busy"] * 8, policy) == "done"
        waits.append(clock.waits[-8:])
    for wait in waits:
        assert all(0.0 <= seconds <= limit for seconds, limit in zip(wait, [1, 2, 4, 8, 16, 20, 20, 20], strict=True))
    assert len({tuple(wait) for wait in waits}) == 50, "clients that failed together come back at different times"
    assert max(wait[5] for wait in waits) > 10.0


def test_the_defaults_survive_sixty_failures_or_five_minutes(clock: _Clock) -> None:
    """The bar of the fault tests: 60 faults in a row, or 5 minutes, whichever comes first."""
    num_survived = 0
    for _ in range(20):
        start_s = clock.now_s
        try:
            num_survived += _call(["busy"] * 60, RetryPolicy()) == "done"
        except StorageError:
            assert clock.now_s - start_s >= 300.0
    assert num_survived >= 15


def test_the_budget_ends_in_one_error_that_tells_the_story(clock: _Clock) -> None:
    policy = RetryPolicy(budget_s=10.0, first_delay_s=1.0, max_delay_s=1.0)
    with pytest.raises(
        StorageError, match=r"cannot read s3://b/k: gave up after \d+ tries in 10.0 s; last cause: busy"
    ):
        _call(["busy"] * 10_000, policy)
    assert clock.now_s == pytest.approx(10.0)


def test_no_budget_means_one_try(clock: _Clock) -> None:
    with pytest.raises(StorageError, match="gave up after 1 tries"):
        _call(["busy"], RetryPolicy(budget_s=0.0))
    assert clock.waits == []


def test_final_failures_are_not_tried_again(clock: _Clock) -> None:
    with pytest.raises(StorageError, match="final: forbidden") as caught:
        _call(["forbidden"], RetryPolicy())
    assert clock.waits == []
    assert caught.value.__suppress_context__, "the client's traceback is pages long and may show more than it should"


def test_bugs_keep_their_traceback(clock: _Clock) -> None:
    with pytest.raises(RuntimeError, match="bug"):
        _call(["bug"], RetryPolicy())


def test_stale_credentials_are_renewed_once(clock: _Clock) -> None:
    logins: list[None] = []
    assert _call(["busy", "stale", "busy"], RetryPolicy(), logins) == "done"
    assert len(logins) == 1
    with pytest.raises(StorageError, match="final: stale"):
        _call(["stale", "stale"], RetryPolicy(), logins)
    assert len(logins) == 2


def test_waiting_leaves_the_seeded_generator_alone(clock: _Clock) -> None:
    random.seed(7)
    expected = random.Random(7).random()
    _call(["busy"] * 5, RetryPolicy())
    assert random.random() == expected


def test_a_policy_is_set_for_the_process_and_given_back() -> None:
    before, seen = get_policy(), []

    def fail_under_another() -> None:
        with use_policy(RetryPolicy(budget_s=1.0)):
            seen.append(get_policy().budget_s)
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail_under_another()
    assert seen == [1.0]
    assert get_policy() == before
    set_policy(RetryPolicy(budget_s=2.0))
    assert get_policy().budget_s == 2.0
    set_policy(before)


def test_the_deadline_of_a_try_grows_with_its_bytes() -> None:
    policy = RetryPolicy(connect_timeout_s=1.0, read_timeout_s=2.0, min_bytes_per_s=100.0)
    assert policy.attempt_timeout_s(0) == 3.0
    assert policy.attempt_timeout_s(1000) == 13.0
