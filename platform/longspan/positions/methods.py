"""The position methods as data: what a recipe can ask for, and nothing about how it is computed.

Stands at the door of `positions/`: a recipe names one of these, `assign` dispatches on its type. The defaults of a
recipe are the defaults here.
"""

import math
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias, get_args

import numpy as np
import numpy.typing as npt

from longspan.errors import ConfigError

IntArray: TypeAlias = npt.NDArray[np.integer[Any]]
Int64Array: TypeAlias = npt.NDArray[np.int64]
PositionArray: TypeAlias = npt.NDArray[np.float32]
PitVariant: TypeAlias = Literal["composition", "bounded"]
Segments: TypeAlias = Literal["sentence", "paragraph"]
LastChunk: TypeAlias = Literal["random", "suffix"]
TextOffset: TypeAlias = Literal["none", "same", "uniform"]

# Every integer up to this one has its own float32; beyond it neighbours would share a position.
MAX_TARGET_LENGTH = 2**24


@dataclass(frozen=True)
class Contiguous:
    """Ordinary positions 0..n-1: full-length training, replay, and the control of every comparison."""


@dataclass(frozen=True)
class LongRecipe:
    """Position-index transformation of LongRecipe (arXiv 2409.00509, section 4.2 and Algorithm 1, corrected).

    `variant`: "composition" spreads the unused positions uniformly over the gaps (Algorithm 1); "bounded" draws every
    gap from {0..M} with M filling the window on average (Eq. 6 without its '+1', which would leave a hole at gap 0).
    `min_segments`: a document with fewer segments is cut at random places until it has this many. The paper has no
    such rule; without it a short document of one sentence would be trained without any gap. 1 switches it off.
    `segments`: what the caller looks for when it makes the segment starts; nothing here reads it.
    """

    variant: PitVariant = "composition"
    min_segments: int = 7
    segments: Segments = "sentence"

    def __post_init__(self) -> None:
        _check_choice("variant", self.variant, get_args(PitVariant))
        _check_choice("segments", self.segments, get_args(Segments))
        _check_least("min_segments", self.min_segments, 1)


@dataclass(frozen=True)
class PoSE:
    """Positional skip-wise training (arXiv 2309.10400): `num_chunks` chunks, each shifted by a growing skip.

    `last_chunk`: "random" draws every skip, as in the paper; "suffix" puts the last chunk at the end of the window, so
    that every document reaches its top (not in the paper).
    `text_offset`: where the text of chunk i comes from. "none": the sample's own consecutive tokens (the paper's
    v_i = 0). The others take it from a longer text (`chunks.text_chunks`): "same" at its own positions (v_i = u_i, the
    best of the three in the paper, by 0.04 to 0.05 of perplexity), "uniform" anywhere after chunk i - 1.
    """

    num_chunks: int = 2
    last_chunk: LastChunk = "random"
    text_offset: TextOffset = "none"

    def __post_init__(self) -> None:
        _check_choice("last_chunk", self.last_chunk, get_args(LastChunk))
        _check_choice("text_offset", self.text_offset, get_args(TextOffset))
        _check_least("num_chunks", self.num_chunks, 1)


@dataclass(frozen=True)
class RandPos:
    """Randomised positional encodings (arXiv 2305.16843; "RPES" in LongRecipe): a sorted sample of the window."""


@dataclass(frozen=True)
class CREAM:
    """Continuity-relativity indexing (arXiv 2406.07138): a head at 0, a tail at the top, a middle between them.

    The middle's place follows a truncated Gaussian of standard deviation `sigma`, in units of half a document's length.
    """

    sigma: float = 3.0

    def __post_init__(self) -> None:
        if not 0 < self.sigma < math.inf:
            raise ConfigError(f"positions.sigma is {self.sigma}; it must be a finite number above 0 (the paper uses 3)")


@dataclass(frozen=True)
class E2LLM:
    """E2-LLM (arXiv 2401.06951): positions (m + t) / g with scale g and offset t drawn anew; they are fractional.

    `window`: tokens of the model's own window, L; positions stay below it, so the model keeps its own RoPE.
    `num_sinks`: first tokens of a document that get no offset.
    """

    window: int
    num_sinks: int = 4

    def __post_init__(self) -> None:
        _check_least("window", self.window, 1)
        _check_least("num_sinks", self.num_sinks, 1)


PositionMethod: TypeAlias = Contiguous | LongRecipe | PoSE | RandPos | CREAM | E2LLM


def _check_choice(name: str, value: str, known: tuple[str, ...]) -> None:
    if value not in known:
        raise ConfigError(f"positions.{name} is {value!r}; known are {', '.join(known[:-1])} and {known[-1]}")


def _check_least(name: str, value: int, least: int) -> None:
    if value < least:
        raise ConfigError(f"positions.{name} is {value}; it must be {least} or more")


def check_target_length(target_length: int) -> None:
    """Raise `ConfigError` unless 1 <= target_length <= 2**24 (the integers that float32 holds exactly)."""
    if not 1 <= target_length <= MAX_TARGET_LENGTH:
        raise ConfigError(
            f"data.target_length is {target_length}; it must be between 1 and {MAX_TARGET_LENGTH} "
            "(float32 positions are exact only up to there)"
        )
