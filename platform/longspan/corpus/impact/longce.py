"""LongCE (2410.23771): the loss of a token counts more, the more its long prefix tells about it.

The second use of the scores of `run`; whoever makes the loss weights of a batch calls it.
"""

import math

import numpy as np
from numpy.typing import NDArray

from longspan.errors import ConfigError, DataError

GAMMA = 5.0
"""The paper's bound of a weight."""


def longce_weights(scores: NDArray[np.floating], gamma: float = GAMMA) -> NDArray[np.float32]:
    """Weight of each token as a target: min(exp(score), gamma), the paper's w(x_i) = min(exp(LSD_i), gamma).

    The paper's loss is the mean over tokens, sum_i w_i CE_i / N: divide by the number of targets N, not by the sum of
    these weights, which would cancel what they raise on the average. A score of 0 (no prefix, or no more of it than the
    short one) weighs exactly 1; the weights are numbers, so no gradient goes through them.

    Args:
        scores: float [...], log-probability differences in nats, with one model and two prefixes as the paper has them.
        gamma: at least 1, so that a token that the prefix tells nothing about keeps its weight.

    Returns:
        float32 of the same shape, in [0, gamma].

    Raises:
        ConfigError: gamma is below 1 or not finite.
        DataError: a score is NaN.
    """
    if not (1 <= gamma < math.inf):
        raise ConfigError(f"longce gamma: {gamma}; must be a number of at least 1 (the paper takes {GAMMA:g})")
    if np.isnan(scores).any():
        raise DataError("longce: a score is not a number; score the corpus again")
    most, limit = np.float32(gamma), np.float32(math.log(gamma))
    scores = np.asarray(scores, np.float32)
    # The exponential of a rounded logarithm may be a little more or less than gamma itself.
    return np.where(scores >= limit, most, np.minimum(np.exp(np.minimum(scores, limit)), most))
