"""A small prepared corpus: two sources of real-looking text and one of needles, with several shards each."""

import json
import random
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from longspan import storage
from longspan.config.corpus import Corpus
from longspan.corpus.manifest import Manifest, load_manifest
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


def rows_of(uri: str, source: str) -> list[dict[str, Any]]:
    """The source's documents, by a plain Parquet reader."""
    shards = [shard.file for shard in load_manifest(uri).shards if shard.source == source]
    return [row for file in shards for row in pq.read_table(pa.BufferReader(read(uri, file))).to_pylist()]


def documents_of(uri: str, source: str) -> list[tuple[np.ndarray, np.ndarray | None]]:
    return [
        (np.array(row["tokens"], np.uint32), np.array(row["loss_weight"]) if "loss_weight" in row else None)
        for row in rows_of(uri, source)
    ]


def read(uri: str, name: str) -> bytes:
    return storage.read_bytes(storage.join(uri, name))


def contents(uri: str) -> dict[str, bytes]:
    return {name: read(uri, name) for name in storage.list_files(uri)}


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
