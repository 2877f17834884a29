"""The retry loop by itself, with a clock that only moves when it sleeps."""

import random
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from longspan.errors import ConfigError, StorageError
from longspan.storage import RetryPolicy, get_policy, set_policy, use_policy
from longspan.storage.retry import Failure, call_with_retries

PLATFORM = Path(__file__).parents[2] / "platform"


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


@pytest.fixture
def no_policy(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """As in a process that has just begun, with nothing in the environment."""
    before = get_policy()
    for name in _VARIABLES:
        monkeypatch.delenv(name, raising=False)
    set_policy(None)
    yield
    set_policy(before)


_VARIABLES = {
    "LONGSPAN_RETRY_BUDGET_S": "budget_s",
    "LONGSPAN_CONNECT_TIMEOUT_S": "connect_timeout_s",
    "LONGSPAN_READ_TIMEOUT_S": "read_timeout_s",
}


@pytest.mark.parametrize("name", _VARIABLES)
def test_the_environment_changes_the_defaults(name: str, no_policy: None, monkeypatch: pytest.MonkeyPatch) -> None:
    assert get_policy() == RetryPolicy()
    monkeypatch.setenv(name, "7.5")
    assert get_policy() == replace(RetryPolicy(), **{_VARIABLES[name]: 7.5})
    monkeypatch.setenv(name, "")
    assert get_policy() == RetryPolicy(), "empty means unset"
    for text in ("soon", "nan", "inf", "-1", "1e999", "5 s"):
        monkeypatch.setenv(name, text)
        with pytest.raises(ConfigError, match=f"^{name}='{text}' is not a time; write seconds, .*, or unset it$"):
            get_policy()
    with use_policy(RetryPolicy(budget_s=1.0)):
        assert get_policy().budget_s == 1.0, "what the process sets goes before"
    with pytest.raises(ConfigError):
        get_policy()


def test_no_time_at_all_is_a_budget_but_no_timeout(no_policy: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LONGSPAN_RETRY_BUDGET_S", "0")
    assert get_policy().budget_s == 0.0
    monkeypatch.setenv("LONGSPAN_READ_TIMEOUT_S", "0")
    with pytest.raises(ConfigError, match="LONGSPAN_READ_TIMEOUT_S='0' is not a time; write seconds, more than 0"):
        get_policy()


def test_a_new_process_behaves_as_the_environment_says(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL_S3", "http://127.0.0.1:9")
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "mock-key-id")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "mock-secret-key")
    monkeypatch.setenv("LONGSPAN_RETRY_BUDGET_S", "0")
    code = "from longspan import storage; storage.exists('s3://bucket/a')"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=PLATFORM)
    assert done.returncode == 1
    assert "cannot read s3://bucket/a: gave up after 1 tries" in done.stderr


def test_the_deadline_of_a_try_grows_with_its_bytes() -> None:
    policy = RetryPolicy(connect_timeout_s=1.0, read_timeout_s=2.0, min_bytes_per_s=100.0)
    assert policy.attempt_timeout_s(0) == 3.0
    assert policy.attempt_timeout_s(1000) == 13.0
