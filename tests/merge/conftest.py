"""Pairs of tiny random checkpoints to average."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.tiny import tiny_model_directory

Edit = Callable[[Path, str, Any], None]


@pytest.fixture
def pair(tmp_path: Path) -> tuple[Path, Path]:
    """Directories a and b: the same tiny Llama with different weights."""
    return (
        tiny_model_directory(tmp_path / "a", seed=1, vocab_size=64),
        tiny_model_directory(tmp_path / "b", seed=2, vocab_size=64),
    )


@pytest.fixture
def edit_config() -> Edit:
    """`edit_config(directory, key, value)` sets a key of config.json."""

    def edit(directory: Path, key: str, value: Any) -> None:
        file = directory / "config.json"
        file.write_text(json.dumps(json.loads(file.read_text()) | {key: value}))

    return edit
