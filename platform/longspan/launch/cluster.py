"""The run on Ray: a Ray Train worker group around the same loop, fed by Ray Data, restarted from the last commit.

What is to last (metrics, checkpoints, result) lies in the run directory; Ray's own storage holds its bookkeeping only.
"""

import json
import math
import os
import socket
import subprocess
import sys
import tempfile
import uuid
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from longspan import storage
from longspan.checkpoint.commit import Commit, step_uri
from longspan.checkpoint.parent import resume_commit
from longspan.config.recipe import Recipe
from longspan.errors import ConfigError, LaunchError, LeaseLostError, LongspanError, StorageError
from longspan.feed.source import feed_spec
from longspan.launch.follow import follow_metrics
from longspan.model.identity import staged_mark
from longspan.slots import Need, require_slots

_HOW_TO_LOG_IN = "set RAY_AUTH_MODE=token, and RAY_AUTH_TOKEN (or ~/.ray/auth_token) to the cluster's"
_CONNECT_TIMEOUT_S = 10.0
_HEALTH_TIMEOUT_S = 60.0
_PACKAGE = Path(__file__).resolve().parents[1]


def connect(recipe: Recipe, runs: int = 1) -> None:
    """Join the cluster of a recipe (`join_cluster`), with slots for `runs` of it at a time if it is started here."""
    slots = sum(need.count * need.cpus for need in _needs(recipe, runs, gpus=0))
    join_cluster(recipe.parallel.address, slots, "parallel.address")


def _needs(recipe: Recipe, runs: int, gpus: float) -> list[Need]:
    parallel = recipe.parallel
    return [
        Need("training workers", runs * parallel.num_workers, parallel.cpus_per_worker, gpus),
        Need("tasks of the feed", runs * parallel.feed_workers, 1),
    ]


def join_cluster(address: str | None, cpus: float, field: str) -> None:
    """Join the cluster at `address`, RAY_ADDRESS or of the surrounding job; else start one of `cpus` on this machine.

    The package travels with the job (`py_modules`), so that workers run the driver's code whatever is installed there.

    Args:
        field: where the address was given, for messages.

    Raises:
        ConfigError: the cluster cannot be reached.
    """
    import ray

    if ray.is_initialized():
        return
    address = address or os.environ.get("RAY_ADDRESS")
    if address is None:
        start_cluster(cpus)
        return
    refuse_unreachable(address, field)
    refuse_without_token(address, field)
    # Retry budgets, time-outs and the cache folder hold on every node.
    own = {name: value for name, value in os.environ.items() if name.startswith("LONGSPAN_")}
    environment = {"py_modules": [str(_PACKAGE)], **({"env_vars": own} if own else {})}
    try:
        ray.init(address=address, runtime_env=environment, log_to_driver=True)
    except (ConnectionError, ValueError) as error:
        more = f"; if it wants a token, {_HOW_TO_LOG_IN}" if address.startswith("ray://") else ""
        raise ConfigError(f"{field}: no Ray cluster at '{address}' ({str(error).splitlines()[0]}){more}") from None


def refuse_unreachable(address: str, field: str) -> None:
    """Raise ConfigError where nothing answers at HOST:PORT: Ray itself tries for minutes, then ends the process."""
    host, _, port = address.removeprefix("ray://").rpartition(":")
    if not port.isdigit():  # "auto" and the like
        return
    try:
        socket.create_connection((host.strip("[]"), int(port)), timeout=_CONNECT_TIMEOUT_S).close()
    except OSError as error:
        raise ConfigError(f"{field}: no Ray cluster at '{address}' ({error.strerror or error})") from None


