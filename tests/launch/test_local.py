"""Local runs: whatever stops one, and wherever, the same command resumes as if nothing had been."""

import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from longspan import storage
from longspan.checkpoint.commit import written_steps
from longspan.config.load import to_yaml
from longspan.config.recipe import Recipe
from longspan.errors import ConfigError
from longspan.feed.local import local_feed
from longspan.launch import local
from longspan.launch.local import run_local, stop_signals, wants_gpu
from longspan.launch.run import train
from longspan.observe.metrics import read_metrics
from longspan.train import loop
from tests.launch.conftest import MakeRecipe

STEPS = 6
ROOT = Path(__file__).parents[2]
NOT_OF_THE_RUN = {"tokens_per_s", "data_wait_s", "step_s", "gpu_memory_gib"}


def numbers(recipe: Recipe) -> list[dict[str, Any]]:
    """metrics.jsonl without the times."""
    lines = read_metrics(recipe.run_uri)
    return [{key: value for key, value in line.items() if key not in NOT_OF_THE_RUN} for line in lines]


def weights(recipe: Recipe) -> dict[str, torch.Tensor]:
    from safetensors.torch import load_file

    return dict(load_file(Path(recipe.run_uri, "checkpoint", "model.safetensors")))


@pytest.fixture
def samples(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """First sample of every micro-batch that a step computed on, in order."""
    seen: list[int] = []
    share = loop.share

    def watched(batch: Any, *rest: Any) -> Any:
        seen.append(batch.first_sample)
        return share(batch, *rest)

    monkeypatch.setattr(loop, "share", watched)
    return seen


@pytest.fixture(scope="module")
def whole(
    folder: Path, tmp_path_factory: pytest.TempPathFactory
) -> tuple[list[dict[str, Any]], dict[str, torch.Tensor]]:
    """Metrics and weights of the uninterrupted run."""
    from tests.tiny import tiny_recipe

    sizes = {"steps": STEPS, "global_batch_size": 2, "micro_batch_size": 1}
    output = str(tmp_path_factory.mktemp("whole") / "run")
    recipe = tiny_recipe(folder / "model", folder / "data", output=output, train=sizes)
    train(recipe, show_progress=False)
    return numbers(recipe), weights(recipe)


def assert_as_uninterrupted(recipe: Recipe, whole: Any) -> None:
    assert numbers(recipe) == whole[0]
    found = weights(recipe)
    assert found.keys() == whole[1].keys()
    assert all(torch.equal(found[name], whole[1][name]) for name in found)


def test_a_finished_run_has_all_its_files(make: MakeRecipe, samples: list[int]) -> None:
    recipe = make()
    summary = train(recipe, show_progress=False)
    assert samples == list(range(12))
    lines = read_metrics(recipe.run_uri)
    assert [line["step"] for line in lines] == [1, 2, 3, 4, 5, 6]
    assert [line["tokens"] for line in lines] == [64, 128, 192, 256, 320, 384]
    for key in ("loss", "grad_norm", "learning_rate", "tokens_per_s", "data_wait_s", "max_position"):
        assert all(isinstance(line[key], float) for line in lines), key
    assert max(line["max_position"] for line in lines) == summary["max_position"] > 128
    assert storage.read_json(storage.join(recipe.run_uri, "summary.json")) == summary
    assert (summary["finished"], summary["steps"], summary["tokens"]) == (True, 6, 384)
    assert summary["final_loss"] == lines[-1]["loss"]
    assert "<html" in storage.read_text(storage.join(recipe.run_uri, "report.html"))
    assert written_steps(recipe.run_uri) == [6]


def test_the_result_loads_in_plain_transformers(make: MakeRecipe) -> None:
    from transformers import AutoConfig, AutoModelForCausalLM

    recipe = make(train={"steps": 1})
    summary = train(recipe, show_progress=False)
    config = AutoConfig.from_pretrained(summary["checkpoint"])
    assert config.max_position_embeddings == 256
    assert config.rope_parameters == summary["rope"]
    assert summary["rope"]["rope_theta"] > 500
    model = AutoModelForCausalLM.from_pretrained(summary["checkpoint"])
    assert model.dtype == torch.float32
    stored = weights(recipe)
    assert all(torch.equal(value, stored[name]) for name, value in model.state_dict().items() if name in stored)


@pytest.mark.parametrize("k", range(1, STEPS))
def test_stopped_by_a_signal_after_any_step_it_goes_on(
    make: MakeRecipe, whole: Any, samples: list[int], monkeypatch: pytest.MonkeyPatch, k: int
) -> None:
    recipe = make()
    number = (signal.SIGINT, signal.SIGTERM)[k % 2]
    _signal_in_step(monkeypatch, k, number)
    summary = train(recipe, show_progress=False)
    assert (summary["finished"], summary["steps"]) == (False, k)
    assert written_steps(recipe.run_uri) == [k]
    assert not Path(recipe.run_uri, "checkpoint").exists()
    assert storage.exists(storage.join(recipe.run_uri, "report.html"))
    assert train(recipe, show_progress=False)["finished"]
    assert samples == list(range(12))
    assert_as_uninterrupted(recipe, whole)


def test_stopped_after_every_step(
    make: MakeRecipe, whole: Any, samples: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(local, "stop_signals", _always_stopped)
    for k in range(1, STEPS):
        assert train(make(), show_progress=False)["steps"] == k
    assert train(make(), show_progress=False)["finished"]
    assert samples == list(range(12))
    assert_as_uninterrupted(make(), whole)


class _always_stopped:
    def __enter__(self) -> list[int]:
        return [signal.SIGINT]

    def __exit__(self, *error: object) -> None: ...


def _signal_in_step(monkeypatch: pytest.MonkeyPatch, k: int, number: int) -> None:
    """Send this process the signal while it computes step `k`, once."""
    train_step = loop.train_step

    def step_with_signal(engine: Any, batches: Any, world: Any, step: int, *rest: Any) -> Any:
        if step == k:
            monkeypatch.setattr(loop, "train_step", train_step)
            os.kill(os.getpid(), number)
        return train_step(engine, batches, world, step, *rest)

    monkeypatch.setattr(loop, "train_step", step_with_signal)


def send_and_wait(number: signal.Signals) -> None:
    """Two signals close together count as one: wait until the first has put the second's handler in place."""
    before = signal.getsignal(number)
    os.kill(os.getpid(), number)
    while signal.getsignal(number) is before:
        time.sleep(0.01)


def test_a_second_signal_ends_at_once_and_loses_no_commit(
    make: MakeRecipe, whole: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe = make(train={"save_every": 2})
    train_step = loop.train_step

    def impatient(engine: Any, batches: Any, world: Any, step: int, *rest: Any) -> Any:
        if step == 4:
            send_and_wait(signal.SIGINT)
            os.kill(os.getpid(), signal.SIGINT)
            time.sleep(5)
        return train_step(engine, batches, world, step, *rest)

    monkeypatch.setattr(loop, "train_step", impatient)
    with pytest.raises(KeyboardInterrupt):
        train(recipe, show_progress=False)
    monkeypatch.undo()
    assert written_steps(recipe.run_uri) == [2]
    assert train(recipe, show_progress=False)["finished"]
    assert_as_uninterrupted(recipe, whole)


def test_an_ignored_interrupt_stays_ignored() -> None:
    """A script's background job is not to stop at the Ctrl-C that was meant for another one."""
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        with stop_signals() as seen:
            os.kill(os.getpid(), signal.SIGINT)
            assert seen == []
            assert signal.getsignal(signal.SIGINT) is signal.SIG_IGN
            os.kill(os.getpid(), signal.SIGTERM)
            assert seen == [signal.SIGTERM]
    finally:
        signal.signal(signal.SIGINT, before)


def test_handlers_are_put_back() -> None:
    before = [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)]
    with stop_signals() as seen:
        os.kill(os.getpid(), signal.SIGTERM)
        assert seen == [signal.SIGTERM]
        assert signal.getsignal(signal.SIGTERM) == before[1]
        assert signal.getsignal(signal.SIGINT) != before[0]
    assert [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)] == before


def test_without_the_main_thread_there_are_no_signals() -> None:
    import threading

    found: list[list[int]] = []

    def run() -> None:
        with stop_signals() as seen:
            found.append(seen)

    thread = threading.Thread(target=run)
    thread.start()
    thread.join()
    assert found == [[]]


@pytest.mark.parametrize(("k", "resumes_at"), [(2, 0), (5, 4)])
def test_killed_in_a_step_it_goes_on_from_the_last_commit(
    make: MakeRecipe, whole: Any, samples: list[int], tmp_path: Path, k: int, resumes_at: int
) -> None:
    recipe = make(train={"save_every": 2})
    path = tmp_path / "recipe.yaml"
    path.write_text(to_yaml(recipe))
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), str(ROOT / "platform")])}
    command = [sys.executable, "-m", "tests.launch.killed_run", str(path), str(k)]
    ended = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
    assert ended.returncode == 137, ended.stderr
    assert written_steps(recipe.run_uri) == ([resumes_at] if resumes_at == 2 else [4, 2] if resumes_at else [])
    assert [line["step"] for line in read_metrics(recipe.run_uri)] == list(range(1, k))
    with Path(recipe.run_uri, "metrics.jsonl").open("a") as handle:
        handle.write('{"step": 5, "lo')  # the line that the dead process was writing
    assert train(recipe, show_progress=False)["finished"]
    assert samples == list(range(2 * resumes_at, 12))
    assert_as_uninterrupted(recipe, whole)


