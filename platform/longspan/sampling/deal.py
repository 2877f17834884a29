"""The sources' samples dealt out to the run by the mix: each source gets its share of the tokens that are trained.

Time runs in tokens: in a time t a source with share w is due w * t tokens. Each of its samples stands for a stretch of
these tokens and comes at a moment drawn from its stretch, so the order is random and yet, wherever the run is cut, no
source is a sample ahead or behind of what it is due. `plan` cuts what is dealt into parts.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from longspan.errors import ConfigError
from longspan.sampling.mix import Mixture, blocks, check_limits, limited_mixture, spread_over
from longspan.sampling.packing import Samples, joined
from longspan.sampling.settings import PlanSettings
from longspan.sampling.windows import uniform

_MOMENT = 5
"""Tag of the moments at which a source's samples come."""

_LEAST_DRAWN = 256
"""Samples drawn from a stream at once, where its windows hold fewer."""


@dataclass
class Line:
    """The samples of one source that wait for their turn; drawn from its stream as they are needed.

    Attributes:
        stream: the source's samples, without end or up to its limit on repetition.
        key: entropy of the source's streams.
        settings: of the plan.
        held: samples drawn from the stream, the next one first.
        weight: int64 [num_held], trained tokens of each.
        num_dealt: samples dealt so far.
        owed: tokens that were due to the source so far, less those dealt.
        has_ended: True when the stream has no more than is held.
        is_open: False when the source has been due a sample that its stream did not have.
    """

    stream: Iterator[Samples]
    key: tuple[int, ...]
    settings: PlanSettings
    held: Samples
    weight: NDArray[np.int64]
    num_dealt: int = 0
    owed: float = 0.0
    has_ended: bool = False
    is_open: bool = True

    def draw(self, num_samples: int) -> None:
        """Draws from the stream until so many samples more are held, or it ends."""
        parts, weights = [self.held], [self.weight]
        while num_samples > 0 and not self.has_ended:
            samples = next(self.stream, None)
            if samples is None:
                self.has_ended = True
                break
            parts.append(samples)
            weights.append(np.minimum(samples.tokens, self.settings.trained_length))
            num_samples -= samples.num_samples
        if len(parts) > 1:
            self.held, self.weight = joined(parts), np.concatenate(weights)

    def moments(self, share: float, num_samples: int) -> NDArray[np.float64]:
        """float64, rising: when the next samples come that are held, from now on in tokens of all sources.

        Where the stream has ended and fewer than `num_samples` are held, the last is of the sample that it lacks.
        """
        weight = self.weight[:num_samples]
        if self.lacks(num_samples):
            weight = np.append(weight, self.settings.sample_length)
        before = np.cumsum(weight) - weight
        number = np.arange(self.num_dealt, self.num_dealt + weight.size)
        at = uniform([*self.key, _MOMENT], number) if self.settings.shuffle else 0.5
        return (before + at * weight - self.owed) / share

    def lacks(self, num_samples: int) -> bool:
        """True where the stream has ended and fewer are held."""
        return self.has_ended and self.weight.size < num_samples

    def reach(self, share: float) -> float:
        """The moment before which nothing comes that is not held."""
        return float("inf") if self.has_ended else (int(self.weight.sum()) - self.owed) / share

    def take(self, num_samples: int, due: float) -> Samples:
        """The next samples, while `due` tokens became due."""
        taken, self.held = self.held.between(0, num_samples), self.held.between(num_samples, self.held.num_samples)
        self.owed += due - int(self.weight[:num_samples].sum())
        self.weight, self.num_dealt = self.weight[num_samples:], self.num_dealt + num_samples
        return taken


def open_line(stream: Iterator[Samples], key: tuple[int, ...], settings: PlanSettings) -> Line:
    """A line of which nothing has been drawn."""
    none, short = np.zeros(0, dtype=np.int64), np.zeros(0, dtype=np.int32)
    return Line(stream, key, settings, Samples(np.zeros(1, dtype=np.int64), none, none, short, short), none)


def within_limits(
    asked: Mixture,
    lines: Mapping[int, Line],
    most_tokens: NDArray[np.float64],
    settings: PlanSettings,
    names: Sequence[str],
) -> Mixture:
    """`asked`, with the shares that the sources' limits do not allow spread over the others, if that is wanted.

    As exact as the fill of each source's first samples tells; `dealt` keeps the limits themselves.

    Args:
        asked: see `mix.asked_mixture`.
        lines: of the sources that have a share; draws the first window of each.
        most_tokens: float64 [num_sources], tokens that may be drawn of each source; inf without a limit.

    Raises:
        ConfigError: a source has clearly less than is asked of it, and that is to be refused.
    """
    if np.isinf(most_tokens).all():
        return asked
    fill, read = np.ones(most_tokens.size), np.ones(most_tokens.size)
    for number, line in lines.items():
        line.draw(1)
        if line.weight.size:
            fill[number], read[number] = line.weight.mean(), line.held.tokens.mean()
    capacity = most_tokens / read
    if settings.on_limit == "spread":
        return limited_mixture(asked, capacity, fill)
    check_limits(asked, capacity, fill, settings, names)
    return asked


