"""`longspan train`: stage, train, evaluate, and leave a run directory that explains itself."""

import time
from dataclasses import asdict
from typing import Any

from longspan import storage
from longspan.checkpoint.card import add_evaluation
from longspan.checkpoint.commit import read_commit, written_steps
from longspan.checkpoint.parent import read_parent
from longspan.config.recipe import Recipe
from longspan.errors import LongspanError
from longspan.launch.stage import located, stage_run
from longspan.observe.metrics import read_metrics
from longspan.observe.report import write_report
from longspan.rope import from_hf, to_hf
from longspan.slots import Need, require_slots
from longspan.versions import versions


def train(recipe: Recipe, show_progress: bool = True, resume_from: str | None = None) -> dict[str, Any]:
    """Run the recipe to its end, resuming where it stopped; returns RUN/summary.json.

    `summary["finished"]` is False where a signal stopped it: the same call resumes it.

    Args:
        resume_from: RUN or RUN@STEP: begin in a new output with that run's checkpoint (see `stage.stage_run`).

    Raises:
        HeldError: another driver trains there; LeaseLostError: one has taken the run over.
        LongspanError: as staging, training and evaluation do.
    """
    recipe = located(recipe)
    with storage.hold(recipe.run_uri, "train"):
        return _train(recipe, show_progress, resume_from)


def _train(recipe: Recipe, show_progress: bool, resume_from: str | None) -> dict[str, Any]:
    recipe = stage_run(recipe, resume_from)
    summary_uri = storage.join(recipe.run_uri, "summary.json")
    if storage.exists(summary_uri):
        earlier: dict[str, Any] = storage.read_json(summary_uri)
        same = (earlier.get("evaluate"), earlier.get("steps")) == (
            recipe.evaluate.model_dump(mode="json"),
            recipe.train.steps,
        )
        if earlier.get("finished") and same:
            if not storage.exists(storage.join(recipe.run_uri, "report.html")):  # killed between the two
                write_report(recipe.run_uri)
            return earlier
    started = time.perf_counter()
    finished = True
    if recipe.parallel.launch == "ray":
        from longspan.launch.cluster import run_on_ray

        run_on_ray(recipe, show_progress)
    else:
        from longspan.launch.local import run_local

        finished = run_local(recipe, show_progress).finished
    summary = summarise(recipe, finished, time.perf_counter() - started)
    if finished and recipe.evaluate.lengths:
        checkpoint = storage.join(recipe.run_uri, "checkpoint")
        summary["evaluation"] = evaluate_checkpoint(checkpoint, recipe)
        add_evaluation(checkpoint, summary["evaluation"])
    storage.write_json(summary_uri, summary)
    write_report(recipe.run_uri)
    return summary


def summarise(recipe: Recipe, finished: bool, wall_seconds: float) -> dict[str, Any]:
    """What the run was and came to, from its own metrics and checkpoint."""
    metrics = read_metrics(recipe.run_uri)
    last = metrics[-1] if metrics else {}
    summary: dict[str, Any] = {
        "kind": "train",
        "name": recipe.name,
        "finished": finished,
        "steps": last.get("step", 0),
        "tokens": last.get("tokens", 0),
        "seconds": sum(line["step_s"] for line in metrics),
        "wall_seconds": wall_seconds,
        "final_loss": last.get("loss"),
        "max_position": max((line["max_position"] for line in metrics), default=None),
        "target_length": recipe.data.target_length,
        "model": recipe.model.path,
        "positions": recipe.positions.type,
        "evaluate": recipe.evaluate.model_dump(mode="json"),
        "workers": recipe.parallel.num_workers,
        "sequence_parallel": recipe.parallel.sequence_parallel,
        "versions": versions(),
    }
    steps = written_steps(recipe.run_uri)
    if steps and (changes := read_commit(recipe.run_uri, steps[0]).changes):
        summary["changes"] = [asdict(change) for change in changes]
    if parent := read_parent(recipe.run_uri):
        summary["parent"] = parent.name
    if finished:
        config = storage.read_json(storage.join(recipe.run_uri, "checkpoint", "config.json"))
        summary["rope"] = to_hf(from_hf(config))
        summary["checkpoint"] = storage.join(recipe.run_uri, "checkpoint")
    return summary


def evaluate_checkpoint(model: str, recipe: Recipe) -> dict[str, Any]:
    """The model's answers to `recipe.evaluate`, here or, where the recipe trains on Ray, as a task of its cluster.

    Args:
        model: directory (local or s3://) or hub name, the same on every node.

    Raises:
        ConfigError, DataError: as `evaluate.run.evaluate_model`.
        ConfigError: the cluster cannot be reached, or has no GPU where the recipe wants one.
    """
    from longspan.evaluate.run import evaluate_model, settings_of

    manifest, settings = storage.absolute(recipe.data.manifest), settings_of(recipe)
    if recipe.parallel.launch == "local":
        return evaluate_model(model, manifest, settings)
    import ray
    from ray.exceptions import RayTaskError

    from longspan.launch.cluster import connect, wants_gpu

    connect(recipe)
    gpus = 1 if wants_gpu(recipe) else 0
    require_slots("evaluate", [Need("evaluation", 1, 1, gpus)], "give the cluster a node of that size")
    # Inside a sweep's trial Ray would look for the slots among the trial's own.
    task = ray.remote(evaluate_model).options(num_cpus=1, num_gpus=gpus, scheduling_strategy="DEFAULT")
    try:
        result: dict[str, Any] = ray.get(task.remote(model, manifest, settings))
    except RayTaskError as error:
        # Ray's own error says the same under the traceback of the task.
        if isinstance(error.cause, LongspanError):
            raise error.cause from None
        raise
    return result
