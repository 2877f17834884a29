"""A small prepared corpus: two sources of real-looking text and one of needles, with several shards each."""

import json
import random
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from longspan.config.corpus import Corpus
from longspan.corpus.manifest import Manifest
from longspan.corpus.prepare import prepare

WORDS = ["the", "a", "model", "reads", "long", "context", "window", "token", "position", "attention", "we", "it", "of"]


def sentences(seed: int, count: int) -> str:
    draw = random.Random(seed)
    lines = (" ".join(draw.choices(WORDS, k=draw.randint(3, 12))).capitalize() for _ in range(count))
    return "".join(line + draw.choice([". ", "!\n", "?\n\n"]) for line in lines)


def write_texts(folder: Path) -> dict[str, str]:
    """Eight files in two folders and a JSONL file; the text of each file by its name."""
    texts = {f"{'ab'[i % 2]}/{i}.txt": sentences(i, 10 + 15 * i) for i in range(8)}
    for name, text in texts.items():
        (folder / "texts" / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / "texts" / name).write_text(text, encoding="utf-8")
    lines = [json.dumps({"body": sentences(100 + i, 5 + i)}) for i in range(20)]
    (folder / "lines.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8")
    return texts


def corpus_config(folder: Path, output: str | Path, **changes: Any) -> Corpus:
    values = {
        "output": str(output),
        "tokenizer": {"train_vocab_size": 300, "needle_tokens": True},
        "sources": [
            {"type": "needles", "name": "needles", "text_source": "files", "length": 200, "documents": 12},
            {"type": "text", "name": "files", "paths": [str(folder / "texts")], "pattern": "*.txt"},
            {"type": "jsonl", "name": "lines", "paths": [str(folder / "lines.jsonl")], "text_field": "body"},
        ],
        "shard_tokens": 2500,
    }
    return Corpus.model_validate({**values, **changes})


class Prepared(NamedTuple):
    folder: Path
    config: Corpus
    manifest: Manifest
    texts: dict[str, str]

    @property
    def uri(self) -> str:
        return self.config.output


@pytest.fixture(scope="session")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> Prepared:
    """Not to be changed by a test; copy the folder to damage it."""
    folder = tmp_path_factory.mktemp("corpus")
    texts = write_texts(folder)
    config = corpus_config(folder, folder / "out")
    return Prepared(folder, config, prepare(config), texts)
