import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from longspan.corpus.impact.longce import longce_weights
from longspan.errors import ConfigError, DataError

SCORES = arrays(np.float32, st.integers(0, 50), elements=st.floats(-60, 60, width=32))


@given(SCORES, st.floats(1, 100))
def test_weights_are_the_clipped_exponential(scores: np.ndarray, gamma: float) -> None:
    weights = longce_weights(scores, gamma)
    assert weights.dtype == np.float32
    assert weights.shape == scores.shape
    expected = [min(math.exp(score), gamma) for score in scores.tolist()]
    np.testing.assert_allclose(weights, expected, rtol=1e-5)
    assert (weights <= np.float32(gamma)).all()
    assert (weights >= 0).all()
    assert (weights[scores == 0] == 1).all()


@given(SCORES)
def test_weights_never_fall_where_scores_rise(scores: np.ndarray) -> None:
    assert (np.diff(longce_weights(np.sort(scores))) >= 0).all()


def test_the_papers_clip_and_extremes() -> None:
    weights = longce_weights(np.array([0, 1, math.log(5), 2, 90, np.inf, -np.inf, -200], np.float32))
    np.testing.assert_array_equal(weights[[0, 2, 3, 4, 5, 6, 7]], np.array([1, 5, 5, 5, 5, 0, 0], np.float32))
    assert weights[1] == pytest.approx(math.e)
    assert longce_weights(np.array([5.0], np.float16))[0] == 5


def test_the_mean_is_over_tokens_not_over_weights() -> None:
    """Weights are not normalised: where the prefix tells a lot on the average, the loss is to count more."""
    assert longce_weights(np.full(10, 1.0)).mean() == pytest.approx(math.e)


def test_what_is_no_weight_is_refused() -> None:
    for gamma in (0.5, math.inf, math.nan):
        with pytest.raises(ConfigError, match="longce gamma"):
            longce_weights(np.zeros(2), gamma)
    with pytest.raises(DataError, match="not a number"):
        longce_weights(np.array([0, np.nan]))
