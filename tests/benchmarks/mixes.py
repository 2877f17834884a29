"""Document lengths for the benchmarks: three mixes of the kinds that context extension trains on."""

import numpy as np
from numpy.typing import NDArray

LOG_NORMAL = {"web": (6.4, 1.1), "long": (8.6, 1.2)}
"""Mean and deviation of the logarithm of the length: web pages (mean 1,100 tokens), books and repositories (11,000)."""

MIXES = ("web", "long", "mixed")
_MOST = 1 << 19


def document_lengths(mix: str, num_tokens: int, seed: int = 0) -> NDArray[np.int32]:
    """int32 [num_documents], tokens of documents that add up to `num_tokens`.

    "mixed": half of the tokens from each of the other two, as in a web corpus with its long documents upsampled.
    """
    rng = np.random.default_rng(seed)
    if mix == "mixed":
        halves = [_drawn(rng, name, num_tokens // 2) for name in LOG_NORMAL]
        lengths = rng.permutation(np.concatenate(halves))
    else:
        lengths = _drawn(rng, mix, num_tokens)
    return lengths.astype(np.int32)


def _drawn(rng: np.random.Generator, mix: str, num_tokens: int) -> NDArray[np.int64]:
    mean, deviation = LOG_NORMAL[mix]
    lengths = np.zeros(0, np.int64)
    while lengths.sum() < num_tokens:
        more = int(num_tokens / np.exp(mean)) + 16
        drawn = np.clip(rng.lognormal(mean, deviation, more), 16, _MOST).astype(np.int64)
        lengths = np.concatenate([lengths, drawn])
    ends = np.cumsum(lengths)
    count = int(np.searchsorted(ends, num_tokens)) + 1
    lengths = lengths[:count].copy()
    lengths[-1] -= int(ends[count - 1]) - num_tokens
    return lengths
