"""From the evaluations of all runs to one result for each method: metrics by seed, and what they cost. Pure.

Metrics: the accuracy of each task at each length (`recall@1024`), `tasks@1024` their mean over all tasks asked, `loss`
(held-out text, mean over the longest window), `last_loss` (over its last bucket of positions, about the last third of
the window) and `short_loss` (over windows of the short length). Losses in nats per token.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import Any

from longspan.compare.statistics import mean, paired_difference, spread
from longspan.config.compare import LOSSES


@dataclass(frozen=True)
class Measured:
    """One run, trained and asked.

    Attributes:
        seed: None where nothing was trained.
        tokens: tokens of the training samples, padding included.
        flops: training FLOPs (planner.costs).
        seconds: of training steps.
        evaluation: what `evaluate.run.evaluate_model` gave.
    """

    method: str
    seed: int | None
    steps: int
    tokens: int
    flops: float
    seconds: float
    evaluation: Mapping[str, Any]


@dataclass(frozen=True)
class MethodResult:
    """All seeds of a method.

    Attributes:
        metrics: value by seed of each metric.
        seconds: by seed.
    """

    name: str
    steps: int
    tokens: int
    flops: float
    seconds: Mapping[int | None, float]
    metrics: Mapping[str, Mapping[int | None, float]]
    curve: Mapping[str, Sequence[float]]


def metric_key(metric: str, length: int) -> str:
    """`recall@1024`; the losses are one number each and go by their names."""
    return metric if metric in LOSSES else f"{metric}@{length}"


def metrics_of(evaluation: Mapping[str, Any], tasks: Sequence[str]) -> dict[str, float]:
    """All metrics of one evaluation."""
    grids = {task: evaluation["needle"] if task == "recall" else evaluation["tasks"][task] for task in tasks}
    values: dict[str, float] = {}
    for place, length in enumerate(evaluation["needle"]["lengths"]):
        found = {task: float(grid["mean"][place]) for task, grid in grids.items()}
        values |= {metric_key(task, length): value for task, value in found.items()}
        values[metric_key("tasks", length)] = fmean(found.values())
    curve = evaluation["loss_by_position"]
    return values | {
        "loss": float(curve["mean"]),
        "last_loss": float(curve["loss"][-1]),
        "short_loss": float(evaluation["short_loss"]["mean"]),
    }


def gather(measured: Sequence[Measured], tasks: Sequence[str]) -> dict[str, MethodResult]:
    """The runs by method, in the order in which methods first come."""
    results: dict[str, MethodResult] = {}
    for name in dict.fromkeys(run.method for run in measured):
        runs = [run for run in measured if run.method == name]
        metrics = {run.seed: metrics_of(run.evaluation, tasks) for run in runs}
        keys = next(iter(metrics.values()))
        curves = [run.evaluation["loss_by_position"] for run in runs]
        results[name] = MethodResult(
            name=name,
            steps=runs[0].steps,
            tokens=runs[0].tokens,
            flops=runs[0].flops,
            seconds={run.seed: run.seconds for run in runs},
            metrics={key: {seed: values[key] for seed, values in metrics.items()} for key in keys},
            curve={
                "positions": curves[0]["positions"],
                "loss": [fmean(bucket) for bucket in zip(*(curve["loss"] for curve in curves), strict=True)],
            },
        )
    return results


def to_dict(result: MethodResult, reference: MethodResult | None) -> dict[str, Any]:
    """JSON-able; with a reference also `against_reference`: the paired difference of each metric, with its interval."""
    values: dict[str, Any] = {
        "steps": result.steps,
        "tokens": result.tokens,
        "flops": result.flops,
        "seconds": mean(result.seconds),
        "metrics": {
            key: {"mean": mean(by_seed), "spread": spread(by_seed), "values": _by_name(by_seed)}
            for key, by_seed in result.metrics.items()
        },
        "loss_by_position": {key: list(column) for key, column in result.curve.items()},
    }
    if reference is not None and reference is not result:
        differences = {key: paired_difference(result.metrics[key], reference.metrics[key]) for key in result.metrics}
        values["against_reference"] = {
            key: {"mean": d.mean, "low": d.low, "high": d.high, "pairs": d.pairs}
            for key, d in differences.items()
            if d is not None
        }
    return values


def _by_name(values: Mapping[int | None, float]) -> dict[str, float]:
    return {"untrained" if seed is None else str(seed): value for seed, value in values.items()}
