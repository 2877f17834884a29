"""Training on a real Ray cluster gives what training in this process gives, through deaths of workers and an object
store.
"""

import json
import os
import signal
import threading
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from longspan import storage
from longspan.checkpoint.commit import written_steps
from longspan.config.recipe import Recipe
from longspan.errors import ConfigError, DataError, LeaseLostError
from longspan.feed.local import local_feed
from longspan.feed.source import feed_spec, group_indices
from longspan.launch.run import train
from longspan.launch.stage import stage_run
from longspan.observe.metrics import read_metrics
from longspan.storage.lease import acquire
from longspan.uri import parse
from tests.feed.comparing import assert_all_same
from tests.leases import someone
from tests.s3 import Fault, FaultProxy
from tests.tiny import tiny_recipe

pytestmark = pytest.mark.ray

STEPS = 8


def recipe_for(base: Path | str, output: str, **parallel: Any) -> Recipe:
    return tiny_recipe(
        f"{base}/model",
        f"{base}/data",
        output=output,
        data={
            "sample_length": 33,
            "mix": [
                {"weights": {"text": 0.7, "other": 0.3}},
                {"from_step": 3, "weights": {"other": 1.0}},
            ],
        },
        train={"steps": STEPS, "save_every": 2},
        parallel=parallel,
    )


