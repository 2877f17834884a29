"""A folder with one sound thing of each kind, to make mistakes with."""

import os
from pathlib import Path
from typing import Any

import pytest
import yaml

from longspan.config.corpus import Corpus
from longspan.config.load import parse, to_yaml
from longspan.corpus.prepare import prepare
from tests.config.conftest import CORPUS, RECIPE
from tests.tiny import tiny_model_directory, tiny_recipe

DATA = {"manifest": "data", "sample_length": 32, "target_length": 64, "mix": [{"weights": {"text": 1.0}}]}
PIPELINE = {
    "name": "two",
    "base": "model",
    "output": "out",
    "common": {"model": {"dtype": "float32"}},
    "stages": [
        {"name": "extend", "rope": {"type": "ntk"}, "data": DATA, "train": {"steps": 2, "global_batch_size": 2}},
        {"type": "merge", "name": "blend", "rope": "b"},
    ],
}
SWEEP = {
    "name": "rates",
    "recipe": "recipe.yaml",
    "output": "out",
    "metric": "final_loss",
    "mode": "min",
    "space": {"train.learning_rate": {"type": "grid", "values": [0.1, 0.01]}},
}
COMPARE = {
    "name": "one",
    "output": "out",
    "base": {"checkpoint": "model"},
    "recipe": {"model": {"dtype": "float32"}, "data": DATA, "train": {"global_batch_size": 2}},
    "budget": {"steps": 1},
    "methods": [{"name": "plain"}],
    "seeds": [0],
    "reference": "plain",
    "evaluate": {"lengths": [64], "text_source": "text", "questions": 1, "examples": 1, "loss_windows": 1},
    "workers": 1,
}


@pytest.fixture(scope="session")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """`recipe.yaml`, `pipeline.yaml`, `sweep.yaml`, `compare.yaml` and `corpus.yaml` are sound, and so are `model`,
    `data` (its corpus, with the source `text`) and `text/a.txt`. `plain.yaml` and `plain-corpus.yaml` are the recipe
    and the corpus of `tests/config`, whose files are not there. `binary` is a file of bytes, `void` an empty folder.
    """
    folder = tmp_path_factory.mktemp("doors")
    (folder / "text").mkdir()
    (folder / "text" / "a.txt").write_text("".join(f"line {n} has the {n * 7 % 13} grey geese.\n" for n in range(200)))
    (folder / "binary").write_bytes(bytes(range(256)) * 10)
    (folder / "void").mkdir()
    corpus: dict[str, Any] = {"output": "data", "tokenizer": {"train_vocab_size": 300}}
    corpus["sources"] = [{"name": "text", "paths": ["text"]}]
    before = Path.cwd()
    os.chdir(folder)
    try:
        prepare(parse(Corpus, corpus, "corpus"))
    finally:
        os.chdir(before)
    rope = {"rope_type": "default", "rope_theta": 1e6}
    tiny_model_directory(folder / "model", vocab_size=320, rope_parameters=rope)
    recipe = tiny_recipe("model", "data", output="out", rope={"type": "keep"})
    texts = {"recipe": to_yaml(recipe), "plain": RECIPE, "plain-corpus": CORPUS, "empty": ""}
    values = {"corpus": corpus, "pipeline": PIPELINE, "sweep": SWEEP, "compare": COMPARE}
    for name, text in {**texts, **{name: yaml.safe_dump(value) for name, value in values.items()}}.items():
        (folder / f"{name}.yaml").write_text(text)
    return folder
