"""metrics.jsonl reads like one uninterrupted run, whatever a lost attempt left behind."""

import json
import math
import tempfile
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from longspan import storage
from longspan.errors import DataError
from longspan.observe.metrics import MetricsLog, read_metrics


def line(step: int) -> dict[str, object]:
    return {"step": step, "loss": 3.0 + 1 / step, "max_position": 1000 + step}


def write_steps(run: str, first: int, last: int, resume_step: int = 0) -> None:
    with MetricsLog.open(run, resume_step) as log:
        for step in range(first, last + 1):
            log.append(line(step))


def test_lines_come_back_as_written(run_uri):
    write_steps(run_uri, 1, 5)
    assert read_metrics(run_uri) == [line(step) for step in range(1, 6)]


def test_no_file_is_no_lines(run_uri):
    assert read_metrics(run_uri) == []


def test_resume_drops_the_steps_that_were_lost(run_uri):
    write_steps(run_uri, 1, 9)
    with MetricsLog.open(run_uri, resume_step=6) as log:
        assert [record["step"] for record in read_metrics(run_uri)] == [1, 2, 3, 4, 5, 6]
        log.append(line(7))
    assert read_metrics(run_uri) == [line(step) for step in range(1, 8)]


def test_a_fresh_run_starts_the_file_anew(run_uri):
    write_steps(run_uri, 1, 3)
    write_steps(run_uri, 1, 1)
    assert read_metrics(run_uri) == [line(1)]


@settings(max_examples=60, deadline=None)
@given(num_steps=st.integers(0, 8), data=st.data())
def test_any_cut_and_any_resume_step_give_an_uninterrupted_run(num_steps, data):
    with tempfile.TemporaryDirectory() as run:
        write_steps(run, 1, num_steps)
        path = Path(run, "metrics.jsonl")
        whole = path.read_bytes()
        cut = data.draw(st.integers(0, len(whole)), label="bytes that reached the disk")
        # A power cut can also leave bytes that are no text at all.
        rubbish = data.draw(st.sampled_from([b"", b"\x00\x00\x00", b"\xe2\x82", b'{"st']), label="rubbish")
        path.write_bytes(whole[:cut] + rubbish)
        survived = [record["step"] for record in read_metrics(run)]
        assert survived == list(range(1, len(survived) + 1))
        assert len(survived) >= whole[:cut].count(b"\n") - bool(rubbish)
        resume = data.draw(st.integers(0, num_steps + 1), label="resume step")
        write_steps(run, resume + 1, num_steps + 3, resume_step=resume)
        kept = min(resume, len(survived))
        assert read_metrics(run) == [line(step) for step in [*range(1, kept + 1), *range(resume + 1, num_steps + 4)]]
        assert path.read_bytes().endswith(b"\n")


def test_a_local_line_is_on_disk_before_the_next_step(tmp_path):
    with MetricsLog.open(str(tmp_path)) as log:
        log.append(line(1))
        assert read_metrics(str(tmp_path)) == [line(1)]


def test_a_remote_log_is_published_by_flush(s3_run):
    with MetricsLog.open(s3_run) as log:
        log.append(line(1))
        assert read_metrics(s3_run) == []
        log.flush()
        assert read_metrics(s3_run) == [line(1)]
        log.append(line(2))
    assert read_metrics(s3_run) == [line(1), line(2)]


def test_values_become_strict_json(tmp_path):
    with MetricsLog.open(str(tmp_path)) as log:
        log.append(
            {
                "step": np.int64(1),
                "loss": math.nan,
                "grad_norm": np.float32("inf"),
                "learning_rate": np.float32(0.5),
                "nested": {"a": (1, -math.inf)},
                "note": "x",
                "flag": True,
                "none": None,
            }
        )
    text = (tmp_path / "metrics.jsonl").read_text()
    assert json.loads(text, parse_constant=pytest.fail) == {
        "step": 1,
        "loss": None,
        "grad_norm": None,
        "learning_rate": 0.5,
        "nested": {"a": [1, None]},
        "note": "x",
        "flag": True,
        "none": None,
    }


@pytest.mark.parametrize("record", [{}, {"step": 1.5}, {"step": True}, {"step": 3}, {"step": 2}, {"step": "4"}])
def test_a_step_that_does_not_follow_is_refused_and_not_written(tmp_path, record):
    write_steps(str(tmp_path), 1, 3)
    with MetricsLog.open(str(tmp_path), resume_step=3) as log, pytest.raises(ValueError, match="whole number above 3"):
        log.append(record)
    assert len(read_metrics(str(tmp_path))) == 3


def test_a_negative_resume_step_is_refused(tmp_path):
    with pytest.raises(ValueError, match="never negative, not -1"):
        MetricsLog.open(str(tmp_path), -1)


@pytest.mark.parametrize("bad", ["{", "[1]", '{"loss": 1}', '{"step": NaN}', '{"step": true}', '{"step": "1"}'])
def test_a_damaged_line_in_the_middle_is_named(tmp_path, bad):
    (tmp_path / "metrics.jsonl").write_text(f'{{"step": 1}}\n{bad}\n{{"step": 3}}\n')
    with pytest.raises(DataError, match=r"metrics\.jsonl, line 2: not a JSON object"):
        read_metrics(str(tmp_path))
    with pytest.raises(DataError, match="line 2"):
        MetricsLog.open(str(tmp_path), 3)


def test_closing_twice_and_flushing_without_news_write_nothing(s3_run):
    log = MetricsLog.open(s3_run)
    log.append(line(1))
    log.flush()
    storage.write_text(storage.join(s3_run, "metrics.jsonl"), '{"step": 9}\n')
    log.flush()
    log.close()
    log.close()
    assert read_metrics(s3_run) == [{"step": 9}]
