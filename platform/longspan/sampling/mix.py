"""Which source each sample of a run comes from: the mix schedule, its whole numbers, and limits on repetition.

The k-th sample of a source is due when its expected number of samples reaches k; samples stand in the order in which
they are due, shuffled inside blocks. So any block is known without those before it. `plan` deals the streams of the
sources out by these blocks; `statistics` compares them with what was asked for.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from longspan.errors import ConfigError
from longspan.sampling.settings import MixPoint, PlanSettings

BLOCK_SAMPLES = 4096
"""Samples that are shuffled with each other across sources."""

_MIX_ORDER, _MIX_PHASE = 11, 13
_GOLDEN = 0.6180339887498949
_BLOCKS_AT_ONCE = 64
_NOTHING = 1e-12
"""Shares below this are none: no run is long enough for one sample of them, and their quotients overflow."""
_RAMP_BLOCKS, _LEAST_BLOCK = 64, 16
"""Where the shares move, a block is at most this part of its segment: shuffled in one, a short ramp would be flat."""


@dataclass(frozen=True)
class Mixture:
    """Shares of the sources over a run, linear between the borders of its segments.

    Attributes:
        borders: int64 [num_segments + 1], samples at which the segments begin, and the end of the run.
        begin: float64 [num_segments, num_sources], shares at a segment's begin; each row adds up to 1.
        end: float64 [num_segments, num_sources], shares at its end.
        seed: the recipe's seed.
    """

    borders: NDArray[np.int64]
    begin: NDArray[np.float64]
    end: NDArray[np.float64]
    seed: int

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
    return Mixture(np.array(steps, dtype=np.int64) * settings.global_batch_size, shares, after, settings.seed)


def limited_mixture(
    asked: Mixture, settings: PlanSettings, source_names: Sequence[str], epoch_tokens: NDArray[np.float64]
) -> Mixture:
    """`asked`, made sure to repeat no source more often than `settings.max_epochs` allows.

    Args:
        asked: see `asked_mixture`.
        settings: with `max_epochs` and `on_limit`.
        source_names: the corpus's sources.
        epoch_tokens: float64 [num_sources], tokens of an epoch, copies of upsampled documents included.

    Raises:
        ConfigError: a limit does not hold and is to be refused, or the other sources have no room for the rest.
    """
    for name in settings.max_epochs:
        if name not in source_names:
            raise ConfigError(f"data.repetition.by_source.{name}: not in the manifest; it has {list(source_names)}")
    most = np.array([settings.max_epochs.get(name, np.inf) for name in source_names])
    with np.errstate(invalid="ignore"):
        capacity = np.floor(np.where(np.isinf(most), np.inf, most * epoch_tokens) / settings.sample_length)
    if settings.on_limit == "refuse":
        over = np.flatnonzero(total_counts(asked) > capacity)
        if over.size:
            first = int(over[0])
            name, needed = source_names[first], total_counts(asked)[first] * settings.sample_length
            raise ConfigError(
                f"data.mix: the run draws {needed / max(epoch_tokens[first], 1.0):.2f} epochs of {name}, and "
                f"data.repetition.max_epochs allows {most[first]:g}; lower its weight or train.steps, raise the limit, "
                "or set data.repetition.on_limit to spread"
            )
        return asked
    return _spread(asked, capacity, source_names)


def expected_samples(mixture: Mixture, begin: int, stop: int) -> NDArray[np.float64]:
    """float64 [num_sources], samples that the schedule gives each source between samples `begin` and `stop`."""
    total = np.zeros(mixture.begin.shape[1])
    for segment, (first, last) in enumerate(zip(mixture.borders[:-1], mixture.borders[1:], strict=True)):
        at = np.clip([begin, stop], first, last) - first
        total += np.diff(_due(mixture, segment, at.astype(np.float64)), axis=0)[0]
    return total


def total_counts(mixture: Mixture) -> NDArray[np.int64]:
    """int64 [num_sources], samples that the whole run takes from each source."""
    lengths = np.diff(mixture.borders)
    return sum(
        (counts_until(mixture, segment, lengths[segment : segment + 1])[0] for segment in range(lengths.size)),
        np.zeros(mixture.begin.shape[1], dtype=np.int64),
    )


def counts_until(mixture: Mixture, segment: int, samples: NDArray[np.int64]) -> NDArray[np.int64]:
    """Samples of each source among the first `samples` of a segment: what is due first, comes first.

    A source's count is within 1 of what is expected when the last of them is due, and that is within
    `num_sources` samples of their number.

    Args:
        mixture: the schedule.
        segment: its segment.
        samples: int64 [n].

    Returns:
        int64 [n, num_sources], rows that add up to `samples`; never falling with `samples`.
    """
    num_sources = mixture.begin.shape[1]
    start = np.random.default_rng([mixture.seed, _MIX_PHASE, segment]).random()
    # Where a source starts between two of its samples: spread evenly, so that the sources' roundings cancel out.
    phase = (start + _GOLDEN * np.arange(num_sources)) % 1.0

    def counts(when: NDArray[np.float64]) -> NDArray[np.int64]:
        return np.floor(_due(mixture, segment, when) + phase).astype(np.int64)

    # The moment at which the number of due samples reaches `samples`, down to neighbouring floats.
    low = np.maximum(samples - num_sources - 1.0, 0.0)
    high = samples + num_sources + 1.0
    while True:
        middle = (low + high) / 2
        if ((middle <= low) | (middle >= high)).all():
            break
        reached = counts(middle).sum(axis=1) >= samples
        low, high = np.where(reached, low, middle), np.where(reached, middle, high)
    # Several sources may be due at that moment: the first of them come first.
    before = counts(low)
    room = samples[:, None] - before.sum(axis=1, keepdims=True)
    due = counts(high) - before
    return before + np.clip(room - (np.cumsum(due, axis=1) - due), 0, due)


def block_sources(mixture: Mixture, shuffle: bool) -> Iterator[NDArray[np.int16]]:
    """The source of every sample of the run, block after block.

    Yields:
        int16 [block_samples], at most `BLOCK_SAMPLES`, in a seeded order, or without `shuffle` evenly interleaved.
    """
    for segment, length in enumerate(np.diff(mixture.borders).tolist()):
        is_ramp = not np.array_equal(mixture.begin[segment], mixture.end[segment])
        size = min(BLOCK_SAMPLES, max(length // _RAMP_BLOCKS, _LEAST_BLOCK)) if is_ramp else BLOCK_SAMPLES
        num_blocks = -(-length // size)
        for first in range(0, num_blocks, _BLOCKS_AT_ONCE):
            edges = np.arange(first, min(first + _BLOCKS_AT_ONCE, num_blocks) + 1) * size
            counts = np.diff(counts_until(mixture, segment, np.minimum(edges, length)), axis=0)
            for block, row in enumerate(counts, start=first):
                yield _block_order(row, [mixture.seed, _MIX_ORDER, segment, block] if shuffle else None)


def _block_order(counts: NDArray[np.int64], key: list[int] | None) -> NDArray[np.int16]:
    sources = np.repeat(np.arange(counts.size, dtype=np.int16), counts)
    if key is not None:
        return np.random.default_rng(key).permutation(sources)
    place = np.arange(sources.size) - np.repeat(np.cumsum(counts) - counts, counts)
    return sources[np.argsort((place + 0.5) / counts[sources], kind="stable")]


def _due(mixture: Mixture, segment: int, when: NDArray[np.float64]) -> NDArray[np.float64]:
    """float64 [n, num_sources], samples expected of each source after `when` samples of the segment.

    After the segment's end the shares stay as they are there.
    """
    begin, end = mixture.begin[segment], mixture.end[segment]
    length = float(mixture.borders[segment + 1] - mixture.borders[segment])
    inside = np.minimum(when, length)[:, None]
    return inside * (begin + (end - begin) * (inside / (2 * length))) + (when[:, None] - inside) * end


def _spread(mixture: Mixture, capacity: NDArray[np.float64], names: Sequence[str]) -> Mixture:
    """Sources above their capacity scaled down to it, and what they free given to the others by their shares.

    A source that has been scaled down gets nothing of what others free later, so there are at most `num_sources` rounds
    but for those that mend a rounding.
    """
    full = np.zeros(len(names), dtype=np.bool_)
    while True:
        counts = total_counts(mixture)
        over = counts > capacity
        if not over.any():
            return mixture
        full |= over
        expected = expected_samples(mixture, 0, mixture.num_samples)
        # Where rounding alone takes more than the capacity, the share goes down by as many samples.
        target = np.where(expected > capacity + 1e-6, capacity, np.maximum(expected - (counts - capacity), 0.0))
        scale = np.divide(target, expected, out=np.ones_like(expected), where=over)
        mixture = replace(
            mixture,
            begin=_given_away(mixture, mixture.begin, scale, full, names),
            end=_given_away(mixture, mixture.end, scale, full, names),
        )


def _given_away(
    mixture: Mixture,
    shares: NDArray[np.float64],
    scale: NDArray[np.float64],
    full: NDArray[np.bool_],
    names: Sequence[str],
) -> NDArray[np.float64]:
    """`shares` times `scale`, and what is freed in each row given to the sources that are not full."""
    freed = (shares * (1.0 - scale)).sum(axis=1)
    room = np.where(full, 0.0, shares).sum(axis=1)
    stuck = np.flatnonzero((freed > _NOTHING) & (room <= _NOTHING))
    if stuck.size:
        sources = [name for name, share in zip(names, shares[stuck[0]], strict=True) if share > 0]
        raise ConfigError(
            f"data.mix: from sample {int(mixture.borders[stuck[0]])} on all the sources {sources} reach "
            "data.repetition.max_epochs and none is left to take the rest; raise a limit, add a source, or lower "
            "train.steps"
        )
    factor = 1.0 + np.divide(freed, room, out=np.zeros_like(freed), where=room > _NOTHING)
    return shares * np.where(full, scale, factor[:, None])


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
