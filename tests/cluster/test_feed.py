"""What is kept of a sample and how its targets weigh is the same on Ray Data's workers as in this process."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from longspan.config.recipe import Recipe
from longspan.corpus.manifest import load_manifest
from longspan.feed.local import local_feed
from longspan.feed.ray_data import group_dataset, stream
from longspan.feed.source import feed_spec
from longspan.launch.stage import stage_run
from tests.feed.comparing import assert_all_same
from tests.impact_files import random_scores, write_scores
from tests.tiny import tiny_recipe

pytestmark = pytest.mark.ray

STEPS, LONG = 6, 160
CASES: dict[str, dict[str, Any]] = {
    "weighted selection": {"selection": {"mode": "weighted", "from_length": LONG}},
    "uniform selection": {"selection": {"mode": "uniform", "from_length": LONG}},
    "longce": {"loss_weighting": {"gamma": 3.0}},
    "pose chunks": {"selection": {"mode": "chunks", "from_length": LONG}},
}


@pytest.fixture(scope="module")
def scores(material: Path, tmp_path_factory: pytest.TempPathFactory) -> str:
    """Of every token of the corpus."""
    uri, corpus = str(tmp_path_factory.mktemp("scores")), str(material / "data")
    manifest = load_manifest(corpus)
    total = sum(source.tokens for source in manifest.sources.values())
    write_scores(uri, corpus, manifest, random_scores(0, total))
    return uri


def recipe_for(case: str, material: Path, output: Path, scores: str) -> Recipe:
    sections = {name: dict(section) for name, section in CASES[case].items()}
    if case in ("weighted selection", "longce"):
        next(iter(sections.values()))["scores"] = scores
    return tiny_recipe(
        material / "model",
        material / "data",
        output=str(output),
        data={"mix": [{"weights": {"text": 0.7, "other": 0.3}}], **sections},
        positions={"type": "pose", "text_offset": "same"} if case == "pose chunks" else {"type": "longrecipe"},
        train={"steps": STEPS},
    )


@pytest.mark.parametrize("case", CASES)
def test_ray_data_gives_the_micro_batches_of_the_local_feed(
    ray_cluster: None, material: Path, scores: str, tmp_path: Path, case: str
) -> None:
    recipe = recipe_for(case, material, tmp_path / "run", scores)
    stage_run(recipe)
    spec = feed_spec(recipe)
    expected = list(local_feed(spec, 2, STEPS, 4))
    assert [batch.first_sample for batch in expected] == list(range(8, STEPS * 4, 2))
    if case == "longce":
        weights = np.concatenate([batch.loss_weight for batch in expected])
        assert np.unique(weights).size > 100
        assert weights.max() == 3
    if case == "pose chunks":
        assert max(batch.positions.max() for batch in expected) > LONG / 2
    for group in range(2):
        dataset = group_dataset(spec, 2, STEPS, group, 2)
        assert_all_same(stream(dataset.iterator(), 1), expected[group::2])
