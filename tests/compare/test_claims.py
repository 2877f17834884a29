"""Verdicts: what the interval says, and nothing that it does not."""

from typing import Any

import pytest

from longspan.compare.claims import FAILS, HOLDS, OPEN, judge, verdict
from longspan.compare.results import gather
from longspan.compare.statistics import Difference
from longspan.config.compare import Claim
from longspan.config.load import parse
from tests.compare.material import evaluation, measured


def claim(**changes: Any) -> Claim:
    values = {"name": "c", "method": "a", "against": "b", "metric": "recall", "relation": "within", "points": 2.0}
    return parse(Claim, values | changes, "claim")


@pytest.mark.parametrize(
    ("relation", "low", "high", "expected"),
    [
        ("within", -2.0, 9.0, HOLDS),
        ("within", -1.0, -0.5, HOLDS),
        ("within", -2.1, 9.0, OPEN),
        ("within", -9.0, -2.0, OPEN),
        ("within", -9.0, -2.1, FAILS),
        ("above", 2.1, 5.0, HOLDS),
        ("above", 2.0, 5.0, OPEN),
        ("above", -5.0, 2.1, OPEN),
        ("above", -5.0, 2.0, FAILS),
    ],
)
def test_the_whole_interval_decides(relation: str, low: float, high: float, expected: str) -> None:
    assert verdict(claim(relation=relation), Difference((low + high) / 2, low, high, 3), None) == expected


def test_one_seed_decides_nothing() -> None:
    assert verdict(claim(), Difference(50.0, None, None, 1), None) == OPEN
    assert verdict(claim(), None, 0.1) == OPEN


def test_too_much_compute_fails_a_claim_whatever_the_scores() -> None:
    good = Difference(5.0, 4.0, 6.0, 3)
    assert verdict(claim(at_most_compute=0.2), good, 0.2) == HOLDS
    assert verdict(claim(at_most_compute=0.2), good, 0.21) == FAILS
    assert verdict(claim(at_most_compute=0.2), None, 0.21) == FAILS
    assert verdict(claim(at_most_compute=0.2), good, None) == HOLDS


def test_points_are_percent_of_accuracy_at_the_longest_length() -> None:
    runs = measured("a", {0: evaluation(0.9), 1: evaluation(0.8)}, 20.0)
    runs += measured("b", {0: evaluation(0.8), 1: evaluation(0.9)})
    found = judge(claim(), gather(runs, ["recall", "larger"]), [64, 128])
    assert (found["difference"], found["pairs"], found["length"]) == (pytest.approx(0.0), 2, 128)
    # Differences of +10 and -10: deviation 14.142, 12.706 the quantile of one degree of freedom.
    assert found["high"] == pytest.approx(12.706 * 10.0)
    assert (found["verdict"], found["compute_share"]) == (OPEN, 0.2)
    assert judge(claim(length=64), gather(runs, ["recall", "larger"]), [64, 128])["verdict"] == HOLDS


@pytest.mark.parametrize(("metric", "advantage"), [("loss", 50.0), ("short_loss", 50.0), ("tasks", 0.0)])
def test_a_lower_loss_is_an_advantage_in_hundredths_of_a_nat(metric: str, advantage: float) -> None:
    runs = measured("a", {0: evaluation(0.5, loss=2.5), 1: evaluation(0.5, loss=2.5)})
    runs += measured("b", {0: evaluation(0.5), 1: evaluation(0.5)})
    found = judge(claim(metric=metric, relation="above"), gather(runs, ["recall", "larger"]), [64, 128])
    assert found["difference"] == pytest.approx(advantage)
    assert found["verdict"] == (HOLDS if advantage else FAILS)
