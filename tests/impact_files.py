"""An analysis written from arrays, without models: for tests of what reads scores."""

import numpy as np
from numpy.typing import NDArray

from longspan.corpus.impact.manifest import ImpactManifest, write_manifest
from longspan.corpus.impact.parts import Unit, write_part
from longspan.corpus.impact.settings import ScoreSettings
from longspan.corpus.index import corpus_table
from longspan.corpus.manifest import Manifest


def random_scores(seed: int, num_tokens: int) -> NDArray[np.float32]:
    """float32 [num_tokens] that half precision holds exactly; some negative, some above log(5)."""
    return (np.random.default_rng(seed).integers(-500, 1300, num_tokens) / 512).astype(np.float32)


def write_scores(
    uri: str, corpus: str, manifest: Manifest, scores: NDArray[np.float32], *, mark: str = "mark", **settings: object
) -> None:
    """Write a finished analysis of all documents of the corpus; scores [num_tokens of the corpus], in its order."""
    length = np.array(corpus_table(corpus, manifest).length)
    half = length.size // 2
    first = int(length[:half].sum())
    units = [Unit(0, 0, 0, length[:half]), Unit(1, half, first, length[half:])]
    parts = tuple(write_part(uri, u, scores[u.offset : u.offset + int(u.length.sum())]) for u in units)
    said = ScoreSettings(model="long", window=64, **{"base": "base", **settings})  # type: ignore[arg-type]
    write_manifest(uri, ImpactManifest(1, mark, manifest.fingerprint, said, {"model": "m"}, parts))
