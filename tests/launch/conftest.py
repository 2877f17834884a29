"""A tiny corpus and model, and recipes for them."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from longspan.config.corpus import Corpus
from longspan.config.load import parse
from longspan.config.recipe import Recipe
from longspan.corpus.prepare import prepare
from tests.tiny import tiny_model_directory, tiny_recipe

MakeRecipe = Callable[..., Recipe]


def prepare_corpus(folder: Path, output: Path, seed: int = 0) -> str:
    """Sources `text` and `held` of a few hundred lines each."""
    for name in ("text", "held"):
        (folder / name).mkdir(exist_ok=True)
        for number in range(4):
            lines = [f"{name} {number} {line}: the {line * 7 % 13 + seed} grey geese.\n" for line in range(60)]
            (folder / name / f"{number}.txt").write_text("".join(lines))
    values = {
        "output": str(output),
        "tokenizer": {"train_vocab_size": 300},
        "sources": [{"type": "text", "name": name, "paths": [str(folder / name)]} for name in ("text", "held")],
        "shard_tokens": 4000,
    }
    prepare(parse(Corpus, values, "test corpus"))
    return str(output)


@pytest.fixture(scope="session")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """`data` (the corpus) and `model` (a tiny Llama); not to be changed by a test."""
    path = tmp_path_factory.mktemp("launch")
    prepare_corpus(path, path / "data")
    tiny_model_directory(path / "model", vocab_size=320)
    return path


@pytest.fixture
def make(folder: Path, tmp_path: Path) -> MakeRecipe:
    """`make(train={...}, ...)` is a recipe of six short steps with its run directory in tmp_path/run."""

    def recipe(**sections: Any) -> Recipe:
        train = {"steps": 6, "global_batch_size": 2, "micro_batch_size": 1, **sections.pop("train", {})}
        output = sections.pop("output", str(tmp_path / "run"))
        return tiny_recipe(folder / "model", folder / "data", output=str(output), train=train, **sections)

    return recipe
