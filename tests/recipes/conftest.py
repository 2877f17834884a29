"""Pipelines of three stages over a tiny corpus and model."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from longspan.config.pipeline import Pipeline, load_pipeline
from tests.launch.conftest import prepare_corpus
from tests.tiny import tiny_model_directory

MakePipeline = Callable[..., Pipeline]


def three_stages(corpus: str, base: str, output: str) -> dict[str, Any]:
    """LongRecipe's stages, very short: extend, replay at ordinary positions, merge with the original."""
    data = {"manifest": corpus, "sample_length": 32, "mix": [{"weights": {"text": 1.0}}], "packing": "sequential"}
    return {
        "name": "tiny-line",
        "output": output,
        "base": base,
        "common": {
            "model": {"dtype": "float32", "gradient_checkpointing": False},
            "train": {"global_batch_size": 2, "learning_rate": 1.0e-2, "threads": 1},
        },
        "stages": [
            {
                "type": "train",
                "name": "extend",
                "rope": {"type": "ntk"},
                "train": {"steps": 4},
                "data": {**data, "target_length": 256},
            },
            {
                "type": "train",
                "name": "replay",
                "positions": {"type": "contiguous"},
                "train": {"steps": 2},
                "data": {**data, "target_length": 32},
            },
            {"type": "merge", "name": "blend", "rope": "b"},
        ],
    }


@pytest.fixture(scope="session")
def room(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """`data` (the corpus) and `model` (a tiny Llama); not to be changed by a test."""
    path = tmp_path_factory.mktemp("recipes")
    prepare_corpus(path, path / "data")
    tiny_model_directory(path / "model", vocab_size=320)
    return path


@pytest.fixture
def make(room: Path, tmp_path: Path) -> MakePipeline:
    """`make("stages.0.train.steps=3", ...)` is the pipeline with its output in tmp_path/out."""

    def pipeline(*overrides: str, **values: Any) -> Pipeline:
        file = tmp_path / "line.yaml"
        stages = three_stages(str(room / "data"), str(room / "model"), str(tmp_path / "out"))
        file.write_text(json.dumps({**stages, **values}))
        return load_pipeline(file, overrides)

    return pipeline
