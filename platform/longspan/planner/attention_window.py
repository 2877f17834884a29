"""How far attention reaches in the steps of a run: in windows that widen (SkyLadder, arXiv 2503.15450) or groups.

`describe` says it before the run, `feed.attention_window` and `train.engine` go by it.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from longspan.config.attention_window import AttentionWindow
from longspan.config.recipe import Recipe


@dataclass(frozen=True)
class Widening:
    """The widths of a run's blocks, in tokens.

    Attributes:
        first, last: in the first and the last step.
        end: the width that the schedule goes to.
        reached_at_step: first step (0-based) of that width; None where the run ends before it.
        mean: over all steps.
    """

    first: int
    last: int
    end: int
    reached_at_step: int | None
    mean: float


def block_widths(window: AttentionWindow, sample_length: int, steps: NDArray[np.int64]) -> NDArray[np.int64]:
    """Tokens of a block in each of `steps` (int64, 0-based): w = min(end, start + floor(rate * step)).

    With `multiple`, a width below `end` is rounded down to one, but not below `start`. `sinusoidal` takes the part of
    the way that sin(pi / 2 * step / T) says, T = (end - start) / rate.
    """
    end = sample_length if window.end is None else window.end
    way = end - window.start
    grown = np.minimum(window.rate * steps, way)
    if window.schedule == "sinusoidal":
        grown = way * np.sin(np.pi / 2 * grown / way)
    # Rounded before it is cut: machines differ in the last digits of a sine, and samples must not.
    widths = window.start + np.floor(np.round(grown, 6)).astype(np.int64)
    stepped = np.maximum(widths // window.multiple * window.multiple, window.start)
    return np.where(widths < end, stepped, end)


def widening(recipe: Recipe) -> Widening | None:
    """Of the recipe's run; None without `data.attention_window`."""
    window = recipe.data.attention_window
    if window is None:
        return None
    length = recipe.data.sample_length
    widths = block_widths(window, length, np.arange(recipe.train.steps))
    end = window.end or length
    reached = np.flatnonzero(widths == end)
    return Widening(
        first=int(widths[0]),
        last=int(widths[-1]),
        end=end,
        reached_at_step=int(reached[0]) if reached.size else None,
        mean=float(widths.mean()),
    )


def attention_group(recipe: Recipe) -> int:
    """Tokens of a group under `model.attention_pattern`; 0 where attention is whole."""
    pattern = recipe.model.attention_pattern
    return recipe.data.sample_length // pattern.groups if pattern else 0


def attention_length(recipe: Recipe) -> float:
    """Tokens of the longest stretch that attention spans, on average over the steps: the samples' length, or that of
    their blocks or groups. What `costs.flops_per_token` takes as the length of a sample.
    """
    found = widening(recipe)
    if found is not None:
        return found.mean
    return float(attention_group(recipe) or recipe.data.sample_length)
