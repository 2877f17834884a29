"""Recipe values searched with Ray Tune; every trial is an ordinary Ray Train run with a directory of its own.

A trial that is already finished (same values, same output) is read, not run, so an interrupted sweep goes on.
"""

import hashlib
import json
import tempfile
from typing import Any

import numpy as np

from longspan import storage
from longspan.config.load import to_yaml
from longspan.config.recipe import Recipe
from longspan.errors import LaunchError, LongspanError
from longspan.launch.stage import check_recipe, located
from longspan.sweep.space import Choice, Sweep, metric_of, trial_recipe, value_at

_TRIAL_SLOTS = {"memory": 1.0}
"""A trial only waits for its Ray Train run. Tune wants it to take something, and a share of a CPU would be missing to
the workers of a cluster that fits them exactly: one byte.
"""


def run_sweep(sweep: Sweep, base: Recipe) -> list[dict[str, Any]]:
    """All trials, best first: {"name", "params", "metric", "error", "rope_theta", "output"}; also as
    OUTPUT/trials.json.

    OUTPUT/best.yaml is the recipe of the best trial, OUTPUT/sweep.png the trials as parallel coordinates.

    Raises:
        HeldError: another driver writes to the output; LeaseLostError: one has taken it over.
        ConfigError: the recipe does not fit its model or corpus, or the cluster not as many trials at a time.
        LaunchError: no trial finished.
    """
    with storage.hold(sweep.output_uri, "sweep"):
        return _run(sweep, base)


def _run(sweep: Sweep, base: Recipe) -> list[dict[str, Any]]:
    from ray import tune

    from longspan.launch.cluster import check_resources, connect

    sweep, base = located_sweep(sweep, base)
    check_recipe(trial_recipe(base, sweep, sweep.first_values, "check"))
    at_once = min(sweep.max_concurrent, sweep.num_trials)
    connect(base, at_once)
    if base.parallel.launch == "ray":
        check_resources(base, at_once, "max_concurrent")

    call = storage.carried(run_trial)

    def trial(values: dict[str, Any]) -> dict[str, Any]:
        found: dict[str, Any] = call(sweep, base, values)
        return found

    with tempfile.TemporaryDirectory(prefix="longspan-tune-") as directory:
        results = tune.Tuner(
            tune.with_resources(trial, _TRIAL_SLOTS),
            param_space=_param_space(sweep),
            tune_config=tune.TuneConfig(
                num_samples=sweep.samples,
                max_concurrent_trials=sweep.max_concurrent,
                search_alg=tune.search.BasicVariantGenerator(
                    random_state=sweep.seed, max_concurrent=sweep.max_concurrent
                ),
            ),
            run_config=tune.RunConfig(name=sweep.name, storage_path=directory, verbose=0),
        ).fit()
        errors = [str(error).strip().splitlines()[-1] for error in results.errors]
        metrics = [results[number].metrics or {} for number in range(len(results))]
    rows = [dict(found["trial"]) for found in metrics if "trial" in found]
    sign = -1.0 if sweep.mode == "max" else 1.0
    finished = sorted((row for row in rows if row["metric"] is not None), key=lambda row: sign * row["metric"])
    failed = [row for row in rows if row["metric"] is None]
    if not finished:
        reason = failed[0]["error"] if failed else (errors[0] if errors else "no trial ran")
        raise LaunchError(f"sweep {sweep.name}: no trial finished; first cause: {reason}")
    _write(sweep, base, finished + failed)
    return finished + failed


def located_sweep(sweep: Sweep, base: Recipe) -> tuple[Sweep, Recipe]:
    """The sweep and its recipe with all local paths absolute: trials have other working directories."""
    base = located(base)
    sweep = sweep.model_copy(update={"output": storage.absolute(sweep.output_uri)})

    def value(key: str, given: Any) -> Any:
        recipe = located(trial_recipe(base, sweep, {key: given}, "check"))
        return value_at(recipe.model_dump(mode="json"), key) if isinstance(given, str) else given

    space = {
        key: dimension.model_copy(update={"values": [value(key, given) for given in dimension.values]})
        if isinstance(dimension, Choice)
        else dimension
        for key, dimension in sweep.space.items()
    }
    return sweep.model_copy(update={"space": space}), base


