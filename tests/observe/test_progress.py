"""Progress: a bar in a terminal, few whole lines elsewhere, silence where it is not wanted."""

import io
import re

import pytest
from rich.console import Console

from longspan.observe.progress import describe, live_bar, plain_lines, training_progress

METRICS = {
    "loss": 3.21349,
    "grad_norm": 0.8,
    "learning_rate": 2e-3,
    "tokens_per_s": 24130.0,
    "data_wait_s": 0.01,
    "step_s": 0.5,
    "max_position": 1023,
}


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


def plain(steps: int, seconds_a_step: float, total: int = 100, start: int = 0) -> list[str]:
    out, clock = io.StringIO(), Clock()
    with plain_lines(total, start, "extend", out, 10.0, clock) as update:
        for step in range(start + 1, start + steps + 1):
            clock.now += seconds_a_step
            update(step, METRICS)
    return out.getvalue().splitlines()


def test_every_figure_is_shown():
    expected = ["loss 3.2135", "grad 0.80", "lr 2.00e-03", "24.1k tok/s", "wait 2%", "max pos 1,023"]
    assert describe(METRICS) == expected


def test_null_metrics_read_as_dashes_and_absent_ones_are_left_out():
    assert describe({"loss": None, "grad_norm": float("nan"), "data_wait_s": None}) == ["loss -", "grad -", "wait -"]
    assert describe({"data_wait_s": 0.25}) == ["wait 0.25s"]
    assert describe({}) == []


def test_plain_lines_come_at_most_once_an_interval_and_always_last():
    lines = plain(steps=100, seconds_a_step=1.0)
    assert [int(re.search(r" (\d+)/100 ", line)[1]) for line in lines] == [1, 11, 21, 31, 41, 51, 61, 71, 81, 91, 100]
    assert "\x1b" not in "".join(lines)
    assert lines[-1].startswith("extend 100/100 (100%) | loss 3.2135")
    assert "eta" not in lines[-1]


def test_an_early_end_still_says_how_far_it_came():
    lines = plain(steps=5, seconds_a_step=1.0)
    assert [line.split()[1] for line in lines] == ["1/100", "5/100"]


def test_the_last_step_is_printed_at_once_not_after_the_final_checkpoint():
    out = io.StringIO()
    with plain_lines(2, 0, "x", out, 1000.0, Clock()) as update:
        update(1, {})
        update(2, {})
        assert "x 2/2 (100%)" in out.getvalue()
    assert len(out.getvalue().splitlines()) == 2


def test_the_last_step_is_printed_when_the_body_raises():
    out = io.StringIO()

    def run():
        with plain_lines(100, 0, "x", out, 1000.0, Clock()) as update:
            update(1, {})
            update(2, {})
            raise KeyError

    with pytest.raises(KeyError):
        run()
    assert out.getvalue().splitlines()[-1].startswith("x 2/100")


def test_eta_counts_only_the_steps_of_this_process():
    # 10 steps of 2 s since the resume at step 80; 10 are left.
    assert plain(steps=10, seconds_a_step=2.0, start=80)[-1].endswith("| eta 0:00:20")


def test_a_stream_that_is_no_terminal_gets_plain_lines():
    out = io.StringIO()
    with training_progress(2, 0, "run", True, interval_s=0, stream=out) as update:
        update(1, METRICS)
        update(2, METRICS)
    assert len(out.getvalue().splitlines()) == 2


def test_a_terminal_gets_a_bar_with_the_last_figures():
    out = Terminal()
    console = Console(file=out, force_terminal=True, width=110)
    with live_bar(10, 4, "run [bold]x[/bold]", console) as update:
        update(7, METRICS)
        update(10, METRICS)
    text = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", out.getvalue())
    assert "run [bold]x[/bold]" in text
    assert "4/10" in text
    assert "10/10" in text
    assert "loss 3.2135  grad 0.80" in text


def test_training_progress_takes_the_bar_on_a_terminal():
    out = Terminal()
    with training_progress(3, 0, "run", True, stream=out) as update:
        update(3, {})
    assert "3/3" in out.getvalue()
    assert "\x1b[" in out.getvalue()


@pytest.mark.parametrize(
    ("rank", "enabled", "speaks"),
    [
        (None, None, True),
        ("0", None, True),
        ("1", None, False),
        ("1", True, True),
        ("0", False, False),
    ],
)
def test_only_rank_zero_speaks_unless_told(monkeypatch, rank, enabled, speaks):
    if rank is None:
        monkeypatch.delenv("RANK", raising=False)
    else:
        monkeypatch.setenv("RANK", rank)
    out = io.StringIO()
    with training_progress(1, 0, "run", enabled, stream=out) as update:
        update(1, METRICS)
    assert bool(out.getvalue()) is speaks