def test_a_finished_run_is_left_alone(make: MakeRecipe, samples: list[int]) -> None:
    recipe = make(train={"steps": 2})
    first = train(recipe, show_progress=False)
    before = {path: path.stat().st_mtime_ns for path in Path(recipe.run_uri).rglob("*") if path.name != "recipe.yaml"}
    samples.clear()
    assert train(recipe, show_progress=False) == first
    assert samples == []
    after = {path: path.stat().st_mtime_ns for path in Path(recipe.run_uri).rglob("*") if path.name != "recipe.yaml"}
    assert {path: time for path, time in after.items() if path.is_file()} == {
        path: time for path, time in before.items() if path.is_file()
    }


def test_a_run_whose_export_was_lost_makes_it_again(make: MakeRecipe, whole: Any, samples: list[int]) -> None:
    recipe = make()
    train(recipe, show_progress=False)
    shutil.rmtree(Path(recipe.run_uri, "checkpoint"))
    Path(recipe.run_uri, "summary.json").unlink()
    samples.clear()
    summary = train(recipe, show_progress=False)
    assert (summary["finished"], samples) == (True, [])
    assert_as_uninterrupted(recipe, whole)


def test_the_number_of_threads_ahead_changes_nothing(make: MakeRecipe, whole: Any) -> None:
    recipe = make(
        parallel={"prefetch_batches": 0}, train={"micro_batch_size": 1, "save_every": 4, "keep_checkpoints": 1}
    )
    train(recipe, show_progress=False)
    assert_as_uninterrupted(recipe, whole)
    assert written_steps(recipe.run_uri) == [6]


