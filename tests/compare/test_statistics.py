"""Means, spreads and intervals against values worked out by hand and against simulation."""

import numpy as np
import pytest

from longspan.compare.statistics import Difference, mean, paired_difference, spread, t_quantile


def test_mean_and_spread_are_those_of_a_sample() -> None:
    assert mean({0: 1.0, 1: 2.0, 2: 6.0}) == 3.0
    assert spread({0: 1.0, 1: 2.0, 2: 6.0}) == pytest.approx(7.0**0.5)
    assert spread({None: 1.0}) is None


def test_differences_are_paired_by_seed() -> None:
    ours, theirs = {0: 10.0, 1: 20.0, 2: 30.0}, {2: 27.0, 1: 18.0, 0: 9.0}
    found = paired_difference(ours, theirs)
    assert found is not None
    assert (found.mean, found.pairs) == (2.0, 3)
    # The differences are 1, 2, 3: deviation 1, and 4.303 is the t quantile of two degrees of freedom.
    assert found.high == pytest.approx(2.0 + 4.303 / 3**0.5)
    assert found.low == pytest.approx(2.0 - 4.303 / 3**0.5)


def test_only_shared_seeds_count() -> None:
    assert paired_difference({0: 1.0, 1: 5.0}, {1: 2.0, 2: 0.0}) == Difference(3.0, None, None, 1)
    assert paired_difference({0: 1.0}, {1: 2.0}) is None


def test_what_was_not_trained_is_the_same_for_every_seed() -> None:
    found = paired_difference({0: 3.0, 1: 5.0}, {None: 1.0})
    assert found is not None
    assert (found.mean, found.pairs) == (3.0, 2)
    assert paired_difference({None: 3.0}, {None: 1.0}) == Difference(2.0, None, None, 1)


def test_the_interval_covers_the_truth_as_often_as_it_says() -> None:
    rng = np.random.default_rng(0)
    covered = 0
    for _ in range(2000):
        values = dict(enumerate(rng.normal(0.3, 1.0, 3).tolist()))
        found = paired_difference(values, {None: 0.0})
        assert found is not None
        assert found.low is not None
        assert found.high is not None
        covered += found.low <= 0.3 <= found.high
    assert 0.935 < covered / 2000 < 0.965


def test_quantiles_fall_with_the_degrees_of_freedom() -> None:
    quantiles = [t_quantile(degrees) for degrees in range(1, 31)]
    assert quantiles == sorted(quantiles, reverse=True)
    assert (t_quantile(1), t_quantile(9), t_quantile(500)) == (12.706, 2.262, 2.042)
