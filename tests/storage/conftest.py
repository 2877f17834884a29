"""Fixtures of the storage tests: every place that a URI can point to, and retries without long waits."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from longspan.storage import RetryPolicy, use_policy


@pytest.fixture(params=["local", "s3"])
def root(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """An empty folder, once on this machine and once in a store."""
    if request.param == "local":
        return str(tmp_path / "root")
    bucket: str = request.getfixturevalue("s3_bucket")
    return f"{bucket}/root"


@pytest.fixture
def fast() -> RetryPolicy:
    """Waits that are too short to notice, time-outs that a busy machine does not reach."""
    return RetryPolicy(budget_s=30.0, first_delay_s=0.001, max_delay_s=0.01, min_bytes_per_s=1e9)


@pytest.fixture(autouse=True)
def fast_retries(fast: RetryPolicy) -> Iterator[None]:
    with use_policy(fast):
        yield