def run_trial(sweep: Sweep, base: Recipe, values: dict[str, Any]) -> dict[str, Any]:
    """One trial, in a process of its own; a user's mistake is a row with `error`, and the sweep goes on."""
    from longspan.launch.run import train

    name = f"{sweep.name}-{hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()[:10]}"
    recipe = trial_recipe(base, sweep, values, name)
    row: dict[str, Any] = {"name": name, "params": values, "output": recipe.run_uri, "metric": None, "error": None}
    try:
        summary = train(recipe, show_progress=False)
        row["rope_theta"] = assert_trial_rope(recipe)
        row["metric"] = metric_of(summary, sweep.metric)
    except LongspanError as error:
        row["error"] = str(error)
    return {"trial": row}


def assert_trial_rope(recipe: Recipe) -> float:
    """The rope_theta of the trial's result, once its frequencies are proven to be those that the trial asked for.

    A RoPE sweep whose setting is silently ignored gives the same model every time and looks like a flat optimum.

    Raises:
        LaunchError: the checkpoint's frequencies are not the recipe's.
    """
    from longspan.model.load import extend_config, head_dim, read_config
    from longspan.rope import attention_scaling, from_hf, inv_freq

    config, target = read_config(recipe.model), recipe.data.target_length
    asked = extend_config(config, recipe.rope, target)
    uri = storage.join(recipe.run_uri, "checkpoint", "config.json")
    settings = from_hf(storage.read_json(uri))
    # Within the original window and at the target length: "longrope" and "dynamic" differ there.
    same = all(
        np.array_equal(
            inv_freq(settings, head_dim(config), sequence_length=length),
            inv_freq(asked, head_dim(config), sequence_length=length),
        )
        for length in (1, target)
    )
    if not same or attention_scaling(settings) != attention_scaling(asked):
        raise LaunchError(f"{uri}: RoPE is {settings}, not what the trial's rope section asks for")
    return settings.rope_theta


def _param_space(sweep: Sweep) -> dict[str, Any]:
    from ray import tune

    def dimension(value: Any) -> Any:
        if isinstance(value, Choice):
            return tune.grid_search(value.values) if value.type == "grid" else tune.choice(value.values)
        draw = tune.loguniform if value.type == "loguniform" else tune.uniform
        return draw(value.low, value.high)

    return {key: dimension(value) for key, value in sweep.space.items()}


def _write(sweep: Sweep, base: Recipe, rows: list[dict[str, Any]]) -> None:
    from pathlib import Path

    from longspan.observe.plots import sweep_parallel_coordinates

    output = sweep.output_uri
    best = trial_recipe(base, sweep, rows[0]["params"], f"{sweep.name}-best")
    best = best.model_copy(update={"output": None})
    storage.write_json(storage.join(output, "trials.json"), rows)
    storage.write_text(storage.join(output, "best.yaml"), to_yaml(best))
    if any(row["params"] != rows[0]["params"] for row in rows):
        with tempfile.TemporaryDirectory() as directory:
            path = Path(directory, "sweep.png")
            sweep_parallel_coordinates(rows, path, sweep.metric, lower_is_better=sweep.mode == "min")
            storage.upload_file(str(path), storage.join(output, "sweep.png"))


def render(sweep: Sweep, rows: list[dict[str, Any]]) -> Any:
    """The trials as a table, best first."""
    from rich.table import Table

    keys = list(sweep.space)
    table = Table(title=f"{sweep.name}: {sweep.metric} ({sweep.mode}); best recipe in {sweep.output_uri}/best.yaml")
    for title in (*keys, "rope_theta", "metric"):
        table.add_column(title, justify="right")
    table.add_column("run")
    for row in rows:
        cells = [f"{value:.6g}" if isinstance(value, float) else str(value) for value in row["params"].values()]
        theta = f"{row['rope_theta']:,.0f}" if row.get("rope_theta") else "-"
        metric = f"{row['metric']:.4f}" if row["metric"] is not None else f"failed: {row['error']}"
        table.add_row(*cells, theta, metric, row["output"])
    return table
