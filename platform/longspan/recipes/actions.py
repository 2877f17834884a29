"""What a pipeline does to models: train, merge, evaluate. `run` takes these as arguments and knows no Ray itself."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from longspan import storage
from longspan.config.pipeline import MergeStage
from longspan.config.recipe import Recipe
from longspan.model.companions import HUB_FILES, hub_folder
from longspan.model.identity import is_directory


@dataclass(frozen=True)
class Actions:
    """The three things that a stage may do.

    Attributes:
        train: a recipe to its end; returns its summary, with `finished` False where it was asked to stop.
        merge: the models at two URIs into the directory at a third, as the stage says; returns what came of it.
        evaluate: the model at a URI, asked what a recipe's `evaluate` says on its `data.manifest`; returns the answers
            of `evaluate.run.evaluate_model`.
    """

    train: Callable[[Recipe], dict[str, Any]]
    merge: Callable[[MergeStage, str, str, str], dict[str, Any]]
    evaluate: Callable[[str, Recipe], dict[str, Any]]


def real_actions() -> Actions:
    """The actions of `longspan run`."""
    return Actions(_train, _merge, _evaluate)


def _train(recipe: Recipe) -> dict[str, Any]:
    from longspan.launch.run import train

    return train(recipe)


def _merge(stage: MergeStage, a: str, b: str, output: str) -> dict[str, Any]:
    from longspan.merge import merge_checkpoints

    return merge_checkpoints(
        a, b, output, weight=stage.weight, rope=stage.rope, vocabulary=stage.vocabulary, dtype=stage.dtype
    )


def _evaluate(model: str, recipe: Recipe) -> dict[str, Any]:
    from longspan.launch.run import evaluate_checkpoint

    return evaluate_checkpoint(model, recipe)


def base_directory(path: str, revision: str | None) -> str:
    """Where the pipeline's base model lies: `path` itself where it is a directory, else the hub's copy of it.

    Raises:
        ConfigError: it is neither a directory nor a model that the hub gives.
    """
    if is_directory(path):
        return storage.absolute(path)
    problem = f"base: '{path}' is neither a directory nor a model that can be fetched from the hub"
    return str(hub_folder(path, revision, HUB_FILES, problem))
