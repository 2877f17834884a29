"""Stand-ins for what the files of jobs/ name and nobody has here: models of the families' heads, windows and RoPE, one
corpus with all their sources, an analysis of it.
"""

import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from longspan.config.corpus import Corpus
from longspan.config.load import load_recipe, parse
from longspan.config.pipeline import TrainStage, load_pipeline
from longspan.config.recipe import Recipe
from longspan.corpus.impact.settings import ScoreSettings
from longspan.corpus.manifest import load_manifest
from longspan.corpus.prepare import prepare
from longspan.launch.impact import describe, score
from longspan.planner.settings import phase_weights
from tests.tiny import tiny_model_directory

JOBS = Path(__file__).parents[2] / "jobs"
RECIPES = sorted((JOBS / "recipes").glob("*.yaml"))
PIPELINES = sorted((JOBS / "pipelines").glob("*.yaml"))
SHAPES: dict[str, dict[str, Any]] = {
    "Llama-3": {"heads": 32, "kv": 8, "window": 8192, "theta": 5e5},
    "Llama-2": {"heads": 32, "kv": 32, "window": 4096, "theta": 1e4},
    "Mistral": {"family": "mistral", "heads": 32, "kv": 8, "window": 32768, "theta": 1e6},
    "Qwen2": {"family": "qwen2", "heads": 28, "kv": 4, "window": 131072, "theta": 1e6},
    "demo": {"heads": 2, "kv": 2, "window": 128, "theta": 500.0},
}
"""By a part of the model's name: what of its config.json plans go by. Layers and widths are small."""


def stages() -> Iterator[tuple[str, Recipe]]:
    """Every training run that the files describe, under the name of its file and stage."""
    for path in RECIPES:
        yield path.stem, load_recipe(path)
    for path in PIPELINES:
        for stage in load_pipeline(path).stages:
            if isinstance(stage, TrainStage):
                yield f"{path.stem}/{stage.name}", stage.recipe


def source_names() -> tuple[set[str], set[str]]:
    """Sources that mixes draw from, and those that are held out."""
    drawn = {name for _, each in stages() for phase in each.data.mix for name in phase_weights(phase)}
    held_out = {each.evaluate.text_source for _, each in stages()}
    return drawn, {name for name in held_out if name}


def shape_of(model: str) -> str:
    """The stand-in of a model's path."""
    return next(name for name in SHAPES if name in model)


@pytest.fixture(scope="session")
def stand_ins(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with `corpus`, `scores` and a model for each of SHAPES."""
    folder = tmp_path_factory.mktemp("stand-ins")
    drawn, held_out = source_names()
    sources = []
    for name in sorted(drawn | held_out):
        lines = 15_000 if name in held_out else 1000  # the longest evaluation is of 128k tokens
        text = "".join(f"Line {n} of {name}: the {n * 7 % 13} grey geese.\n" for n in range(lines))
        (folder / f"{name}.txt").write_text(text)
        sources.append({"name": name, "paths": [str(folder / f"{name}.txt")]})
    values = {"output": str(folder / "corpus"), "tokenizer": {"train_vocab_size": 300}, "sources": sources}
    prepare(parse(Corpus, values, "stand-in"))
    tokenizer = folder / "corpus" / load_manifest(str(folder / "corpus")).tokenizer.directory
    for name, shape in SHAPES.items():
        _make_model(folder / name, tokenizer, **shape)
    settings = ScoreSettings(str(folder / "demo"), 64, None, 8, 4, documents=1, dtype="float32", sources=("books",))
    score(str(folder / "corpus"), str(folder / "scores"), settings)
    describe(str(folder / "corpus"), str(folder / "scores"))
    return folder


def _make_model(
    directory: Path, tokenizer: Path, *, heads: int, kv: int, window: int, theta: float, family: str = "llama"
) -> None:
    tiny_model_directory(
        directory,
        family,
        vocab_size=320,
        hidden_size=64,
        intermediate_size=128,
        num_hidden_layers=1,
        num_attention_heads=heads,
        num_key_value_heads=kv,
        head_dim=128,
        max_position_embeddings=window,
        rope_parameters={"rope_type": "default", "rope_theta": theta},
    )
    for file in os.scandir(tokenizer):
        shutil.copy(file.path, directory)
