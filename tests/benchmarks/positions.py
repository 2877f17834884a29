"""Tokens/s of the position transforms on one core, beside the published way: Python lists, sentence by sentence.

    python -m tests.benchmarks.positions [--tiny] [--output DIR]

The published way is written anew from its description (LongRecipe, Algorithm 1 and App. C): cut the token list at the
ids that end a sentence, set the sentences into a list of free slots, flatten it, keep the indices of what is not free.
PoSE and RandPos likewise with ranges and lists. Its lists are taken as they are: turning them into tensors is not
counted. Ours is what the feed calls, with the making of the sample's random generator: float32 arrays.
"""

import random
from collections.abc import Callable, Sequence, Sized
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from longspan.positions import (
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
    "randpos": RandPos(),
}
COLUMNS = ("case", "contender", "tokens_per_cpu_s", "cpu_ratio", "ratio", "reaches_aim")


@dataclass(frozen=True)
class Material:
    """Samples int32 [num_samples, sample_length], and the lookup of the ids that end a sentence, bool [VOCAB]."""

    samples: NDArray[np.int32]
    ends: NDArray[np.bool_]


def make_material(num_samples: int, sample_length: int, seed: int = 0) -> Material:
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
    return Material(samples, ends)


def ours(material: Material, starts: list[NDArray[np.int64]] | None, method: PositionMethod) -> list[NDArray]:
    """Positions of every sample; `starts` None: sentences are looked for too."""
    boundaries = np.array([0, material.samples.shape[1]])
    return [
        sample_positions(
            method,
            boundaries,
            segment_starts(sample, material.ends) if starts is None else starts[number],
            TARGET,
            np.random.default_rng([0, number]),
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


def published(
    material: list[list[int]], ends: frozenset[int], sentences: list[list[list[int]]] | None, name: str
) -> list[list[int]]:
    """The same samples as lists; `sentences` None: they are looked for too, where the method has any use for them."""
    draw = random.Random(0)
    found = []
    for number, tokens in enumerate(material):
        if name.startswith("longrecipe"):
            cut = sentences_of(tokens, ends) if sentences is None else sentences[number]
            found.append(listed_longrecipe(cut, len(tokens), draw))
        elif name == "pose":
            found.append(listed_pose(len(tokens), draw))
        elif name == "randpos":
            found.append(sorted(draw.sample(range(TARGET), len(tokens))))
        else:
            found.append(list(range(len(tokens))))
    return found


def _counted(make: Callable[[], Sequence[Sized]], check: bool) -> Measured:
    return timed(lambda: (sum(len(positions) for positions in make()), -1))


def measure(tiny: bool, repeats: int) -> list[Row]:
    """Rows of every sample length and method, each with the published way as its baseline."""
    rows: list[Row] = []
    for sample_length in (512, 256) if tiny else (38_400, 8_192):
        many = make_material(2 if tiny else 2_000_000 // sample_length, sample_length)
        few = Material(many.samples[: 2 if tiny else max(2, 160_000 // sample_length)], many.ends)
        starts = [segment_starts(sample, many.ends) for sample in many.samples]
        ends = frozenset(np.flatnonzero(many.ends).tolist())
        lists = few.samples.tolist()
        sentences = [sentences_of(tokens, ends) for tokens in lists]
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
                rows.append({"case": f"{name}, {sample_length:,} tokens", "reaches_aim": reaches, **row})
    return rows


def run(tiny: bool, repeats: int, output: Path | None) -> list[Row]:
    rows = measure(tiny, repeats)
    remarks = (
        f"target {TARGET:,}; sentences of {SENTENCE_TOKENS} tokens on average; aim {AIM / 1e6:.0f}M tokens/s a core.",
        "RandPos draws one random number a token and sorts the window: the draw alone is most of its time.",
    )
    report("positions", rows, COLUMNS, output, remarks)
    return rows


def main() -> None:
    given = arguments(__doc__)
    run(given.tiny, given.repeats, given.output)


if __name__ == "__main__":
    main()
