"""The units of `run` on Ray: actors of Ray Data, each with one pair of models, on a GPU if the cluster has any.

Both ways run the same function on the same units. An actor that dies is started again and its unit done again: it
writes the same files.
"""

from collections.abc import Iterator, Sequence
from dataclasses import asdict
from typing import Any

import longspan.errors
from longspan.corpus.impact.parts import PartInfo, Unit
from longspan.errors import LaunchError, LongspanError
from longspan.impact.run import Done, DoUnit, RunUnits
from longspan.slots import Need, require_slots

_NO_PART = PartInfo(file="", first_document=0, documents=0, offset=0, tokens=0, bytes=0, digest="")


class _Scorer:
    """On a worker: the actor's process keeps the models that its first unit opens."""

    def __init__(self, do_unit: DoUnit, units: Sequence[Unit]) -> None:
        self._do_unit = do_unit
        self._units = units

    def __call__(self, row: dict[str, Any]) -> dict[str, Any]:
        """The unit's part, or the error that it met; raised here, Ray Data would wrap it."""
        try:
            done = self._do_unit(self._units[row["id"]])
        except LongspanError as error:
            return {
                "error": f"{type(error).__name__}: {error}",
                "number": -1,
                **asdict(_NO_PART),
            }
        return {"error": "", "number": done.number, **asdict(done.part)}


def ray_runner(actors: int = 0, cpus_per_actor: float = 1.0) -> RunUnits:
    """Runs units on the Ray cluster that this process has joined, for `run.score_corpus`.

    Args:
        actors: that run at a time; 0 is one for each GPU of the cluster, or one where there is none.
        cpus_per_actor: CPU slots of each.
    """

    def run(do_unit: DoUnit, units: Sequence[Unit]) -> Iterator[Done]:
        if units:
            yield from _run(do_unit, units, actors, cpus_per_actor)

    return run


def _run(do_unit: DoUnit, units: Sequence[Unit], actors: int, cpus_per_actor: float) -> Iterator[Done]:
    """Parts as they are done.

    Raises:
        LongspanError: the one that a unit met, as the class that it was.
        ConfigError: the cluster has too few slots.
        LaunchError: no cluster was joined, or Ray gave an actor up.
    """
    import logging

    import ray
    import ray.data  # it sets its log levels when it is imported, so before ours

    if not ray.is_initialized():
        raise LaunchError("impact: no Ray cluster was joined; join one first, or run without Ray")
    gpus = int(ray.cluster_resources().get("GPU", 0))
    count = min(actors or max(gpus, 1), len(units))
    needs = [Need("actors", count, cpus_per_actor, 1 if gpus else 0), Need("task that reads the list of units", 1, 1)]
    require_slots("impact", needs, "use fewer actors")
    # It would say that its own progress bars are off, and show its plan.
    logging.getLogger("ray.data").setLevel(logging.ERROR)
    # One block a unit: it is then done, and done again, alone.
    scorer: Any = _Scorer
    dataset = ray.data.range(len(units), override_num_blocks=len(units)).map(
        scorer,
        fn_constructor_args=(do_unit, units),
        compute=ray.data.ActorPoolStrategy(size=count, max_tasks_in_flight_per_actor=2),
        num_cpus=cpus_per_actor,
        num_gpus=1 if gpus else 0,
    )
    dataset.context.enable_progress_bars = False
    dataset.context.execution_options.preserve_order = False
    try:
        for row in dataset.iter_rows():
            yield _done(row)
    except ray.exceptions.UserCodeException:
        raise
    except ray.exceptions.RayError as error:
        lines = [line.strip() for line in str(error).splitlines() if line.strip()]
        raise LaunchError(
            f"an actor failed; the same command resumes from the units that are done. Cause: {lines[0]}"
        ) from error


def _done(row: dict[str, Any]) -> Done:
    kind, _, message = row.pop("error").partition(": ")
    if kind:
        raise getattr(longspan.errors, kind, LongspanError)(message)
    return Done(int(row.pop("number")), PartInfo(**row))
