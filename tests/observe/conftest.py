"""A run directory for every kind of storage: a local folder and a bucket of the mock S3 server."""

from pathlib import Path

import pytest

from longspan import storage


@pytest.fixture
def s3_run(s3_bucket: str) -> str:
    """An empty place for a run in a bucket of its own."""
    return storage.join(s3_bucket, "runs/one")


@pytest.fixture(params=["local", "s3"])
def run_uri(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    return str(tmp_path / "run") if request.param == "local" else request.getfixturevalue("s3_run")
