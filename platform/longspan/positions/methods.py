"""The position methods as data: what a recipe can ask for, and nothing about how it is computed.

Stands at the door of `positions/`: a recipe names one of these, `assign` dispatches on its type.
"""

from dataclasses import dataclass
from functools import cache
from typing import Any, Literal, TypeAlias, get_args

import numpy as np
import numpy.typing as npt

from longspan.errors import ConfigError

IntArray: TypeAlias = npt.NDArray[np.integer[Any]]
PositionArray: TypeAlias = npt.NDArray[np.float32]
PitVariant: TypeAlias = Literal["composition", "bounded"]

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
    """

    variant: PitVariant = "composition"
    min_segments: int = 2

    def __post_init__(self) -> None:
        if self.variant not in get_args(PitVariant):
            raise ConfigError(
                f"positions.variant is {self.variant!r}; LongRecipe knows {' and '.join(get_args(PitVariant))}"
            )
        if self.min_segments < 1:
            raise ConfigError(f"positions.min_segments is {self.min_segments}; it must be 1 or more")


@dataclass(frozen=True)
class PoSE:
    """Positional skip-wise training (arXiv 2309.10400): `num_chunks` chunks, each shifted by a growing skip."""

    num_chunks: int = 2

    def __post_init__(self) -> None:
        if self.num_chunks < 1:
            raise ConfigError(f"positions.num_chunks is {self.num_chunks}; it must be 1 or more (the paper uses 2)")


@dataclass(frozen=True)
class RandPos:
    """Randomised positional encodings (arXiv 2305.16843; "RPES" in LongRecipe): a sorted sample of the window."""


PositionMethod: TypeAlias = Contiguous | LongRecipe | PoSE | RandPos


def contiguous_positions(num_tokens: int) -> PositionArray:
    """0..num_tokens-1 as float32 [num_tokens]: a view of an array that is kept and cannot be written to."""
    return _ramp(1 << (int(num_tokens) - 1).bit_length())[:num_tokens]


@cache  # one array for each power of two up to MAX_TARGET_LENGTH that is met; 1 MB for windows of 131,072
def _ramp(length: int) -> PositionArray:
    ramp = np.arange(length, dtype=np.float32)
    ramp.flags.writeable = False
    return ramp


def check_target_length(target_length: int) -> None:
    """Raise `ConfigError` unless 1 <= target_length <= 2**24 (the integers that float32 holds exactly)."""
    if not 1 <= target_length <= MAX_TARGET_LENGTH:
        raise ConfigError(
            f"data.target_length is {target_length}; it must be between 1 and {MAX_TARGET_LENGTH} "
            "(float32 positions are exact only up to there)"
        )
