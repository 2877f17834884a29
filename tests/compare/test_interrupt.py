"""A comparison that the user stops in mid-run and starts again is the comparison that nobody stopped."""

import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import yaml

from longspan.compare.run import run_comparison
from longspan.config.compare import load_comparison
from longspan.config.load import to_yaml
from tests.compare.material import values
from tests.compare.test_run import small

ROOT = Path(__file__).parents[2]
LONG = {"budget": {"steps": 120}, "seeds": [3], "workers": 1, "claims": []}


def compare(file: Path, output: Path) -> "subprocess.Popen[str]":
    program = "from longspan.cli import app; app()"
    command = [sys.executable, "-c", program, "compare", str(file), "--output", str(output)]
    environment = os.environ | {"PYTHONPATH": str(ROOT / "platform"), "OMP_NUM_THREADS": "1"}
    return subprocess.Popen(command, env=environment, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)


def finish(file: Path, output: Path) -> dict[str, Any]:
    """In this process, which has loaded already what another would have to."""
    return run_comparison(load_comparison(file, [f"output={output}"]), lambda line: None)


def test_stopped_in_mid_run_it_comes_to_the_same_results(tmp_path: Path) -> None:
    asked = small(tmp_path, methods=values()["methods"][1:], **LONG)
    recipe = asked.recipe | {"train": asked.recipe["train"] | {"save_every": 10}}
    file = tmp_path / "compare.yaml"
    file.write_text(yaml.safe_dump(yaml.safe_load(to_yaml(asked.model_copy(update={"recipe": recipe})))))
    whole = finish(file, tmp_path / "whole")

    # The same corpus; what is stopped is a run.
    shutil.copytree(tmp_path / "whole" / "data", tmp_path / "stopped" / "data")
    stopped = compare(file, tmp_path / "stopped")
    saved = tmp_path / "stopped" / "runs" / "short" / "seed-3" / "checkpoints"
    until = time.monotonic() + 120
    while not any(saved.glob("*")) and stopped.poll() is None and time.monotonic() < until:
        time.sleep(0.005)
    stopped.send_signal(signal.SIGINT)
    printed = stopped.communicate()[0]
    assert stopped.returncode == 130, printed
    assert "the same command resumes" in printed
    assert not (tmp_path / "stopped" / "runs" / "short" / "seed-3" / "comparison.json").exists()

    again = finish(file, tmp_path / "stopped")
    for name, method in whole["methods"].items():
        assert again["methods"][name]["metrics"] == method["metrics"]
        assert again["methods"][name]["loss_by_position"] == method["loss_by_position"]
