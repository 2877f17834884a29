"""What a sample plan is asked for: the mix over the run, upsampling, limits on repetition, packing.

Filled in from the recipe by `launch/`; read by the other modules of `sampling/`, and public through `sampling.plan`.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True)
class Upsample:
    """More weight for long documents inside a source, whose share of the mix stays (Fu et al., arXiv 2402.10171).

    Attributes:
        threshold: tokens from which a document counts as long.
        ratio: how often a long document comes in an epoch, at least 1; a fraction is met on average.
    """

    threshold: int
    ratio: float


@dataclass(frozen=True)
class MixPoint:
    """Weights of the sources from an optimizer step on.

    Attributes:
        step: first optimizer step.
        weights: by source, shares of the tokens trained; they need not add up to 1, sources not named have none.
        ramp: the shares move linearly from these to the next point's; otherwise they stay until the next point.
    """

    step: int
    weights: Mapping[str, float]
    ramp: bool = False


@dataclass(frozen=True)
class PlanSettings:
    """What shapes a plan, beside the corpus.

    Attributes:
        mix: points in rising order of their step, the first at step 0.
        steps: optimizer steps of the run.
        global_batch_size: samples an optimizer step.
        sample_length: tokens of a sample, padding included.
        trained_length: tokens that are trained of a sample at most; fewer than `sample_length` under a selection.
        packing: "best_fit" (documents whole where they fit, a little padding) or "sequential" (end to end, no padding).
        shuffle: False keeps corpus order in every source.
        shuffle_tokens: tokens that are shuffled with each other, document by document.
        upsample: by source; sources not named are not upsampled.
        max_epochs: by source, how often its documents may come at most; sources not named have no limit.
        on_limit: "refuse" a mix that asks for more than that, or "spread" the rest over the other sources.
        seed: the recipe's seed, not negative.
    """

    mix: tuple[MixPoint, ...]
    steps: int
    global_batch_size: int
    sample_length: int
    trained_length: int
    packing: Literal["best_fit", "sequential"]
    shuffle: bool
    shuffle_tokens: int
    upsample: Mapping[str, Upsample]
    max_epochs: Mapping[str, float]
    on_limit: Literal["refuse", "spread"]
    seed: int

    @property
    def num_samples(self) -> int:
        return self.steps * self.global_batch_size
