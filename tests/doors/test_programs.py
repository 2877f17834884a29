"""Mistakes as a user makes them, in processes: the entry points, what is loaded by then, and who may write."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from longspan.errors import ConfigError
from longspan.storage import check_output

ROOT = Path(__file__).parents[2]
HEAVY = ("torch", "ray", "transformers", "deepspeed", "pyarrow", "pandas", "numpy", "matplotlib", "s3fs", "wandb")
EARLY = (
    *(
        "train recipe.yaml --set train.stepz=3",
        "plan recipe.yaml --set train.stepz=3",
        "recipe show recipe.yaml --set x",
    ),
    *("run pipeline.yaml --set stages.0.train.stepz=3", "recipe stages pipeline.yaml --set seed=x", "report gs://x/y"),
    *("prepare corpus.yaml --set sources.0.type=csv", "sweep sweep.yaml --set mode=best", "demo --output gs://x/y"),
    *("sweep sweep.yaml --set space={train.stepz:{type:grid,values:[1]}}", "merge a gs://x/y --output o"),
    *("compare compare.yaml --set budget={}", "impact gs://x/y --model m --output o --window 64"),
    *("evaluate m --manifest d --source s --lengths x", "evaluate m --manifest gs://x --source s --lengths 64"),
)
PROGRAM = f"""
import sys
from longspan.cli import main
for words in {EARLY!r}:
    sys.argv = ["longspan", *words.split()]
    try:
        main()
    except SystemExit as ended:
        assert ended.code == 2, (words, ended.code)
print([name for name in {HEAVY!r} if name in sys.modules])
"""


def run(command: list[str], folder: Path) -> "subprocess.CompletedProcess[str]":
    environment = {**os.environ, "PYTHONPATH": str(ROOT / "platform"), "HF_HUB_OFFLINE": "1"}
    return subprocess.run(command, capture_output=True, text=True, cwd=folder, env=environment)


def test_a_mistake_in_a_file_or_an_argument_is_found_before_anything_heavy_is_loaded(folder: Path) -> None:
    """So a typo is answered in a fraction of a second of CPU."""
    ended = run([sys.executable, "-c", PROGRAM], folder)
    assert (ended.returncode, ended.stdout) == (0, "[]\n"), ended.stderr
    assert len(ended.stderr.splitlines()) == len(EARLY), ended.stderr
    assert all(line.startswith("longspan: ") for line in ended.stderr.splitlines())


@pytest.mark.parametrize(
    ("words", "text"),
    [
        ("recipe.yaml --set train.stepz=3", "recipe.yaml: train.stepz: unknown key; did you mean 'steps'?"),
        ("pipeline.yaml --set stages.0.train.stepz=3", "stages.0.train.stepz: unknown key; did you mean 'steps'?"),
        ("corpus.yaml", "corpus.yaml: this is a corpus, not a recipe; give it to `longspan prepare`"),
        ("none.yaml", "none.yaml: no such file; give the path of a YAML file"),
        ("binary", "binary: not valid YAML"),
        ("recipe.yaml --output s3:/bucket/x", "--output: s3:/bucket/x: a scheme ends in '://'"),
        ("", "missing argument 'RECIPE'; see longspan train --help"),
    ],
)
def test_the_entry_point_of_jobs(folder: Path, words: str, text: str) -> None:
    ended = run([sys.executable, str(ROOT / "jobs" / "train.py"), *words.split()], folder)
    assert (ended.returncode, ended.stdout) == (2, "")
    assert ended.stderr.startswith("longspan: ")
    assert text in ended.stderr
    assert ended.stderr.count("\n") == 1


def test_the_program_and_the_module(folder: Path) -> None:
    for program in ([str(Path(sys.executable).parent / "longspan")], [sys.executable, "-m", "longspan.cli"]):
        ended = run([*program, "recipe", "sho"], folder)
        said = "longspan: no such command 'sho'. Did you mean 'show'?; see longspan recipe --help\n"
        assert (ended.returncode, ended.stdout, ended.stderr) == (2, "", said)


def test_a_place_of_another_user(tmp_path: Path) -> None:
    """As nobody where the tests are root's, to whom nothing is forbidden."""
    (tmp_path / "open").mkdir(mode=0o755)
    (tmp_path / "shut").mkdir(mode=0o555)
    is_root = os.geteuid() == 0
    if is_root:
        os.seteuid(65534)
    try:
        for place in ("shut", "shut/runs/new"):
            with pytest.raises(
                ConfigError, match=r"^output: .* cannot be written to \(.*: Permission denied\); give another"
            ):
                check_output(tmp_path / place, "output")
    finally:
        if is_root:
            os.seteuid(0)
    check_output(tmp_path / "open" / "runs" / "new", "output")
    assert list((tmp_path / "open").iterdir()) == []


def test_a_bucket_that_is_not_there(s3_bucket: str) -> None:
    check_output(f"{s3_bucket}/runs/new", "output")
    with pytest.raises(ConfigError, match=r"^--output: .*no-such-bucket.*; give a bucket that is there$"):
        check_output("s3://no-such-bucket/runs/new", "--output")
