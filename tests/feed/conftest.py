"""A corpus and a plan as a run has them, and a recipe for it."""

from pathlib import Path

import pytest

from longspan import storage
from longspan.config.recipe import Recipe
from longspan.corpus.changed import store_planned_manifest
from longspan.corpus.index import corpus_table
from longspan.corpus.manifest import load_manifest
from longspan.corpus.plan_table import write_plan
from longspan.feed.batch import MicroBatch
from longspan.feed.source import PLAN_FOLDER, FeedSpec, Source, feed_spec
from longspan.sampling.plan import MixPoint, PlanSettings, plan_parts
from tests.corpus_files import random_documents, write_corpus
from tests.tiny import tiny_recipe

STEPS = 4
VOCAB = 90


def make_corpus(uri: str, texts: int = 30) -> str:
    lengths = [7 + 11 * number % 90 for number in range(texts)]
    documents = {
        "text": random_documents(1, lengths, VOCAB),
        "needles": random_documents(2, [60] * 20, VOCAB, weighted=True),
    }
    write_corpus(uri, documents, shard_tokens=500, chunk_tokens=100, vocab_size=VOCAB)
    return uri


def staged(run: str, manifest_uri: str, *, part_samples: int = 10, **sections: object) -> Recipe:
    """A recipe whose plan is written; the model is never looked at."""
    data = {"mix": [{"weights": {"text": 1.0, "needles": 1.0}}]}
    train = {"steps": STEPS, "global_batch_size": 8, "micro_batch_size": 2}
    recipe = tiny_recipe("nowhere", manifest_uri, **{"data": data, "train": train, "output": run, **sections})
    manifest = load_manifest(manifest_uri)
    settings = PlanSettings(
        mix=(MixPoint(0, {"text": 1.0, "needles": 1.0}),),
        steps=recipe.train.steps,
        global_batch_size=recipe.train.global_batch_size,
        sample_length=recipe.data.plan_length,
        trained_length=recipe.data.sample_length,
        packing="best_fit",
        shuffle=True,
        shuffle_tokens=400,
        upsample={},
        max_epochs={},
        on_limit="refuse",
        seed=recipe.seed,
    )
    uri = storage.join(run, PLAN_FOLDER)
    parts = plan_parts(corpus_table(manifest_uri, manifest), settings, part_samples)
    metadata = {"manifest": manifest.fingerprint}
    write_plan(uri, parts, manifest.source_names, settings.sample_length, settings.num_samples, metadata)
    store_planned_manifest(uri, manifest)
    return recipe


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LONGSPAN_CACHE", str(tmp_path / "cache"))


@pytest.fixture(scope="package")
def recipe(tmp_path_factory: pytest.TempPathFactory) -> Recipe:
    folder = tmp_path_factory.mktemp("feed")
    return staged(str(folder / "run"), make_corpus(str(folder / "corpus")))


@pytest.fixture(scope="package")
def spec(recipe: Recipe) -> FeedSpec:
    return feed_spec(recipe)


@pytest.fixture(scope="package")
def batches(spec: FeedSpec) -> list[MicroBatch]:
    source = Source(spec)
    return [source.micro_batch(k) for k in range(STEPS * spec.micro_batches_per_step)]