def dealt(
    mixture: Mixture, lines: Mapping[int, Line], settings: PlanSettings, names: Sequence[str]
) -> Iterator[tuple[NDArray[np.int16], Samples]]:
    """The run in order, some samples at a time: the source of each, and the samples.

    At every prefix of the run, and for every source, the tokens dealt are within one sample of those due; and those due
    are its shares of the tokens dealt to within a sample for each source, times how much its share has changed.

    Raises:
        ConfigError: a source has no sample left inside its limit, and that is to be refused, or none can take over.
    """
    first = 0
    for size, shares in blocks(mixture):
        stop = first + size
        while first < stop:
            now = spread_over(shares, np.array([n not in lines or lines[n].is_open for n in range(shares.size)]))
            if not now.any():
                raise _nothing_left(settings, shares, names, first)
            sources, samples, ended = _deal_some(lines, now, stop - first, stop == mixture.num_samples)
            first += sources.size
            if ended is not None:
                if settings.on_limit == "refuse":
                    raise _over_limit(settings, names[ended], first)
                lines[ended].is_open = False
            if sources.size:
                yield sources, samples


def _deal_some(
    lines: Mapping[int, Line], shares: NDArray[np.float64], size: int, is_last: bool
) -> tuple[NDArray[np.int16], Samples, int | None]:
    """The next `size` samples, or as many as come before a source lacks one; and that source."""
    # With the one after them, for the moment at which they have been dealt; not after the run's last.
    needed = size if is_last else size + 1
    used = np.flatnonzero(shares).tolist()
    while True:
        found = [lines[number].moments(float(shares[number]), needed) for number in used]
        moment = np.concatenate(found)
        order = np.argsort(moment, kind="stable")[:needed]
        reach, nearest = min((lines[number].reach(float(shares[number])), number) for number in used)
        if reach == np.inf or (order.size == needed and moment[order[-1]] <= reach):
            break
        lines[nearest].draw(_LEAST_DRAWN)
    source = np.repeat(np.array(used, dtype=np.int16), [own.size for own in found])
    ends = np.cumsum([own.size for own in found])
    lacking = {int(end) - 1: number for end, number in zip(ends, used, strict=True) if lines[number].lacks(needed)}
    stops = [place for place, entry in enumerate(order.tolist()) if entry in lacking] if lacking else []
    count = min([size, *stops])
    dealt_sources = source[order[:count]]
    counts = np.bincount(dealt_sources, minlength=shares.size)
    # Between the last sample and the next any moment will do: the best is the one at which all that was due is dealt.
    tokens = sum(int(lines[number].weight[: counts[number]].sum()) for number in used)
    now = tokens - sum(line.owed for line in lines.values())
    low = moment[order[count - 1]] if count else 0.0
    now = float(np.clip(now, low, max(moment[order[count]], low) if count < order.size else np.inf))
    taken = [lines[number].take(int(counts[number]), float(shares[number]) * now) for number in used]
    # The j-th sample of a source among these is the j-th of those taken; a stable sort by source lines them up.
    back = np.empty(count, dtype=np.int64)
    back[np.argsort(dealt_sources, kind="stable")] = np.arange(count)
    ended = lacking[int(order[count])] if count < size else None
    return dealt_sources, joined(taken).reordered(back), ended


def _over_limit(settings: PlanSettings, name: str, sample: int) -> ConfigError:
    return ConfigError(
        f"data.mix: the run has drawn all that data.repetition.max_epochs {settings.max_epochs[name]:g} allows of"
        f" {name} at step {sample // settings.global_batch_size} of {settings.steps}; lower its weight or train.steps,"
        " raise the limit, or set data.repetition.on_limit to spread"
    )


def _nothing_left(
    settings: PlanSettings, shares: NDArray[np.float64], names: Sequence[str], sample: int
) -> ConfigError:
    sources = [name for name, share in zip(names, shares.tolist(), strict=True) if share > 0]
    return ConfigError(
        f"data.mix: from step {sample // settings.global_batch_size} of {settings.steps} on all the sources {sources}"
        " have reached data.repetition.max_epochs and none is left to take the rest; raise a limit, add a source, or"
        " lower train.steps"
    )
