"""`longspan sweep sweeps/demo.yaml` behind the demonstration, shortened and from another directory: longspan sizes the
cluster itself, so the trial's workers and feed take every slot of it.
"""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from longspan.config.corpus import Corpus
from longspan.config.load import parse, to_yaml
from longspan.corpus.prepare import prepare
from longspan.demo import settings
from tests.tiny import tiny_model_directory

pytestmark = pytest.mark.ray

ROOT = Path(__file__).parents[2]


def demonstration(folder: Path) -> Path:
    """What of `longspan demo --output FOLDER/demo` the sweep needs, small; returns the recipe."""
    (folder / "text.txt").write_text("".join(f"line {n}: the {n * 7 % 13} grey geese.\n" for n in range(900)))
    (folder / "kept.txt").write_text("".join(f"line {n}: the {n * 5 % 11} white swans.\n" for n in range(900)))
    needles = {"type": "needles", "name": "needles-307", "text_source": "library", "length": 307, "documents": 12}
    texts = [
        {"name": name, "paths": [f"{folder}/{file}.txt"]} for name, file in (("library", "text"), ("held-out", "kept"))
    ]
    values = {"output": f"{folder}/demo/data", "tokenizer": {"train_vocab_size": 384, "needle_tokens": True}}
    manifest = prepare(parse(Corpus, {**values, "sources": [*texts, needles]}, "demonstration"))
    tiny_model_directory(
        folder / "demo/base/checkpoint", vocab_size=manifest.tokenizer.vocab_size, max_position_embeddings=128
    )
    recipe = folder / "demo" / "recipes" / "longrecipe.yaml"
    recipe.parent.mkdir()
    recipe.write_text(to_yaml(settings.extension_recipe("demo", 0, "longrecipe")))
    return recipe


def test_the_sweep_of_the_demonstration_from_another_directory(tmp_path: Path) -> None:
    recipe = demonstration(tmp_path)
    given = yaml.safe_load((ROOT / "sweeps" / "demo.yaml").read_text())
    short = {"train.steps": 2, "train.warmup_steps": 1, "evaluate": {"lengths": [128], "needles": 1, "examples": 1}}
    short["evaluate"] |= {"text_source": "held-out"}
    space = {key: {**each, "values": each["values"][:1]} for key, each in given["space"].items()}
    changes = {"recipe": str(recipe), "set": {**given["set"], **short}, "space": space}
    words = [word for key, value in changes.items() for word in ("--set", f"{key}={json.dumps(value)}")]
    environment = {key: value for key, value in os.environ.items() if key != "RAY_ADDRESS"}
    ended = subprocess.run(
        [sys.executable, "-m", "longspan.cli", "sweep", str(ROOT / "sweeps/demo.yaml"), *words, "--output", "found"],
        capture_output=True, text=True, cwd=tmp_path, timeout=400,
        env={**environment, "PYTHONPATH": str(ROOT / "platform")},
    )  # fmt: skip
    assert ended.returncode == 0, ended.stderr[-3000:]
    (row,) = json.loads((tmp_path / "found" / "trials.json").read_text())
    assert (row["error"], row["rope_theta"]) == (None, 500.0)
    assert 0 <= row["metric"] <= 1
    assert row["output"].startswith(f"{tmp_path}/found/trials/")
    best = yaml.safe_load((tmp_path / "found" / "best.yaml").read_text())
    assert best["model"]["path"] == str(tmp_path / "demo/base/checkpoint")
