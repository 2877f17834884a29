"""The learning rate of every schedule, as a function of the step alone."""

from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from longspan.config.recipe import Train
from longspan.train.schedule import learning_rate

SCHEDULES = ("constant", "cosine", "linear", "wsd")


def train(**changes: Any) -> Train:
    return Train(**{"steps": 100, "global_batch_size": 1, "learning_rate": 2.0, **changes})


def rates(settings: Train) -> list[float]:
    return [learning_rate(settings, step) for step in range(settings.steps)]


@pytest.mark.parametrize("schedule", SCHEDULES)
def test_warmup_is_a_straight_line_to_the_full_rate(schedule: str) -> None:
    found = rates(train(schedule=schedule, warmup_steps=4))
    assert found[:4] == pytest.approx([0.5, 1.0, 1.5, 2.0])
    # The first step after it is the full rate too: the schedule begins there.
    assert found[4] == pytest.approx(2.0)


@pytest.mark.parametrize("schedule", SCHEDULES)
def test_without_warmup_the_first_step_has_the_full_rate(schedule: str) -> None:
    assert learning_rate(train(schedule=schedule), 0) == pytest.approx(2.0)


def test_constant() -> None:
    assert set(rates(train(schedule="constant", min_lr_ratio=0.1))) == {2.0}


def test_linear() -> None:
    found = rates(train(schedule="linear", steps=110, warmup_steps=10, min_lr_ratio=0.1))
    # From 2.0 towards 0.2 over 100 steps.
    assert found[60] == pytest.approx(1.1)
    assert found[109] == pytest.approx(0.2 + 1.8 * 0.01)


def test_cosine() -> None:
    found = rates(train(schedule="cosine", steps=100, min_lr_ratio=0.1))
    assert found[50] == pytest.approx(1.1)
    # cos(60 degrees) = 1/2: three quarters of the way from 0.2 to 2.0, a third through.
    assert learning_rate(train(schedule="cosine", steps=99, min_lr_ratio=0.1), 33) == pytest.approx(0.2 + 1.8 * 0.75)
    assert 0.2 < found[99] < 0.21


def test_wsd_is_constant_and_then_falls() -> None:
    found = rates(train(schedule="wsd", decay_share=0.2))
    assert found[:80] == pytest.approx([2.0] * 80)
    assert found[90] == pytest.approx(1.0)
    assert found[99] == pytest.approx(0.1)
    assert set(rates(train(schedule="wsd", decay_share=0.0))) == {2.0}


def test_warmup_may_take_all_steps() -> None:
    assert rates(train(steps=4, warmup_steps=4, schedule="cosine")) == pytest.approx([0.5, 1.0, 1.5, 2.0])


@given(
    schedule=st.sampled_from(SCHEDULES),
    steps=st.integers(1, 50),
    warmup=st.floats(0, 1),
    min_lr_ratio=st.floats(0, 1),
    decay_share=st.floats(0, 1),
)
def test_it_never_rises_after_the_warmup_nor_leaves_its_range(
    schedule: str, steps: int, warmup: float, min_lr_ratio: float, decay_share: float
) -> None:
    first = int(warmup * steps)
    settings = train(
        schedule=schedule, steps=steps, warmup_steps=first, min_lr_ratio=min_lr_ratio, decay_share=decay_share
    )
    found = rates(settings)
    assert all(0 < rate <= 2.0 * (1 + 1e-12) for rate in found[:first])
    after = found[first:]
    assert all(2.0 * min_lr_ratio * (1 - 1e-12) <= rate <= 2.0 * (1 + 1e-12) for rate in after)
    assert all(later <= earlier * (1 + 1e-12) for earlier, later in pairwise(after))
