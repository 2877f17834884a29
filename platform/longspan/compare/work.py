"""One run of a comparison: trained through the normal path, asked, and written down. Called in worker processes."""

from dataclasses import replace
from typing import Any

from longspan import storage
from longspan.compare.plan import Run
from longspan.compare.results import Measured
from longspan.config.compare import Merge
from longspan.config.recipe import Recipe
from longspan.errors import ConfigError, DataError, LongspanError
from longspan.launch.contents import content_changes, recipe_contents

RESULT_FILE = "comparison.json"


def finished(run: Run) -> Measured | None:
    """The run's result if it is there and for the same settings."""
    uri = storage.join(run.recipe.run_uri, RESULT_FILE)
    if not storage.exists(uri):
        return None
    record = storage.read_json(uri)
    try:
        if record["mark"] != run.mark() or content_changes(record.get("contents", {}), contents_of(run)):
            return None
        return Measured(method=run.method, seed=run.seed, **record["measured"])
    except (KeyError, TypeError) as error:
        raise DataError(f"{uri}: damaged ({error!r}); delete it and run the same command again") from None


def contents_of(run: Run) -> dict[str, Any]:
    """What lies at the places that the run names, but for a checkpoint of the comparison itself."""
    held = recipe_contents(run.recipe)
    if run.start is not None:
        held.pop("model.path", None)
    return held


def perform(run: Run, threads: int) -> Measured | None:
    """Train, or merge, and ask; goes on where it stopped. None where a signal stopped the training.

    Args:
        threads: CPU threads of the evaluation; 0 leaves the choice to torch. Training takes `train.threads`.
    """
    import torch
    from transformers.utils.logging import disable_progress_bar

    from longspan.train.memory import keep_freed_memory

    disable_progress_bar()

    if not torch.cuda.is_available():
        keep_freed_memory()
    if threads:
        torch.set_num_threads(threads)
    made = _make(run)
    if made is None:
        return None
    model, spent = made
    evaluation = _ask_untrained(run) if run.seed is None else _ask(model, run)
    measured = {**spent, "flops": run.flops, "evaluation": evaluation}
    result = {"mark": run.mark(), "label": run.label, "measured": measured, "contents": contents_of(run)}
    storage.write_json(storage.join(run.recipe.run_uri, RESULT_FILE), result)
    return Measured(method=run.method, seed=run.seed, **measured)


def _make(run: Run) -> tuple[str, dict[str, Any]] | None:
    """The run's model and what it has cost, with all that it goes on from; None where a signal stopped the training."""
    spent: dict[str, Any] = {"steps": 0, "tokens": 0, "seconds": 0.0}
    if run.start is not None:
        before = finished(run.start)
        if before is None:
            raise LongspanError(f"{run.start.label}, which it goes on from, is not finished")
        spent = {"steps": before.steps, "tokens": before.tokens, "seconds": before.seconds}
    if run.merge is not None and run.start is not None:
        return _merge(run, run.merge, run.start.checkpoint), spent
    if run.seed is None:
        return run.recipe.model.path, spent
    from longspan.launch.run import train

    summary = train(run.recipe, show_progress=False)
    if not summary["finished"]:
        return None
    return summary["checkpoint"], {key: spent[key] + summary[key] for key in spent}


def _merge(run: Run, merge: Merge, trained: str) -> str:
    """Average the base and the trained model; begun anew where it was cut short."""
    from longspan.merge import merge_checkpoints
    from longspan.recipes.actions import base_directory

    base = run.root.recipe.model
    storage.delete_tree(run.checkpoint)
    merge_checkpoints(
        base_directory(base.path, base.revision),
        trained,
        run.checkpoint,
        weight=merge.weight,
        rope="b" if merge.rope == "start" else "a",
    )
    return run.checkpoint


def train_base(recipe: Recipe) -> bool:
    """Train the base; False where a signal stopped it."""
    from longspan.launch.run import train

    return bool(train(recipe, show_progress=False)["finished"])


def _ask(model: str, run: Run) -> dict[str, Any]:
    from longspan.evaluate.run import evaluate_model

    return evaluate_model(model, run.recipe.data.manifest, run.settings)


def _ask_untrained(run: Run) -> dict[str, Any]:
    """The base with the recipe's RoPE, which may be its own (`keep`)."""
    from longspan.evaluate.run import evaluate_model
    from longspan.model.load import extend_config, read_config

    recipe = run.recipe
    if recipe.model.weights != "pretrained":
        raise ConfigError(f"method {run.method}: model.weights is {recipe.model.weights}, and nothing would train them")
    rope = None
    if recipe.rope.type != "keep":
        rope = extend_config(read_config(recipe.model), recipe.rope, recipe.data.target_length)
    return evaluate_model(recipe.model.path, recipe.data.manifest, replace(run.settings, rope=rope))