@pytest.fixture(scope="module")
def reference(material: Path, tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    """Metrics of the uninterrupted run in this process."""
    output = str(tmp_path_factory.mktemp("reference"))
    train(recipe_for(material, output), show_progress=False)
    return read_metrics(output)


def assert_same_run(metrics: list[dict[str, Any]], reference: list[dict[str, Any]]) -> None:
    """Every step once, in order, with the same loss, gradient norm and positions."""
    assert [line["step"] for line in metrics] == list(range(1, STEPS + 1))
    for field in ("loss", "grad_norm"):
        found, expected = ([line[field] for line in run] for run in (metrics, reference))
        np.testing.assert_allclose(found, expected, rtol=2e-5)
    for field in ("max_position", "valid_targets", "learning_rate", "tokens"):
        assert [line[field] for line in metrics] == [line[field] for line in reference]


def kill_a_worker(run: Path, after_step: int, killed: list[int]) -> None:
    """SIGKILL one Ray Train worker once the run has committed `after_step`."""
    record = run / "checkpoints" / f"step-{after_step:08d}" / "COMMIT.json"
    deadline = time.time() + 120
    while time.time() < deadline and not killed:
        if record.exists():
            for entry in Path("/proc").iterdir():
                if entry.name.isdigit() and b"RayTrainWorker" in _command(entry):
                    os.kill(int(entry.name), signal.SIGKILL)
                    killed.append(int(entry.name))
                    return
        time.sleep(0.02)


def _command(entry: Path) -> bytes:
    try:
        return (entry / "cmdline").read_bytes()
    except OSError:
        return b""


def test_two_workers_that_share_each_sample_go_on_after_a_worker_is_killed(
    ray_cluster: None, material: Path, tmp_path: Path, reference: list[dict[str, Any]]
) -> None:
    run = tmp_path / "run"
    recipe = recipe_for(material, str(run), launch="ray", num_workers=2, sequence_parallel=2)
    killed: list[int] = []
    killer = threading.Thread(target=kill_a_worker, args=(run, 2, killed))
    killer.start()
    summary = train(recipe, show_progress=False)
    killer.join()
    assert killed, "no worker was killed, so nothing was tested"
    assert summary["finished"]
    assert_same_run(read_metrics(str(run)), reference)
    assert (run / "report.html").exists()


def test_workers_of_a_driver_that_was_taken_over_write_nothing_more(ray_cluster: None, s3_material: str) -> None:
    run = storage.join(s3_material, "run")
    left: list[dict[str, bytes]] = []

    def contents() -> dict[str, bytes]:
        return {name: storage.read_bytes(storage.join(run, name)) for name in storage.list_files(run)}

    def take_over() -> None:
        # Not at once: Ray breaks off tasks of the feed whose process is still importing, and then uses it again.
        while not any(number > 5 for number in written_steps(run)):
            time.sleep(0.1)
        acquire(parse(run), someone(), take_over=True, wait=lambda _: None)
        time.sleep(2)  # for a write that had begun
        left.append(contents())

    recipe = recipe_for(s3_material, run, launch="ray", num_workers=2)
    # As long as it takes: it is never to finish.
    recipe = recipe.model_copy(update={"train": recipe.train.model_copy(update={"steps": 100_000, "save_every": 1})})
    other = threading.Thread(target=take_over)
    other.start()
    with pytest.raises(LeaseLostError, match="was taken over by 'longspan train"):
        train(recipe, show_progress=False)
    other.join()
    assert contents() == left[0]


@pytest.mark.parametrize("document_mask", [False, True])
def test_interleaved_samples_come_over_ray_data_as_in_this_process(
    ray_cluster: None, material: Path, tmp_path: Path, document_mask: bool
) -> None:
    """Two data-parallel groups of the feed, without training: labels are made anew from what travels."""
    from longspan.feed.ray_data import group_dataset, stream

    data = {"sample_length": 5000, "target_length": 8192, "interleave": {}, "document_mask": document_mask}
    train = {"steps": 2, "micro_batch_size": 1}
    recipe = tiny_recipe(
        material / "model",
        material / "data",
        output=str(tmp_path / "run"),
        data=data,
        positions={"type": "contiguous"},
        train=train,
    )
    stage_run(recipe)
    spec = feed_spec(recipe)
    expected = list(local_feed(spec, 0, 2, 0))
    assert any((batch.labels[:4000] == -100).any() for batch in expected)
    for group in (0, 1):
        found = list(stream(group_dataset(spec, 0, 2, group, 2).iterator(), 1))
        places = [place for step in range(2) for place in group_indices(spec, step, group, 2)]
        assert_all_same(found, [expected[place] for place in places])


def test_two_data_parallel_workers_on_an_object_store_of_which_a_twentieth_of_the_requests_fails(
    ray_cluster: None,
    s3_material: str,
    reference: list[dict[str, Any]],
    idle_proxy: FaultProxy,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """All of it on s3://, model to result, through a store that fails in six ways, on driver and workers; the workers
    take other samples of the same global batch, and every sample comes once.
    """
    monkeypatch.setenv("AWS_ENDPOINT_URL_S3", idle_proxy.url)
    monkeypatch.setenv("LONGSPAN_READ_TIMEOUT_S", "2")
    shares = {"503": 0.03, "reset": 0.03, "lost": 0.02, "truncate": 0.03, "slow": 0.005, "stall": 0.005}
    faults = [Fault(kind, probability=share, seed=number) for number, (kind, share) in enumerate(shares.items())]
    output = storage.join(s3_material, "faulty")
    idle_proxy.set_faults(*faults)
    try:
        summary = train(recipe_for(s3_material, output, launch="ray", num_workers=2), show_progress=False)
    finally:
        struck, requests = sum(idle_proxy.struck.values()), idle_proxy.num_requests
        idle_proxy.set_faults()
    assert summary["finished"]
    assert struck >= 0.05 * requests, f"{struck} faults in {requests} requests are too few to show anything"
    assert_same_run(read_metrics(output), reference)
    files = storage.list_files(output)
    for name in ("recipe.yaml", "plan/plan.json", "summary.json", "report.html", "checkpoint/config.json"):
        assert name in files
    assert f"checkpoints/step-{STEPS:08d}/COMMIT.json" in files
    assert json.loads(storage.read_text(storage.join(output, "summary.json")))["steps"] == summary["steps"] == STEPS
    assert train(recipe_for(s3_material, output, launch="ray", num_workers=2), show_progress=False) == summary


def test_a_damaged_checkpoint_is_set_aside_and_the_one_before_it_used(
    ray_cluster: None,
    material: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    reference: list[dict[str, Any]],
) -> None:
    """The feed begins at the newest record before the workers find it damaged: one restart, and no sample twice.

    The recipe's paths are relative: workers start in other directories, where they must not mean something else.
    """
    run = tmp_path / "run"
    monkeypatch.chdir(material)
    output = os.path.relpath(run)
    train(recipe_for(".", output), show_progress=False)
    state = next((run / "checkpoints" / f"step-{STEPS:08d}").glob("*.safetensors"))
    content = bytearray(state.read_bytes())
    content[-1] ^= 1
    state.write_bytes(bytes(content))
    (run / "summary.json").unlink()
    recipe = recipe_for(".", output, launch="ray", num_workers=2, sequence_parallel=2)
    assert train(recipe, show_progress=False)["finished"]
    assert_same_run(read_metrics(str(run)), reference)


def test_a_damaged_shard_ends_the_run_with_one_error_that_names_it(
    ray_cluster: None, material: Path, tmp_path: Path
) -> None:
    import shutil

    shutil.copytree(material, tmp_path / "copy")
    shard = sorted((tmp_path / "copy/data/shards").glob("text-*.parquet"))[0]
    content = bytearray(shard.read_bytes())
    content[len(content) // 2] ^= 1
    shard.write_bytes(bytes(content))
    recipe = recipe_for(tmp_path / "copy", str(tmp_path / "run"), launch="ray", num_workers=1)
    with pytest.raises(DataError, match=shard.name):
        train(recipe, show_progress=False)


def test_too_few_cpu_slots_are_refused_before_the_feed_waits_for_ever(
    ray_cluster: None, material: Path, tmp_path: Path
) -> None:
    recipe = recipe_for(material, str(tmp_path), launch="ray", num_workers=2, cpus_per_worker=64)
    asked = r"^parallel: 2 training workers x 64 \+ 1 tasks of the feed x 1 = 129 CPU slots, the cluster has 6; lower"
    with pytest.raises(ConfigError, match=asked):
        train(recipe, show_progress=False)


def test_gpus_that_are_not_there_are_refused(ray_cluster: None, material: Path, tmp_path: Path) -> None:
    recipe = recipe_for(material, str(tmp_path), launch="ray", num_workers=2, use_gpu=True)
    asked = r"^parallel: 2 training workers x 1 = 2 GPUs, the cluster has 0; .*, or set parallel.use_gpu: false"
    with pytest.raises(ConfigError, match=asked):
        train(recipe, show_progress=False)
