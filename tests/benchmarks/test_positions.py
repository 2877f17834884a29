"""The position benchmark: both ways give positions of the same kind, and every figure is there."""

import random
from pathlib import Path

import numpy as np
import pytest

from tests.benchmarks.positions import (
    METHODS,
    TARGET,
    TINY_SHAPES,
    listed_longrecipe,
    make_material,
    ours,
    published,
    run,
    sentences_of,
)


def test_both_ways_open_gaps_at_the_same_places() -> None:
    material = make_material(1, 600)
    tokens = material.samples[0].tolist()
    sentences = sentences_of(tokens, frozenset(np.flatnonzero(material.ends).tolist()))
    published = np.array(listed_longrecipe(sentences, len(tokens), random.Random(0)))
    (own,) = ours(material, None, METHODS["longrecipe"])
    starts = set(np.cumsum([len(sentence) for sentence in sentences]).tolist())
    for positions in (published, own):
        assert positions[0] == 0
        assert positions[-1] < TARGET
        jumps = np.flatnonzero(np.diff(positions) != 1) + 1
        assert len(jumps) > len(sentences) * 0.9
        assert set(jumps.tolist()) <= starts


@pytest.mark.parametrize("name", ["contiguous", "pose", "cream", "e2llm"])
def test_both_ways_reach_equally_far(name: str) -> None:
    """Mean last position of many documents of one length; ours of the others begin at 0, or have more segments."""
    many = make_material(300, 90)
    tokens = many.samples.tolist()
    last = [row[-1] for row in published(tokens, frozenset(np.flatnonzero(many.ends).tolist()), None, name)]
    own = [row[-1] for row in ours(many, None, METHODS[name])]
    assert np.isclose(np.mean(last), np.mean(own), atol=5 * np.hypot(np.std(last), np.std(own)) / np.sqrt(300) + 1e-6)


def test_every_method_is_measured_beside_the_published_way(tmp_path: Path) -> None:
    rows = run(tiny=True, repeats=2, output=tmp_path)
    assert len({row["case"] for row in rows}) == len(TINY_SHAPES) * len(METHODS)
    assert all(row["ratio"]["median"] > 0 and row["rounds"] == 2 for row in rows)
    assert (tmp_path / "positions.json").exists()