def test_a_feed_at_the_wrong_sample_is_noticed(make: MakeRecipe, monkeypatch: pytest.MonkeyPatch) -> None:
    def ahead(spec: Any, first: int, steps: int, prefetch: int) -> Iterator[Any]:
        return local_feed(spec, first + 1, steps, prefetch)

    monkeypatch.setattr(local, "local_feed", ahead)
    with pytest.raises(loop.StaleFeedError, match="step 1: the feed gave sample 2, the checkpoint goes on at 0"):
        train(make(), show_progress=False)


def test_a_gpu_that_is_not_there(make: MakeRecipe, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(ConfigError, match=r"parallel.use_gpu: true, but torch sees no GPU here; use auto or false"):
        run_local(make(parallel={"use_gpu": True}))
    assert not wants_gpu(make())
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert wants_gpu(make())
    assert not wants_gpu(make(parallel={"use_gpu": False}))


def test_offline_tracking_leaves_files_of_one_run(
    make: MakeRecipe, monkeypatch: pytest.MonkeyPatch, reset_wandb: Callable[[], None]
) -> None:
    recipe = make(train={"steps": 2}, tracking={"wandb": "offline"})
    train(recipe, show_progress=False)
    (run,) = Path(recipe.run_uri, "wandb").glob("offline-run-*-tiny-*")
    (record,) = run.glob("*.wandb")
    assert record.stat().st_size > 1000


@pytest.fixture
def reset_wandb(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[], None]]:
    """No account, no network, and the service process of W&B ends with the test."""
    import wandb

    for name in ("WANDB_API_KEY", "WANDB_MODE", "WANDB_DIR"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("WANDB_SILENT", "true")
    yield wandb.teardown
    wandb.teardown()
