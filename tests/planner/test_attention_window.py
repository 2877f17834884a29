"""How a window widens: the paper's formula, its schedules, and when it is whole."""

import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from longspan.config.attention_window import AttentionWindow
from longspan.planner.attention_window import attention_length, block_widths, widening
from tests.tiny import tiny_recipe


def widths(steps: int, sample_length: int = 8192, **window: Any) -> list[int]:
    return block_widths(AttentionWindow(**window), sample_length, np.arange(steps)).tolist()


def test_the_papers_schedules_are_whole_after_64_percent_of_its_steps() -> None:
    for rate, length in ((1 / 8, 8192), (1 / 2, 32768)):
        found = np.array(widths(100_000, length, start=32, rate=rate))
        assert found[0] == 32
        assert found[-1] == length
        assert int(np.argmax(found == length)) == pytest.approx(65_000, rel=0.02)


@given(st.integers(1, 50), st.integers(51, 300), st.floats(0.01, 40), st.integers(0, 20_000))
def test_linear_is_the_papers_formula(start: int, end: int, rate: float, step: int) -> None:
    found = block_widths(AttentionWindow(start=start, end=end, rate=rate), 300, np.array([step]))[0]
    assert found == min(end, start + math.floor(round(rate * step, 6)))


def test_an_exact_product_is_not_rounded_down() -> None:
    """0.29 * 100 is 28.999999999999996 in floats."""
    assert widths(101, start=1, rate=0.29)[100] == 30


@given(
    st.sampled_from(["linear", "sinusoidal"]), st.integers(1, 40), st.integers(41, 500), st.floats(0.05, 20),
    st.integers(1, 41),
)  # fmt: skip
def test_a_window_only_widens_from_start_to_end(
    schedule: str, start: int, end: int, rate: float, multiple: int
) -> None:
    whole_at = math.ceil((end - start) / rate)
    found = np.array(widths(whole_at + 3, 500, schedule=schedule, start=start, end=end, rate=rate, multiple=multiple))
    assert found[0] == max(start // multiple * multiple, start)
    assert (np.diff(found) >= 0).all()
    assert (found[whole_at:] == end).all()
    inside = found[(found > start) & (found < end)]
    assert (inside % multiple == 0).all()


def test_a_sine_is_ahead_of_the_line_and_whole_in_the_same_step() -> None:
    line, sine = (np.array(widths(300, 1000, start=10, rate=5, schedule=kind)) for kind in ("linear", "sinusoidal"))
    assert (sine >= line).all()
    assert sine[99] == 10 + math.floor(990 * math.sin(math.pi / 2 * 99 / 198))
    assert np.argmax(line == 1000) == 198
    assert np.argmax(sine == 1000) <= 198


def test_steps_of_a_multiple() -> None:
    assert widths(9, 5000, start=32, rate=512, multiple=1024, end=3500) == [
        32, 32, 1024, 1024, 2048, 2048, 3072, 3500, 3500
    ]  # fmt: skip


def test_what_is_said_of_a_run() -> None:
    def asked(**window: Any) -> Any:
        return tiny_recipe("nowhere", data={"attention_window": window}, train={"steps": 10})

    found = widening(asked(start=8, rate=4))
    assert found is not None
    assert (found.first, found.last, found.end, found.reached_at_step) == (8, 32, 32, 6)
    assert found.mean == np.mean([8, 12, 16, 20, 24, 28, 32, 32, 32, 32]) == attention_length(asked(start=8, rate=4))
    slow = widening(asked(start=8, rate=1))
    assert slow is not None
    assert (slow.last, slow.end, slow.reached_at_step) == (17, 32, None)
    plain = tiny_recipe("nowhere")
    assert widening(plain) is None
    assert attention_length(plain) == 32
