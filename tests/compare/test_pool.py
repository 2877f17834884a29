"""Real processes: errors come back, deaths are told, and nothing is left behind when the user stops."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from longspan.compare.pool import in_processes
from longspan.errors import LaunchError, LongspanError
from tests.compare.processes import half

ROOT = Path(__file__).parents[2]


def test_what_one_process_finds_wrong_leaves_the_others_alone() -> None:
    found = dict(in_processes(half, [2, 3, 4], 2))
    assert (found[2], found[4]) == (1, 2)
    assert isinstance(found[3], LongspanError)
    assert str(found[3]) == "3 is odd"


def test_a_process_that_dies_is_reported() -> None:
    with pytest.raises(LaunchError, match=r"a run's process died .* --set workers=1"):
        list(in_processes(half, [0, 2], 2))


def start(folder: Path, *, ignores_interrupts: bool = False) -> "subprocess.Popen[bytes]":
    """Two workers on six calls that leave a file when they begin and one when they end; returns once both began."""
    command = [sys.executable, "-m", "tests.compare.processes", str(folder)]
    if ignores_interrupts:
        command = ["bash", "-c", "trap '' INT; exec \"$@\"", "bash", *command]
    paths = os.pathsep.join([str(ROOT), str(ROOT / "platform"), os.environ.get("PYTHONPATH", "")])
    process = subprocess.Popen(command, cwd=ROOT, env=os.environ | {"PYTHONPATH": paths}, start_new_session=True)
    while len(list(folder.glob("*.begun"))) < 2:
        assert process.poll() is None
        time.sleep(0.05)
    return process


def alive(session: int) -> bool:
    try:
        os.killpg(session, 0)
    except ProcessLookupError:
        return False
    return True


def test_an_interrupt_lets_what_runs_end_and_begins_nothing_else(tmp_path: Path) -> None:
    process = start(tmp_path)
    # Twice: the second comes while the first is being obeyed.
    for _ in range(2):
        os.killpg(process.pid, signal.SIGINT)
        time.sleep(0.2)
    (tmp_path / "go").touch()
    assert process.wait(timeout=60) == 130
    assert {path.stem for path in tmp_path.glob("*.begun")} == {path.stem for path in tmp_path.glob("*.ended")}
    assert len(list(tmp_path.glob("*.begun"))) == 2


def test_a_background_job_is_not_interrupted(tmp_path: Path) -> None:
    """Where the shell has it ignore Ctrl-C, as in `command &` of a script, all calls are made."""
    process = start(tmp_path, ignores_interrupts=True)
    os.killpg(process.pid, signal.SIGINT)
    (tmp_path / "go").touch()
    assert process.wait(timeout=60) == 0
    assert len(list(tmp_path.glob("*.ended"))) == 6


def test_workers_end_with_a_parent_that_is_killed(tmp_path: Path) -> None:
    process = start(tmp_path)
    process.kill()
    process.wait()
    deadline = time.monotonic() + 60
    while alive(process.pid) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not alive(process.pid)
    assert not list(tmp_path.glob("*.ended"))
