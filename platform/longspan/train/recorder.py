"""Rank 0's record of a run's steps: metrics.jsonl, progress bar, tracker."""

from contextlib import ExitStack
from typing import Any, Self

import torch

from longspan import storage
from longspan.checkpoint.parent import read_parent
from longspan.config.recipe import Recipe
from longspan.config.resume import run_mark
from longspan.observe.metrics import MetricsLog
from longspan.observe.progress import training_progress
from longspan.observe.trackers import open_tracker
from longspan.train.step import StepResult


class Recorder:
    """Rank 0's record of the steps: metrics.jsonl, progress bar, tracker."""

    def __init__(self, recipe: Recipe, first: int, show_progress: bool) -> None:
        self._recipe, self._first, self._show = recipe, first, show_progress
        self._stack = ExitStack()

    def __enter__(self) -> Self:
        recipe = self._recipe
        self._log = MetricsLog.open(recipe.run_uri, self._first)
        self._stack.callback(self._log.close)
        self._update = self._stack.enter_context(
            training_progress(recipe.train.steps, self._first, recipe.name, None if self._show else False)
        )
        parent = read_parent(recipe.run_uri)
        self._tracker = open_tracker(
            recipe.tracking.wandb,
            recipe.tracking.project,
            recipe.name,
            f"{recipe.name}-{run_mark(recipe, parent.name if parent else '')[:8]}",
            recipe.model_dump(mode="json"),
            "." if storage.is_remote(recipe.run_uri) else recipe.run_uri,
        )
        self._stack.callback(self._tracker.close)
        return self

    def __exit__(self, *error: Any) -> None:
        self._stack.__exit__(*error)

    def __call__(self, step: int, result: StepResult, lr: float, seconds: float, waited: float) -> None:
        tokens = self._recipe.train.global_batch_size * self._recipe.data.sample_length
        metrics = {
            "loss": result.loss,
            "grad_norm": result.grad_norm,
            "learning_rate": lr,
            "tokens": tokens * step,
            "tokens_per_s": tokens / seconds,
            "data_wait_s": waited,
            "step_s": seconds,
            "max_position": result.max_position,
            "valid_targets": result.valid_targets,
        }
        if torch.cuda.is_available():
            metrics["gpu_memory_gib"] = torch.cuda.max_memory_allocated() / 2**30
        self._log.append({"step": step, **metrics})
        self._update(step, metrics)
        self._tracker.log(step, metrics)

    def flush(self) -> None:
        """Called before a checkpoint is committed, so that no committed step lacks its line."""
        self._log.flush()
