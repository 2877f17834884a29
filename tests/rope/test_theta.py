"""Base formulas give the published numbers; the lower bound agrees with brute force and with its table."""

import math

import numpy as np
import pytest

from longspan.errors import ConfigError
from longspan.rope import (
    critical_dimension,
    critical_dimension_theta,
    dynamic_ntk_theta,
    first_negative_distance,
    ntk_theta,
    theta_lower_bound,
    theta_warning,
)
from longspan.rope.theta import THETA_GRID_RATIO


@pytest.mark.parametrize(
    ("theta", "factor", "length", "original", "expected"),
    [
        (5e5, 10, 81_920, 8192, 48.88e6),
        (5e5, 16, 131_072, 8192, 131.46e6),
        (1e6, 4, 131_072, 32_768, 13.54e6),
        (1e6, 4, 81_920, 32_768, 7.22e6),
    ],
)
def test_dynamic_ntk_gives_the_bases_of_longrecipe(theta, factor, length, original, expected) -> None:
    assert dynamic_ntk_theta(theta, factor, length, original, 128) == pytest.approx(expected, rel=1e-3)


def test_dynamic_ntk_leaves_short_sequences_alone() -> None:
    assert dynamic_ntk_theta(5e5, 8, 100, 8192, 128) == pytest.approx(5e5)
    assert dynamic_ntk_theta(5e5, 8, 8192, 8192, 128) == pytest.approx(5e5)


@pytest.mark.parametrize(("factor", "expected"), [(16, 8.36e6), (8, 4.13e6), (1, 5e5)])
def test_static_ntk_gives_the_published_bases(factor: float, expected: float) -> None:
    assert ntk_theta(5e5, factor, 128) == pytest.approx(expected, rel=2e-3)


@pytest.mark.parametrize(("length", "expected"), [(131_072, 79.8e6), (81_920, 33.8e6), (8192, 5e5)])
def test_critical_dimension_theta_gives_the_published_bases(length: int, expected: float) -> None:
    assert critical_dimension_theta(5e5, length, 8192) == pytest.approx(expected, rel=2e-3)


@pytest.mark.parametrize(("theta", "original", "head_dim", "expected"), [(5e5, 8192, 128, 35), (1e4, 2048, 96, 31)])
def test_critical_dimension_is_that_of_llama3_and_phi3(theta, original, head_dim, expected) -> None:
    assert critical_dimension(theta, original, head_dim) == expected


def brute_force_first_negative(theta: float, length: int, head_dim: int) -> int | None:
    for m in range(length):
        if sum(math.cos(m * theta ** (-2 * i / head_dim)) for i in range(head_dim // 2)) < 0:
            return m
    return None


@pytest.mark.parametrize("theta", [10.0, 100.0, 500.0, 1e4, 3e5])
@pytest.mark.parametrize("length", [1, 5, 128, 129, 700])
def test_first_negative_distance_agrees_with_brute_force(theta: float, length: int) -> None:
    assert first_negative_distance(theta, length, 16) == brute_force_first_negative(theta, length, 16)


def test_first_negative_distance_is_exact_far_out() -> None:
    distance = first_negative_distance(5e5, 131_072, 128)
    assert distance is not None
    frequencies = 5e5 ** (-2 * np.arange(64) / 128)
    sums = np.cos(np.outer(np.arange(distance + 1), frequencies)).sum(axis=1)
    assert sums[-1] < 0
    assert np.all(sums[:-1] >= 0)


def test_lower_bound_is_the_first_good_base_of_the_grid() -> None:
    length, head_dim = 300, 16
    index = 1
    while brute_force_first_negative(THETA_GRID_RATIO**index, length, head_dim) is not None:
        index += 1
    assert theta_lower_bound(length, head_dim) == pytest.approx(THETA_GRID_RATIO**index)


@pytest.mark.parametrize(("length", "head_dim"), [(1550, 4), (1500, 16), (2048, 32)])
def test_lower_bound_loses_nothing_by_starting_from_a_shorter_window(length: int, head_dim: int) -> None:
    """At 4 dimensions the bounds of 387 and 1550 tokens are the same base."""
    index = 1
    while first_negative_distance(THETA_GRID_RATIO**index, length, head_dim) is not None:
        index += 1
    assert theta_lower_bound(length, head_dim) == pytest.approx(THETA_GRID_RATIO**index)


# Window, base of the paper's table (arXiv 2405.14591, d = 128), and the first distance below the window at which that
# very base has a negative sum: the table is rounded to two digits and searched on a grid too.
TABLE = [
    (8192, 8.4e4, None),
    (16_384, 3.1e5, 12_223),
    (32_768, 6.4e5, 27_685),
    (65_536, 2.1e6, None),
    (131_072, 7.8e6, 128_915),
    (262_144, 3.6e7, 207_455),
    (524_288, 6.4e7, 511_210),
]


@pytest.mark.parametrize(("length", "published", "negative"), TABLE)
def test_lower_bound_is_near_the_published_table(length: int, published: float, negative: int | None) -> None:
    """Equal within its rounding at 8k, 32k, 64k and 512k; at 16k the grid has a smaller one, at 128k a larger."""
    assert published / 1.4 < theta_lower_bound(length, 128) < published * 1.15
    assert first_negative_distance(published, length, 128) == negative


def test_warning_names_the_distance_and_a_base_that_is_really_larger_and_good() -> None:
    """The lower bound at 16k is 2.3e5, which would be no mend for 3.1e5: the good bases are no interval."""
    assert theta_warning(8.4e4, 8192, 128) is None
    message = theta_warning(3.1e5, 16_384, 128)
    assert message is not None
    assert "rope.rope_theta 310,000: a token 12,223 tokens back" in message
    larger = float(message.split("for example ")[1].split(", would")[0].replace(",", ""))
    assert larger > 3.1e5
    assert theta_warning(larger, 16_384, 128) is None


def test_lower_bound_never_falls_with_the_window() -> None:
    bounds = [theta_lower_bound(length, 64) for length in (1, 64, 500, 2048, 3000, 4096)]
    assert bounds == sorted(bounds)


def test_lower_bound_base_is_good_and_its_neighbour_below_is_not() -> None:
    bound = theta_lower_bound(4096, 64)
    assert first_negative_distance(bound, 4096, 64) is None
    assert first_negative_distance(bound / THETA_GRID_RATIO, 4096, 64) is not None


@pytest.mark.parametrize("head_dim", [0, -2, 7])
def test_rejects_dimensions_that_do_not_pair(head_dim: int) -> None:
    for call in (
        lambda: ntk_theta(1e4, 2, head_dim),
        lambda: first_negative_distance(1e4, 10, head_dim),
        lambda: theta_lower_bound(10, head_dim),
    ):
        with pytest.raises(ConfigError, match="must be even and above 0"):
            call()


def test_rejects_windows_and_dimensions_too_small_for_the_formula() -> None:
    with pytest.raises(ConfigError, match="4 rotated dimensions"):
        ntk_theta(1e4, 2, 2)
    with pytest.raises(ConfigError, match="1 token or more"):
        theta_lower_bound(0, 64)
    with pytest.raises(ConfigError, match="shorter than one turn"):
        critical_dimension_theta(1e4, 100, 6)
    with pytest.raises(ConfigError, match="shorter than one turn"):
        critical_dimension(1e4, 6, 64)
