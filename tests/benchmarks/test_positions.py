"""The position benchmark: both ways give positions of the same kind, and every figure is there."""

import random
from pathlib import Path

import numpy as np

from tests.benchmarks.positions import METHODS, TARGET, listed_longrecipe, make_material, ours, run, sentences_of


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


def test_every_method_is_measured_beside_the_published_way(tmp_path: Path) -> None:
    rows = run(tiny=True, repeats=2, output=tmp_path)
    assert len({row["case"] for row in rows}) == 2 * len(METHODS)
    assert all(row["ratio"]["median"] > 0 and row["rounds"] == 2 for row in rows)
    assert (tmp_path / "positions.json").exists()