def refuse_without_token(address: str, field: str) -> None:
    """Raise ConfigError where the cluster wants a token that this process does not give.

    Ray itself warns for 20 s and then says that it cannot connect; without the token that RAY_AUTH_MODE promises it
    ends the process. So `ray health-check` asks first, in a process of its own.
    """
    if os.environ.get("RAY_AUTH_MODE") == "token" and not _has_token():
        raise ConfigError(f"{field}: RAY_AUTH_MODE is token, but no token is given; {_HOW_TO_LOG_IN}")
    if address.startswith("ray://") or not address.rpartition(":")[2].isdigit():
        return
    command = [sys.executable, "-m", "ray.scripts.scripts", "health-check", "--address", address]
    try:
        done = subprocess.run(  # noqa: S603 - Ray's own command, and no shell that could read the address
            command, capture_output=True, text=True, check=False, timeout=_HEALTH_TIMEOUT_S
        )
    except subprocess.TimeoutExpired:
        return  # whatever is wrong: `ray.init` tells
    if done.returncode and "AuthenticationError" in done.stderr:
        given = "the one that is given is another" if os.environ.get("RAY_AUTH_MODE") == "token" else "none is given"
        raise ConfigError(f"{field}: the Ray cluster at '{address}' wants a token, and {given}; {_HOW_TO_LOG_IN}")


def _has_token() -> bool:
    path = os.environ.get("RAY_AUTH_TOKEN_PATH") or os.path.expanduser("~/.ray/auth_token")
    return bool(os.environ.get("RAY_AUTH_TOKEN")) or os.path.isfile(path)


def start_cluster(cpus: float, quiet: bool = False) -> None:
    """A Ray cluster of this machine for this process, with at least `cpus` CPU slots; loopback only.

    `quiet` keeps the workers' output in Ray's log files.
    """
    import logging

    import ray

    # Workers of this machine inherit the environment: they are to import the longspan that runs here, installed or not.
    paths = [str(_PACKAGE.parent), *os.environ.get("PYTHONPATH", "").split(os.pathsep)]
    os.environ["PYTHONPATH"] = os.pathsep.join(dict.fromkeys(path for path in paths if path))
    slots = max(math.ceil(cpus), os.cpu_count() or 1)
    ray.init(
        # "local" always starts one; without it Ray would join any cluster that runs on this machine.
        address="local",
        num_cpus=slots,
        include_dashboard=False,
        logging_level=logging.ERROR if quiet else logging.WARNING,
        log_to_driver=not quiet,
    )


def wants_gpu(recipe: Recipe) -> bool:
    """Whether the recipe's workers take a GPU each, on the cluster that was joined."""
    import ray

    if recipe.parallel.use_gpu == "auto":
        return ray.cluster_resources().get("GPU", 0) >= recipe.parallel.num_workers
    return recipe.parallel.use_gpu


def check_resources(recipe: Recipe, runs: int = 1, field: str = "parallel") -> None:
    """Raises ConfigError where workers or feed of `runs` of the recipe would wait for slots for ever."""
    gpu = wants_gpu(recipe)
    mend = "lower parallel.cpus_per_worker (it may be a fraction) or parallel.num_workers"
    if gpu:
        mend += ", or set parallel.use_gpu: false"
    require_slots(field, _needs(recipe, runs, 1 if gpu else 0), mend if runs == 1 else f"lower {field}, or {mend}")


def run_on_ray(recipe: Recipe, show_progress: bool = True) -> None:
    """Train on Ray; returns when the run is finished.

    Raises:
        ConfigError: the cluster cannot be reached, or has too few slots.
        LongspanError: what a worker found wrong, or LaunchError when workers kept failing.
    """
    connect(recipe)
    check_resources(recipe)
    marker = storage.join(recipe.run_uri, f"fatal-{uuid.uuid4().hex[:12]}.json")
    with tempfile.TemporaryDirectory(prefix="longspan-ray-") as directory, follow_metrics(recipe, show_progress):
        trainer = make_trainer(recipe, directory, marker)
        failure = None
        try:
            trainer.fit()
        except Exception as error:  # whatever Ray Train raises: the cause is in the marker or in its message
            failure = error
    raise_fatal(marker)
    if failure is not None:
        raise LaunchError(
            f"the workers of {recipe.name} failed more than parallel.max_failures {recipe.parallel.max_failures} times;"
            f" run the same command to go on from the last checkpoint. Last cause: {_last_line(failure)}"
        ) from failure


