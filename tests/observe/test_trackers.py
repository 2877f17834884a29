"""Tracking: made only when asked for, real in offline mode, and never a reason for training to stop."""

import logging
import math
import sys

import pytest

from longspan.errors import ConfigError
from longspan.observe.trackers import NoTracker, WandbTracker, open_tracker


@pytest.fixture
def wandb_home(tmp_path, monkeypatch):
    """W&B keeps its settings, cache and logs inside the test's folder, and finds no key."""
    for name in ("WANDB_CONFIG_DIR", "WANDB_CACHE_DIR", "WANDB_DATA_DIR"):
        monkeypatch.setenv(name, str(tmp_path / name))
    for name in ("WANDB_API_KEY", "WANDB_MODE", "WANDB_DIR", "WANDB_PROJECT", "WANDB_RUN_ID"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
    monkeypatch.setenv("WANDB_SILENT", "true")
    return tmp_path / "tracking"


class FailingRun:
    def __init__(self) -> None:
        self.calls: list[str] = []

    def log(self, values, step):
        self.calls.append(f"log {step}")
        raise RuntimeError("the network is gone")

    def finish(self):
        self.calls.append("finish")
        raise RuntimeError("still gone")


class RecordingRun:
    def __init__(self) -> None:
        self.logged: list[tuple[int, dict[str, object]]] = []
        self.num_finished = 0

    def log(self, values, step):
        self.logged.append((step, values))

    def finish(self):
        self.num_finished += 1


def test_off_makes_nothing_and_imports_nothing(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "wandb", None)
    tracker = open_tracker("off", "p", "n", "id", {}, tmp_path / "never")
    tracker.log(1, {"loss": 1.0})
    tracker.close()
    assert isinstance(tracker, NoTracker)
    assert not (tmp_path / "never").exists()


def test_offline_files_hold_the_run_and_a_restart_goes_on_with_its_id(wandb_home):
    for step in (1, 2):
        tracker = open_tracker("offline", "longspan-test", "extend", "run-17", {"rope": {"theta": 4596}}, wandb_home)
        assert isinstance(tracker, WandbTracker)
        tracker.log(step, {"loss": 3.25, "grad_norm": None, "note": "text"})
        tracker.close()
    files = sorted(wandb_home.glob("wandb/offline-run-*-run-17/run-run-17.wandb"))
    assert files
    content = b"".join(file.read_bytes() for file in files)
    for expected in (b"longspan-test", b"4596", b"3.25", b"loss"):
        assert expected in content


def test_missing_wandb_names_the_field_and_the_mend(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "wandb", None)
    with pytest.raises(
        ConfigError, match=r"tracking\.wandb: the package wandb is not installed; run `pip install wandb`"
    ):
        open_tracker("offline", "p", "n", "id", {}, tmp_path)


def test_online_without_a_key_names_the_mend(wandb_home, monkeypatch):
    monkeypatch.setattr(sys, "stdin", None)
    with pytest.raises(ConfigError, match=r"tracking\.wandb: .*WANDB_API_KEY.*offline or off"):
        open_tracker("online", "p", "n", "id", {}, wandb_home)


def test_settings_that_wandb_refuses_name_the_field(wandb_home):
    with pytest.raises(ConfigError, match=r"tracking\.wandb: Run ID cannot contain"):
        open_tracker("offline", "p", "n", "a/b", {}, wandb_home)


def test_a_remote_directory_is_refused():
    with pytest.raises(ConfigError, match=r"tracking\.wandb: .*local folder, not to s3://bucket/run"):
        open_tracker("offline", "p", "n", "id", {}, "s3://bucket/run")


def test_wandb_being_down_at_the_start_only_warns(wandb_home, monkeypatch, caplog):
    import wandb

    def refuse(**settings):
        raise wandb.errors.CommError("timed out")

    monkeypatch.setattr(wandb, "init", refuse)
    with caplog.at_level(logging.WARNING):
        tracker = open_tracker("online", "p", "n", "id", {}, wandb_home)
    tracker.log(1, {"loss": 1.0})
    assert "could not start (timed out)" in caplog.text


def test_a_failure_during_the_run_warns_once_and_ends_tracking(caplog):
    run = FailingRun()
    tracker = WandbTracker(run)
    with caplog.at_level(logging.WARNING):
        for step in (1, 2, 3):
            tracker.log(step, {"loss": 1.0})
        tracker.close()
    assert run.calls == ["log 1"]
    assert [record.getMessage() for record in caplog.records] == [
        "Weights & Biases failed at step 1 (the network is gone); training goes on untracked"
    ]


def test_a_failure_at_the_end_only_warns(caplog):
    with caplog.at_level(logging.WARNING):
        WandbTracker(FailingRun()).close()
    assert "failed at the end of the run (still gone)" in caplog.text


def test_only_finite_numbers_are_sent_and_closing_twice_is_harmless():
    run = RecordingRun()
    tracker = WandbTracker(run)
    tracker.log(7, {"loss": 2.5, "grad_norm": math.nan, "note": "x", "tokens": 10, "none": None})
    tracker.close()
    tracker.close()
    assert run.logged == [(7, {"loss": 2.5, "tokens": 10})]
    assert run.num_finished == 1
