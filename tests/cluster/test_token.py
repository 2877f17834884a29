"""A cluster that wants a token says so in one line, whatever of it is missing."""

import json
import os
import secrets
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from longspan.errors import ConfigError
from longspan.launch.cluster import refuse_without_token
from tests.cluster.test_job import free_ports, kill_all_with

pytestmark = pytest.mark.ray


@pytest.fixture(scope="module")
def head(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, str]]:
    """Address and token of a cluster without a dashboard."""
    (port,) = free_ports(1)
    token = secrets.token_hex(32)
    environment = {**os.environ, "RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": token}
    environment.pop("RAY_ADDRESS", None)
    folder = tempfile.mkdtemp(prefix="ls-")
    start = [
        *(sys.executable, "-m", "ray.scripts.scripts", "start", "--head", "--num-cpus=1", f"--port={port}"),
        *("--include-dashboard=false", "--disable-usage-stats", f"--temp-dir={folder}", "--block"),
    ]
    with (tmp_path_factory.mktemp("head") / "head.log").open("w") as log:
        process = subprocess.Popen(start, env=environment, stdout=log, stderr=subprocess.STDOUT)
        try:
            address = f"127.0.0.1:{port}"
            wait_until_ready(address, environment)
            yield address, token
        finally:
            kill_all_with(token)
            process.wait(timeout=60)
            shutil.rmtree(folder, ignore_errors=True)


def wait_until_ready(address: str, environment: dict[str, str]) -> None:
    health = [sys.executable, "-m", "ray.scripts.scripts", "health-check", "--address", address]
    deadline = time.monotonic() + 90
    while subprocess.run(health, env=environment, capture_output=True, check=False).returncode:
        assert time.monotonic() < deadline, "the head did not start"
        time.sleep(0.5)


HOW = "set RAY_AUTH_MODE=token, and RAY_AUTH_TOKEN (or ~/.ray/auth_token) to the cluster's"


def test_a_command_without_the_token_ends_in_one_line(head: tuple[str, str], tmp_path: Path) -> None:
    address, _ = head
    (tmp_path / "a.txt").write_text("some text of a corpus, and more of it " * 50)
    corpus: dict[str, object] = {"output": str(tmp_path / "out"), "tokenizer": {"train_vocab_size": 270}}
    corpus["sources"] = [{"name": "a", "paths": [str(tmp_path / "a.txt")]}]
    (tmp_path / "corpus.yaml").write_text(json.dumps(corpus))
    environment = {**os.environ, "HOME": str(tmp_path), "PYTHONPATH": os.pathsep.join(sys.path)}
    for name in ("RAY_AUTH_MODE", "RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH", "RAY_ADDRESS"):
        environment.pop(name, None)
    command = [sys.executable, "-m", "longspan.cli", "prepare", str(tmp_path / "corpus.yaml"), "--address", address]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False, timeout=120)
    assert done.returncode == 2
    lines = done.stderr.strip().splitlines()
    assert lines[-1].endswith(f"--address: the Ray cluster at '{address}' wants a token, and none is given; {HOW}")
    assert "Unauthenticated" not in done.stderr
    assert "Traceback" not in done.stderr


def test_another_token_is_told_from_none(head: tuple[str, str], monkeypatch: pytest.MonkeyPatch) -> None:
    address, token = head
    monkeypatch.setenv("RAY_AUTH_MODE", "token")
    monkeypatch.setenv("RAY_AUTH_TOKEN", token)
    refuse_without_token(address, "parallel.address")
    monkeypatch.setenv("RAY_AUTH_TOKEN", secrets.token_hex(32))
    with pytest.raises(ConfigError, match=r"^parallel\.address: the Ray cluster at .* wants a token, and the one that"):
        refuse_without_token(address, "parallel.address")


def test_a_mode_without_a_token_is_said_before_ray_ends_the_process(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("RAY_AUTH_MODE", "token")
    monkeypatch.setenv("HOME", str(tmp_path))
    for name in ("RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH"):
        monkeypatch.delenv(name, raising=False)
    with pytest.raises(
        ConfigError, match=r"^--address: RAY_AUTH_MODE is token, but no token is given; set RAY_AUTH_MODE"
    ):
        refuse_without_token("auto", "--address")
