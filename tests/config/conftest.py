"""A small recipe file to make mistakes in."""

from collections.abc import Callable
from pathlib import Path

import pytest

RECIPE = """\
name: tiny
model: {path: models/tiny, dtype: float32}
rope: {type: ntk}
data:
  manifest: corpus
  sample_length: 32
  target_length: 256
  mix:
    - weights: {text: 1.0}
train: {steps: 4, global_batch_size: 4, micro_batch_size: 2}
"""
CORPUS = """\
output: corpus
tokenizer: {train_vocab_size: 300, needle_tokens: true}
sources:
  - {type: text, name: books, paths: [texts]}
  - {type: jsonl, name: lines, paths: [lines.jsonl]}
  - {type: needles, name: needles, text_source: books, length: 200, documents: 12}
"""


@pytest.fixture
def written(tmp_path: Path) -> Callable[[str | bytes], Path]:
    """`written(text)` is the path of a file with that text."""

    def write(text: str | bytes) -> Path:
        path = tmp_path / "recipe.yaml"
        path.write_bytes(text.encode() if isinstance(text, str) else text)
        return path

    return write
