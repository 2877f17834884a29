"""Shares of the sources over a run: the schedule of the recipe, and what limits on repetition leave of it.

Shares are of the tokens that are trained, so padding counts for nothing. `deal` draws the sources' samples by them;
`statistics` compares what it drew with what was asked for.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from longspan.errors import ConfigError
from longspan.sampling.settings import MixPoint, PlanSettings

BLOCK_SAMPLES = 4096
"""Samples that are dealt at once, by the same shares."""

_NOTHING = 1e-12
"""Shares below this are none: no run is long enough for one sample of them, and their quotients overflow."""
_RAMP_BLOCKS, _LEAST_BLOCK = 64, 16
"""Where the shares move, a block is at most this part of its segment: dealt in one, a short ramp would be flat."""


@dataclass(frozen=True)
class Mixture:
    """Shares of the sources over a run, linear between the borders of its segments.

    Attributes:
        borders: int64 [num_segments + 1], samples at which the segments begin, and the end of the run.
        begin: float64 [num_segments, num_sources], shares at a segment's begin; each row adds up to 1.
        end: float64 [num_segments, num_sources], shares at its end.
    """

    borders: NDArray[np.int64]
    begin: NDArray[np.float64]
    end: NDArray[np.float64]

    @property
    def num_samples(self) -> int:
        return int(self.borders[-1])


def asked_mixture(settings: PlanSettings, source_names: Sequence[str], source_tokens: NDArray[np.int64]) -> Mixture:
    """The schedule of the recipe, before any limit.

    Args:
        settings: what is asked for.
        source_names: the corpus's sources.
        source_tokens: int64 [num_sources].

    Raises:
        ConfigError: points out of order, a source that the corpus lacks or that has no tokens, no weight above 0.
    """
    points = settings.mix
    _check(points, settings.steps, source_names, source_tokens)
    shares = np.array([_shares(point.weights, source_names) for point in points])
    steps = [*(point.step for point in points), settings.steps]
    after = np.array([shares[i + 1] if point.ramp else shares[i] for i, point in enumerate(points)])
    return Mixture(np.array(steps, dtype=np.int64) * settings.global_batch_size, shares, after)


def limited_mixture(asked: Mixture, capacity: NDArray[np.float64], fill: NDArray[np.float64]) -> Mixture:
    """`asked` with less of the sources that are too small for it, all through the run, and more of the others.

    Counted in samples, of which a run has a known number; as exact as `fill`. `deal` keeps the limits themselves.

    Args:
        asked: see `asked_mixture`.
        capacity: float64 [num_sources], samples that a source has at most; inf without a limit.
        fill: float64 [num_sources], trained tokens of a source's sample, mean; above 0.
    """
    return _weighed(_spread(_weighed(asked, 1 / fill), capacity), fill)


def check_limits(
    asked: Mixture,
    capacity: NDArray[np.float64],
    fill: NDArray[np.float64],
    settings: PlanSettings,
    names: Sequence[str],
) -> None:
    """Refuses at once what `deal` would refuse at its end: arguments as for `limited_mixture`.

    Raises:
        ConfigError: the run draws clearly more of a source than its limit allows.
    """
    samples = _weighed(asked, 1 / fill)
    expected = np.diff(samples.borders) @ ((samples.begin + samples.end) / 2)
    # Near the limit only the deal knows.
    for number in np.flatnonzero(expected > capacity * 1.02 + 1).tolist():
        name, most = names[number], settings.max_epochs[names[number]]
        raise ConfigError(
            f"data.mix: the run draws {most * expected[number] / capacity[number]:.2f} epochs of {name}, and"
            f" data.repetition.max_epochs allows {most:g}; lower its weight or train.steps, raise the limit, or set"
            " data.repetition.on_limit to spread"
        )


def shares_at(mixture: Mixture, samples: NDArray[np.int64]) -> NDArray[np.float64]:
    """float64 [n, num_sources], the shares at the middle of these samples (int64 [n], counted from the run's begin)."""
    segment = np.searchsorted(mixture.borders, samples, side="right") - 1
    first, length = mixture.borders[segment], np.diff(mixture.borders)[segment]
    begin, end = mixture.begin[segment], mixture.end[segment]
    return begin + (end - begin) * ((samples - first + 0.5) / length)[:, None]


def blocks(mixture: Mixture) -> Iterator[tuple[int, NDArray[np.float64]]]:
    """The run cut into blocks, each (samples, shares float64 [num_sources]): those of a ramp at the block's middle."""
    for segment, length in enumerate(np.diff(mixture.borders).tolist()):
        begin, end = mixture.begin[segment], mixture.end[segment]
        is_ramp = not np.array_equal(begin, end)
        size = min(BLOCK_SAMPLES, max(length // _RAMP_BLOCKS, _LEAST_BLOCK)) if is_ramp else BLOCK_SAMPLES
        for first in range(0, length, size):
            stop = min(first + size, length)
            yield stop - first, begin + (end - begin) * ((first + stop) / (2 * length))


def spread_over(shares: NDArray[np.float64], is_open: NDArray[np.bool_]) -> NDArray[np.float64]:
    """`shares` of the sources that are open, adding up to 1 again; all 0 where none of them has a share."""
    left = np.where(is_open, shares, 0.0)
    return left / max(float(left.sum()), _NOTHING)


def _weighed(mixture: Mixture, weight: NDArray[np.float64]) -> Mixture:
    """The shares times a weight for each source, adding up to 1 again: of tokens from those of samples, and back."""
    begin, end = mixture.begin * weight, mixture.end * weight
    return replace(mixture, begin=begin / begin.sum(axis=1, keepdims=True), end=end / end.sum(axis=1, keepdims=True))


def _spread(mixture: Mixture, capacity: NDArray[np.float64]) -> Mixture:
    """Sources above their capacity scaled down to it, and what they free given to the others by their shares.

    Where no other source has a share, none gives any. A source that has been scaled down gets nothing of what others
    free later, so there are at most `num_sources` rounds.
    """
    rows = np.concatenate([mixture.begin, mixture.end])
    weight = np.tile(np.diff(mixture.borders) / 2, 2)
    full = np.zeros(capacity.size, dtype=np.bool_)
    while True:
        expected = weight @ rows
        over = (expected > capacity * (1 + 1e-9)) & ~full
        if not over.any():
            begin, end = np.split(rows, 2)
            return replace(mixture, begin=begin, end=end)
        full |= over
        room = np.where(full, 0.0, rows).sum(axis=1)
        gives = (room > _NOTHING)[:, None]
        kept = weight @ np.where(gives, 0.0, rows)
        scale = np.ones(capacity.size)
        scale[over] = ((capacity - kept)[over] / np.maximum(expected - kept, _NOTHING)[over]).clip(0.0, 1.0)
        freed = (rows * (1.0 - scale)).sum(axis=1)
        factor = 1.0 + np.divide(freed, room, out=np.zeros_like(freed), where=gives[:, 0])
        rows = np.where(gives, rows * np.where(full, scale, factor[:, None]), rows)


def _shares(weights: Mapping[str, float], names: Sequence[str]) -> NDArray[np.float64]:
    values = np.array([float(weights.get(name, 0.0)) for name in names])
    # Scaled by the largest first: the sum of huge weights must not overflow.
    values = values / values.max()
    values[values < _NOTHING] = 0.0
    return np.asarray(values / values.sum())


def _check(points: Sequence[MixPoint], steps: int, names: Sequence[str], source_tokens: NDArray[np.int64]) -> None:
    at = [point.step for point in points]
    if not at or at[0] != 0 or sorted(set(at)) != at or at[-1] >= steps:
        raise ConfigError(f"data.mix: from_step must rise from 0 and stay below train.steps {steps}, not {at}")
    if points[-1].ramp:
        raise ConfigError(f"data.mix.{len(points) - 1}.ramp: the last point has none after it to move to; leave it out")
    for number, point in enumerate(points):
        if not any(weight > 0 for weight in point.weights.values()):
            raise ConfigError(f"data.mix.{number}.weights: needs at least one source with a weight above 0")
        for name, weight in point.weights.items():
            where = f"data.mix.{number}.weights.{name}"
            if name not in names:
                raise ConfigError(f"{where}: not in the manifest; it has {list(names)}")
            if weight < 0:
                raise ConfigError(f"{where}: {weight} is below 0; give 0 or more")
            if weight > 0 and not source_tokens[list(names).index(name)]:
                raise ConfigError(
                    f"{where}: the manifest has no token of this source; leave it out or prepare it again"
                )
