"""Two tiny models and two small corpora: random tokens, and text with a real tokenizer."""

from pathlib import Path
from typing import Any, NamedTuple

import pytest

from longspan.config.corpus import Corpus
from longspan.corpus.impact.manifest import ImpactManifest
from longspan.corpus.impact.settings import ScoreSettings
from longspan.corpus.manifest import Manifest, load_manifest
from longspan.corpus.prepare import prepare
from longspan.impact.run import score_corpus
from tests.corpus_files import random_documents, write_corpus
from tests.tiny import tiny_model_directory

VOCAB = 96
LENGTHS = {"text": [40, 7, 130, 1, 64], "other": [90, 33, 50]}


class Material(NamedTuple):
    folder: Path
    manifest: Manifest

    @property
    def corpus(self) -> str:
        return str(self.folder / "corpus")

    def settings(self, **changes: Any) -> ScoreSettings:
        values: dict[str, Any] = {
            "model": str(self.folder / "long"),
            "base": str(self.folder / "base"),
            "window": 64,
            "part_tokens": 100,
            "dtype": "float32",
        }
        return ScoreSettings(**{**values, **changes})


@pytest.fixture(scope="session")
def material(tmp_path_factory: pytest.TempPathFactory) -> Material:
    """Not to be changed by a test: models `long` and `base`, and a corpus of random tokens in several shards."""
    folder = tmp_path_factory.mktemp("impact")
    tiny_model_directory(folder / "long", seed=1)
    tiny_model_directory(folder / "base", seed=2)
    documents = {name: random_documents(seed, lengths, VOCAB) for seed, (name, lengths) in enumerate(LENGTHS.items())}
    write_corpus(str(folder / "corpus"), documents, shard_tokens=150, chunk_tokens=60, vocab_size=VOCAB)
    return Material(folder, load_manifest(str(folder / "corpus")))


class TextMaterial(NamedTuple):
    corpus: str
    impact: str
    manifest: ImpactManifest


@pytest.fixture(scope="session")
def text_material(tmp_path_factory: pytest.TempPathFactory) -> TextMaterial:
    """A corpus of English with numbers, made by `prepare`, and its scores by one model with two prefixes."""
    folder = tmp_path_factory.mktemp("text")
    (folder / "text").mkdir()
    for number in range(4):
        lines = [f"Line {line} of {number}: the geese count {line * 37 % 101} ponds, and fly.\n" for line in range(12)]
        (folder / "text" / f"{number}.txt").write_text("".join(lines))
    values: dict[str, Any] = {
        "output": str(folder / "corpus"),
        "tokenizer": {"train_vocab_size": 300, "needle_tokens": True},
        "sources": [
            {"type": "text", "name": "text", "paths": [str(folder / "text")]},
            {"type": "needles", "name": "needles", "text_source": "text", "length": 120, "documents": 2},
        ],
    }
    manifest = prepare(Corpus.model_validate(values))
    model = tiny_model_directory(folder / "model", vocab_size=manifest.tokenizer.vocab_size)
    settings = ScoreSettings(model=str(model), window=64, short_prefix=8, stride=8, dtype="float32", part_tokens=500)
    return TextMaterial(
        values["output"], str(folder / "scores"), score_corpus(values["output"], str(folder / "scores"), settings)
    )
