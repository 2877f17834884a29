"""Local mode: the loop in this process on one device; breakpoints work, Ctrl-C saves and stops.

A signal that was ignored when longspan started stays ignored: a background job of a script (`&`) is to outlive the
Ctrl-C of the foreground. SIGTERM stops such a one.
"""

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

from longspan.config.recipe import Recipe
from longspan.feed.local import local_feed
from longspan.feed.source import feed_spec
from longspan.train.loop import Runtime, Trained, run_training
from longspan.train.world import join_world, start_single_process


def wants_gpu(recipe: Recipe) -> bool:
    """Whether this machine's GPU is to be used. Raises ConfigError where one is asked for and there is none."""
    import torch

    from longspan.errors import ConfigError

    if recipe.parallel.use_gpu is True and not torch.cuda.is_available():
        raise ConfigError("parallel.use_gpu: true, but torch sees no GPU here; use auto or false")
    return torch.cuda.is_available() if recipe.parallel.use_gpu == "auto" else recipe.parallel.use_gpu


def run_local(recipe: Recipe, show_progress: bool = True) -> Trained:
    """Train in this process. A first Ctrl-C finishes the step, saves a checkpoint and returns; a second one raises."""
    gpu = wants_gpu(recipe)
    start_single_process(gpu)
    world = join_world(1, gpu)
    spec = feed_spec(recipe)
    with stop_signals() as stopped:
        runtime = Runtime(
            feed=lambda first: local_feed(spec, first, recipe.train.steps, recipe.parallel.prefetch_batches),
            report=lambda metrics, commit: None,
            should_stop=lambda: bool(stopped),
            show_progress=show_progress,
        )
        return run_training(recipe, world, runtime)


@contextmanager
def stop_signals() -> Iterator[list[int]]:
    """A list that holds the first SIGINT or SIGTERM once it came; the second acts as usual. One that is ignored stays
    so. Main thread only, else empty.
    """
    seen: list[int] = []

    def handler(number: int, frame: FrameType | None) -> None:
        seen.append(number)
        signal.signal(number, before[number])

    before: dict[int, Any] = {}
    try:
        for number in (signal.SIGINT, signal.SIGTERM):
            if signal.getsignal(number) is signal.SIG_IGN:
                continue
            before[number] = signal.signal(number, handler)
    except ValueError:
        pass
    try:
        yield seen
    finally:
        for caught, action in before.items():
            signal.signal(caught, action)