def _last_line(error: BaseException) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[-1] if lines else type(error).__name__


def make_trainer(recipe: Recipe, storage_directory: str, marker: str) -> Any:
    """The Ray Train trainer of a staged run."""
    import ray
    from ray.train import FailureConfig, RunConfig, ScalingConfig
    from ray.train.torch import TorchConfig, TorchTrainer

    from longspan.feed.ray_data import DATASET, SequenceParallelDataConfig

    gpu = wants_gpu(recipe)
    mark, run_uri = staged_mark(recipe), recipe.run_uri

    def first_step() -> int:
        commit = resume_commit(run_uri, mark)
        return commit.step if commit else 0

    return TorchTrainer(
        train_worker,
        train_loop_config={
            "recipe": recipe.model_dump(mode="json"),
            "gpu": gpu,
            "marker": marker,
            "leases": storage.current_leases(),
        },
        scaling_config=ScalingConfig(
            num_workers=recipe.parallel.num_workers,
            use_gpu=gpu,
            resources_per_worker={"CPU": recipe.parallel.cpus_per_worker, **({"GPU": 1} if gpu else {})},
        ),
        run_config=RunConfig(
            name=f"{recipe.name}-{uuid.uuid4().hex[:8]}",
            storage_path=storage_directory,
            failure_config=FailureConfig(max_failures=recipe.parallel.max_failures),
        ),
        datasets={DATASET: ray.data.range(1)},
        dataset_config=SequenceParallelDataConfig(
            feed_spec(recipe),
            recipe.parallel.sequence_parallel,
            recipe.train.steps,
            first_step,
            recipe.parallel.feed_workers,
        ),
        torch_config=TorchConfig(backend="nccl" if gpu else "gloo", timeout_s=1800),
    )


def train_worker(config: dict[str, Any]) -> None:
    """One Ray Train worker, which writes in the driver's name. A user's mistake is written down and ends the run;
    anything else is for Ray to restart.
    """
    if storage.exists(config["marker"]):
        return
    with ExitStack() as stack:
        try:
            stack.enter_context(storage.adopted(config["leases"]))
        except LeaseLostError:
            return  # the driver, whose lease it was, says so
        _train_in_group(config)


def _train_in_group(config: dict[str, Any]) -> None:
    import ray.train

    from longspan.config.load import parse
    from longspan.feed.ray_data import DATASET, blocks_ahead, stream
    from longspan.train.loop import Runtime, run_training
    from longspan.train.world import join_world

    recipe = parse(Recipe, config["recipe"], "recipe")

    def report(metrics: dict[str, Any], commit: Commit) -> None:
        ray.train.report({**metrics, "checkpoint": step_uri(recipe.run_uri, commit.step)})

    try:
        world = join_world(recipe.parallel.sequence_parallel, config["gpu"])
        shard = ray.train.get_dataset_shard(DATASET)
        runtime = Runtime(
            feed=lambda first: stream(shard, blocks_ahead(recipe)),
            report=report,
            should_stop=lambda: False,
            show_progress=storage.is_remote(recipe.run_uri),
        )
        run_training(recipe, world, runtime)
    except LongspanError as error:
        storage.write_json(config["marker"], {"type": type(error).__name__, "message": str(error)})
        raise


def raise_fatal(marker: str) -> None:
    """Raise what a worker wrote down, as the error it was."""
    import longspan.errors

    try:
        text = storage.read_text(marker)
    except StorageError:
        return
    storage.delete(marker)
    record = json.loads(text)
    raise getattr(longspan.errors, record["type"], LongspanError)(record["message"])
