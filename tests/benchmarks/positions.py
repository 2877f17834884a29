"""Tokens/s of the position transforms on one core, beside the published way: Python lists, sentence by sentence.

    python -m tests.benchmarks.positions [--tiny] [--output DIR]

The published way is written anew from its description (LongRecipe, Algorithm 1 and App. C): cut the token list at the
ids that end a sentence, set the sentences into a list of free slots, flatten it, keep the indices of what is not free.
The other methods likewise with ranges and lists. Its lists are taken as they are: turning them into tensors is not
counted. Ours is what the feed calls, with the making of the sample's random generator: float32 arrays. Packed samples
have documents of equal length, each with positions of its own; the published way takes them one by one.
"""

import random
from collections.abc import Callable, Sequence, Sized
from dataclasses import dataclass
from functools import partial
from itertools import pairwise
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from longspan.feed.batch import _NO_DRAWS, _position_rng
from longspan.positions import (
    CREAM,
    E2LLM,
    Contiguous,
    LongRecipe,
    PoSE,
    PositionMethod,
    RandPos,
    sample_positions,
    segment_starts,
)
from tests.benchmarks.harness import Measured, Row, arguments, in_turns, rates, report, timed

TARGET = 131_072
VOCAB = 128_256
SENTENCE_ENDS = 600
SENTENCE_TOKENS = 25
"""Mean length of a sentence; lengths are log-normal (sigma 0.8)."""
AIM = 100e6
METHODS: dict[str, PositionMethod] = {
    "contiguous": Contiguous(),
    "longrecipe": LongRecipe(),
    "longrecipe bounded": LongRecipe(variant="bounded"),
    "pose": PoSE(),
    "cream": CREAM(),
    "e2llm": E2LLM(window=8192),
    "randpos": RandPos(),
}
SHAPES = ((38_400, 1), (38_400, 16), (8_192, 1), (8_192, 9))
TINY_SHAPES = ((512, 1), (256, 3))
"""Tokens and documents of a sample."""
COLUMNS = ("case", "contender", "tokens_per_cpu_s", "cpu_ratio", "ratio", "reaches_aim")


@dataclass(frozen=True)
class Material:
    """Samples int32 [num_samples, sample_length], the lookup of the ids that end a sentence, bool [VOCAB], and where
    the documents of every sample begin and end, int64 [num_documents + 1].
    """

    samples: NDArray[np.int32]
    ends: NDArray[np.bool_]
    boundaries: NDArray[np.int64]


def make_material(num_samples: int, sample_length: int, documents: int = 1, seed: int = 0) -> Material:
    rng = np.random.default_rng(seed)
    ends = np.zeros(VOCAB, np.bool_)
    ends[rng.choice(VOCAB, SENTENCE_ENDS, replace=False)] = True
    samples = rng.choice(np.flatnonzero(~ends), (num_samples, sample_length)).astype(np.int32)
    sigma = 0.8
    for sample in samples:
        mean = np.log(SENTENCE_TOKENS) - sigma**2 / 2
        lengths = np.maximum(2, rng.lognormal(mean, sigma, sample_length)).astype(np.int64)
        last = np.cumsum(lengths) - 1
        last = last[last < sample_length]
        sample[last] = rng.choice(np.flatnonzero(ends), last.size)
    return Material(samples, ends, np.linspace(0, sample_length, documents + 1).astype(np.int64))


def ours(material: Material, starts: list[NDArray[np.int64]] | None, method: PositionMethod) -> list[NDArray]:
    """Positions of every sample; `starts` None: sentences are looked for too."""
    return [
        sample_positions(
            method,
            material.boundaries,
            segment_starts(sample, material.ends) if starts is None else starts[number],
            TARGET,
            _NO_DRAWS if isinstance(method, Contiguous) else _position_rng(0, number),
        )
        for number, sample in enumerate(material.samples)
    ]


def sentences_of(tokens: list[int], ends: frozenset[int]) -> list[list[int]]:
    """The published cut: a new sentence after every id that ends one."""
    sentences: list[list[int]] = []
    sentence: list[int] = []
    for token in tokens:
        sentence.append(token)
        if token in ends:
            sentences.append(sentence)
            sentence = []
    if sentence:
        sentences.append(sentence)
    return sentences


def listed_longrecipe(sentences: list[list[int]], num_tokens: int, draw: random.Random) -> list[int]:
    """Sentences in random slots of a list of free places, flattened; None marks what stays free."""
    slots: list[list[int] | None] = [None] * (TARGET - num_tokens + len(sentences))
    chosen = [0, *sorted(draw.sample(range(1, len(slots)), len(sentences) - 1))]
    for slot, sentence in zip(chosen, sentences, strict=True):
        slots[slot] = sentence
    line: list[int | None] = []
    for place in slots:
        if place is None:
            line.append(None)
        else:
            line.extend(place)
    return [index for index, token in enumerate(line) if token is not None]


