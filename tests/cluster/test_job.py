"""`ray job submit` to a cluster begun with `ray start --head`, as a user does it, and the result read back."""

import json
import os
import secrets
import shlex
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from longspan.observe.metrics import read_metrics

pytestmark = pytest.mark.ray

ROOT = Path(__file__).resolve().parents[2]


def free_ports(count: int) -> list[int]:
    sockets = [socket.socket() for _ in range(count)]
    for each in sockets:
        each.bind(("127.0.0.1", 0))
    ports = [each.getsockname()[1] for each in sockets]
    for each in sockets:
        each.close()
    return ports


@pytest.fixture
def head(tmp_path: Path) -> Iterator[tuple[str, dict[str, str]]]:
    """Address of the job server of a cluster of its own, and the environment to submit from."""
    port, dashboard, agent, metrics = free_ports(4)
    environment = {
        **{key: value for key, value in os.environ.items() if key not in ("PYTHONPATH", "RAY_ADDRESS")},
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
        "RAY_AUTH_MODE": "token",
        "RAY_AUTH_TOKEN": secrets.token_hex(32),
    }
    ray = [str(Path(sys.executable).parent / "ray")]
    # A folder of its own: Ray notes the newest cluster in the shared one, and would offer this one when it is gone.
    # A short name, since sockets lie in it.
    folder = tempfile.mkdtemp(prefix="ls-")
    start = [
        *ray, "start", "--head", "--num-cpus=2", f"--port={port}", f"--dashboard-port={dashboard}",
        "--dashboard-host=127.0.0.1", f"--dashboard-agent-listen-port={agent}", f"--metrics-export-port={metrics}",
        "--disable-usage-stats", f"--temp-dir={folder}", "--block",
    ]  # fmt: skip
    log = (tmp_path / "head.log").open("w")
    process = subprocess.Popen(start, env=environment, stdout=log, stderr=subprocess.STDOUT, cwd=tmp_path)
    try:
        yield f"http://127.0.0.1:{dashboard}", environment
    finally:
        kill_all_with(environment["RAY_AUTH_TOKEN"])
        process.wait(timeout=60)
        log.close()
        shutil.rmtree(folder, ignore_errors=True)


def kill_all_with(token: str) -> None:
    """End every process of the cluster at once: they alone carry its token in their environment."""
    for entry in Path("/proc").iterdir():
        try:
            if entry.name.isdigit() and int(entry.name) != os.getpid() and token in (entry / "environ").read_text():
                os.kill(int(entry.name), signal.SIGKILL)
        except (OSError, UnicodeDecodeError):
            continue


def submit(address: str, environment: dict[str, str], *words: str) -> subprocess.CompletedProcess[str]:
    """`ray job submit --working-dir . -- WORDS`, tried again while the head is still starting."""
    import time

    command = [str(Path(sys.executable).parent / "ray"), "job", "submit", "--address", address, "--working-dir", "."]
    deadline = time.time() + 90
    while True:
        done = subprocess.run(
            [*command, "--", *words],
            cwd=ROOT, env=environment, capture_output=True, text=True, timeout=400,
        )  # fmt: skip
        starting = "Failed to connect" in done.stderr or "No available agent" in done.stderr + done.stdout
        if not starting or time.time() > deadline:
            return done
        time.sleep(1)


def test_a_submitted_job_trains_on_the_cluster_and_leaves_its_run(
    head: tuple[str, dict[str, str]], material: Path, tmp_path: Path
) -> None:
    run = tmp_path / "run"
    changes = {
        "model.path": str(material / "model"),
        "data.manifest": str(material / "data"),
        "data.mix.0.weights": "{text: 1.0}",
        "train.steps": "3",
        "train.warmup_steps": "1",
        "evaluate": "{}",
        "output": str(run),
    }
    options = [part for key, value in changes.items() for part in ("--set", f"{key}={value}")]
    # A mistake first, in the same job: another one would cost another start.
    wrong = "python jobs/train.py jobs/recipes/tiny.yaml --set train.stepz=3; echo ended with $?"
    right = shlex.join(["python", "jobs/train.py", "jobs/recipes/tiny.yaml", *options])
    done = submit(*head, "bash", "-c", f"{wrong}; exec {right}")
    assert done.returncode == 0, done.stdout + done.stderr
    said, _, _ = done.stdout.partition("ended with 2")
    assert "train.stepz: unknown key; did you mean 'steps'?" in said
    # Of the mistake, that is: on a busy machine a thread of Ray's own may print one as the training ends.
    assert "Traceback" not in said
    assert "succeeded" in done.stdout
    assert [line["step"] for line in read_metrics(str(run))] == [1, 2, 3]
    assert json.loads((run / "summary.json").read_text())["sequence_parallel"] == 2

    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(run / "checkpoint")
    assert model.config.max_position_embeddings == 1024
