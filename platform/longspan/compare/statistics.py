"""What a few seeds can say: mean and spread, and the interval of a paired difference. Pure arithmetic.

The interval is Student's t over seeds: two runs of one seed see the same samples where their settings allow it, so that
their difference varies less than either. It covers the choice of samples and positions, not that of the base (there is
one) nor of the questions (all runs answer the same).
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from statistics import fmean, stdev
from typing import Any

CONFIDENCE = 0.95
_T_975 = (
    *(12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262, 2.228),
    *(2.201, 2.179, 2.160, 2.145, 2.131, 2.120, 2.110, 2.101, 2.093, 2.086),
    *(2.080, 2.074, 2.069, 2.064, 2.060, 2.056, 2.052, 2.048, 2.045, 2.042),
)
"""97.5 % quantiles of Student's t for 1 to 30 degrees of freedom."""

Values = Mapping[Any, float]
"""Value of a metric by seed; by None for what has no seed because nothing was trained."""


@dataclass(frozen=True)
class Difference:
    """Mean of paired differences with its 95 % interval; None where fewer than two pairs leave it open."""

    mean: float
    low: float | None
    high: float | None
    pairs: int


def spread(values: Values) -> float | None:
    """Sample standard deviation over seeds; None for fewer than two."""
    return stdev(values.values()) if len(values) > 1 else None


def mean(values: Values) -> float:
    return fmean(values.values())


def paired_difference(ours: Values, theirs: Values) -> Difference | None:
    """`ours` less `theirs`, seed by seed; what has no seed is the same for every one. None where no seed is shared."""
    seeds: list[int | None]
    if None in ours or None in theirs:
        seeds = [seed for seed in (*ours, *theirs) if seed is not None] or [None]
    else:
        seeds = [seed for seed in ours if seed in theirs]
    differences = [_at(ours, seed) - _at(theirs, seed) for seed in seeds]
    if not differences:
        return None
    average = fmean(differences)
    if len(differences) < 2:
        return Difference(average, None, None, len(differences))
    half = t_quantile(len(differences) - 1) * stdev(differences) / math.sqrt(len(differences))
    return Difference(average, average - half, average + half, len(differences))


def t_quantile(degrees: int) -> float:
    """The 97.5 % quantile of Student's t; beyond 30 degrees of freedom that of 30, which is a little wide."""
    return _T_975[min(degrees, len(_T_975)) - 1]


def _at(values: Values, seed: int | None) -> float:
    return values[None] if None in values else values[seed]