def listed_pose(num_tokens: int, draw: random.Random) -> list[int]:
    cut, skip = draw.randint(1, num_tokens - 1), draw.randint(0, TARGET - num_tokens)
    return list(range(cut)) + list(range(cut + skip, num_tokens + skip))


def listed_cream(num_tokens: int, draw: random.Random) -> list[int]:
    factor = TARGET / num_tokens
    side = max(1, min(num_tokens // 3, draw.choice((num_tokens // 3, int(4 * factor)))))
    middle, ratio = num_tokens - 2 * side, 0.0
    while not 2 <= ratio <= 2 * factor:
        ratio = draw.gauss(1 + factor, 3)
    half = int(ratio) / 2
    end = draw.randint(int(side + (middle - 1) * half), int(num_tokens * half) - side - 1)
    return [*range(side), *range(end + 1 - middle, end + 1), *range(TARGET - side, TARGET)]


def listed_e2llm(num_tokens: int, draw: random.Random) -> list[float]:
    window = 8192
    scale = draw.randint(-(-num_tokens // window), TARGET // window)
    offset = draw.randint(0, scale * window - num_tokens)
    return [(place + (offset if place >= 4 else 0)) / scale for place in range(num_tokens)]


def published(
    documents: list[list[int]], ends: frozenset[int], sentences: list[list[list[int]]] | None, name: str
) -> list[Sequence[float]]:
    """The same documents as lists; `sentences` None: they are looked for too, where the method has any use for them."""
    draw = random.Random(0)
    found: list[Sequence[float]] = []
    for number, tokens in enumerate(documents):
        if name.startswith("longrecipe"):
            cut = sentences_of(tokens, ends) if sentences is None else sentences[number]
            found.append(listed_longrecipe(cut, len(tokens), draw))
        elif name == "pose":
            found.append(listed_pose(len(tokens), draw))
        elif name == "cream":
            found.append(listed_cream(len(tokens), draw))
        elif name == "e2llm":
            found.append(listed_e2llm(len(tokens), draw))
        elif name == "randpos":
            found.append(sorted(draw.sample(range(TARGET), len(tokens))))
        else:
            found.append(list(range(len(tokens))))
    return found


def _counted(make: Callable[[], Sequence[Sized]], check: bool) -> Measured:
    return timed(lambda: (sum(len(positions) for positions in make()), -1))


def measure(tiny: bool, repeats: int) -> list[Row]:
    """Rows of every shape and method, each with the published way as its baseline."""
    return [row for shape in (TINY_SHAPES if tiny else SHAPES) for row in _measure_shape(*shape, tiny, repeats)]


def _measure_shape(sample_length: int, documents: int, tiny: bool, repeats: int) -> list[Row]:
    many = make_material(2 if tiny else 2_000_000 // sample_length, sample_length, documents)
    starts = [segment_starts(sample, many.ends) for sample in many.samples]
    ends = frozenset(np.flatnonzero(many.ends).tolist())
    # The published way takes a list as long as the window for each document: fewer samples tell as much.
    few = many.samples[: max(2, 160_000 // (sample_length * documents))]
    lists = [sample[begin:end].tolist() for sample in few for begin, end in pairwise(many.boundaries)]
    sentences = [sentences_of(tokens, ends) for tokens in lists]
    shape = f"{sample_length:,} tokens" + (f" in {documents} documents" if documents > 1 else "")
    rows: list[Row] = []
    for name, method in METHODS.items():
        contenders = {
            "published": partial(_counted, partial(published, lists, ends, sentences, name)),
            "ours": partial(_counted, partial(ours, many, starts, method)),
        }
        if name.startswith("longrecipe"):
            contenders["published, with the cut into sentences"] = partial(
                _counted, partial(published, lists, ends, None, name)
            )
            contenders["ours, with the cut into sentences"] = partial(_counted, partial(ours, many, None, method))
        for row in rates(in_turns(contenders, repeats), "published"):
            reaches = row["tokens_per_cpu_s"]["median"] >= AIM if row["contender"] == "ours" else None
            rows.append({"case": f"{name}, {shape}", "reaches_aim": reaches, **row})
    return rows


def run(tiny: bool, repeats: int, output: Path | None) -> list[Row]:
    rows = measure(tiny, repeats)
    remarks = (
        f"target {TARGET:,}; sentences of {SENTENCE_TOKENS} tokens on average; aim {AIM / 1e6:.0f}M tokens/s a core.",
        "RandPos draws a number for each token or, from an eighth of the window on, a byte for each of its positions.",
    )
    report("positions", rows, COLUMNS, output, remarks)
    return rows


def main() -> None:
    given = arguments(__doc__)
    run(given.tiny, given.repeats, given.output)


if __name__ == "__main__":
    main()
