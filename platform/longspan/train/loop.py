"""The training loop, the same on a laptop, one GPU and a cluster: resume or begin, step, save, export."""

import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from itertools import islice
from typing import Any

import torch

from longspan import storage
from longspan.checkpoint.beside import beside_export
from longspan.checkpoint.commit import Commit, changes_at, retain
from longspan.checkpoint.export import export_model
from longspan.checkpoint.parent import home
from longspan.checkpoint.state import StoredState, find_resume, load_optimizer, load_weights, save_state
from longspan.config.recipe import Recipe
from longspan.config.resume import Change, free_values
from longspan.config.weighting import LongCE
from longspan.errors import NotFiniteError
from longspan.feed.batch import MicroBatch
from longspan.model.attention import Documents
from longspan.model.identity import staged_mark
from longspan.model.load import DTYPES, open_model, read_config, rope_of_run
from longspan.model.loss import CausalLMLoss
from longspan.model.probe import require_structure
from longspan.rope import RopeSettings
from longspan.topology import check_attention_heads
from longspan.train.engine import accumulation_steps, attention_layout, build_engine
from longspan.train.exchange import RankBatch, share
from longspan.train.memory import keep_freed_memory
from longspan.train.recorder import Recorder
from longspan.train.schedule import learning_rate
from longspan.train.step import train_step
from longspan.train.world import World

Feed = Callable[[int], Iterator[MicroBatch]]
"""First step (0-based) -> this rank's group's micro-batches from there on; called on ranks that read."""


class StaleFeedError(Exception):
    """The feed began at a checkpoint that was then found damaged; a restart of the workers mends it."""


@dataclass(frozen=True)
class Runtime:
    """What differs between the ways to run: where micro-batches come from, who is told, who may ask to stop."""

    feed: Feed
    report: Callable[[dict[str, Any], Commit], None]
    should_stop: Callable[[], bool]
    show_progress: bool


@dataclass(frozen=True)
class Trained:
    """`finished` is False where `should_stop` ended the run early; it goes on from step `steps`. `settings` are those
    of the exported checkpoint.
    """

    finished: bool
    steps: int
    settings: RopeSettings


def run_training(recipe: Recipe, world: World, runtime: Runtime) -> Trained:
    """Train `recipe` from its newest checkpoint, or from the beginning; every rank calls this.

    Raises:
        LongspanError: the subclasses of the rooms it goes through; the same on every rank unless a rank alone failed.
    """
    if world.device.type == "cpu":
        keep_freed_memory()
    if recipe.train.threads:
        torch.set_num_threads(recipe.train.threads)
    mark = staged_mark(recipe)
    commit = find_resume(recipe.run_uri, mark)
    engine, layout = _build(recipe, world, commit)
    config = read_config(recipe.model)
    settings = rope_of_run(config, recipe.rope, recipe.data.target_length).exported
    # Before the first step: what cannot be had is not to be missed after the last.
    beside = beside_export(recipe, config, settings) if world.rank == 0 else None
    done = commit.step if commit else 0

    if done < recipe.train.steps:
        done = _steps(engine, layout, recipe, world, runtime, done, mark, changes_at(commit, recipe))
    elif commit is not None and world.rank == 0:
        # The run was cut short after its last commit, perhaps before that one's clearing up.
        retain(recipe.run_uri, recipe.train.keep_checkpoints, commit.step)
    finished = done == recipe.train.steps
    if finished:
        target = storage.join(recipe.run_uri, "checkpoint")
        export_model(engine, settings, DTYPES[recipe.model.dtype], target, beside)
    engine.destroy()
    return Trained(finished, done, settings)


def _build(recipe: Recipe, world: World, commit: Commit | None) -> tuple[Any, Documents]:
    network, trained = open_model(
        recipe.model, recipe.rope, recipe.data.target_length, recipe.seed, world.sequence_rank, world.device
    )
    config: Any = network.config
    check_attention_heads(config.num_attention_heads, config.num_key_value_heads, world.topology.sequence_parallel)
    forward = CausalLMLoss(network, recipe.train.loss_chunk)
    state = StoredState(home(recipe.run_uri, commit), commit) if commit else None
    if state:
        load_weights(forward, state)
    forward.train()
    engine = build_engine(forward, trained, recipe, world)
    layout = attention_layout(forward, recipe, world)
    require_structure(
        forward,
        layout,
        config.vocab_size,
        world.device,
        world.topology.sequence_parallel,
        world.sequence_rank,
    )
    if state and commit:
        load_optimizer(engine, state, commit.step)
        state.close()
    return engine, layout


def _steps(
    engine: Any,
    layout: Documents,
    recipe: Recipe,
    world: World,
    runtime: Runtime,
    first: int,
    mark: str,
    changes: tuple[Change, ...],
) -> int:
    """Steps [first, recipe.train.steps); returns how many are done when it ends. `changes` go into the commits."""
    train = recipe.train
    accumulation = accumulation_steps(recipe, world)
    per_target = isinstance(recipe.data.loss_weighting, LongCE)
    feed = runtime.feed(first) if world.reads else None
    with ExitStack() as stack:
        record = stack.enter_context(Recorder(recipe, first, runtime.show_progress)) if world.rank == 0 else None
        for step in range(first, train.steps):
            started = time.perf_counter()
            batches, waited = _next_batches(feed, accumulation, world, layout, step)
            _expect_samples(batches, recipe, world, step)
            lr = learning_rate(train, step)
            try:
                result = train_step(engine, batches, world, step + 1, lr, per_target)
            except NotFiniteError as error:
                raise NotFiniteError(f"{error}. {_mend_divergence(recipe, step)}") from None
            if record:
                record(step + 1, result, lr, time.perf_counter() - started, waited)
            done, stop = step + 1, runtime.should_stop()
            if stop or done == train.steps or (train.save_every and done % train.save_every == 0):
                if record:
                    record.flush()
                commit = save_state(
                    engine,
                    recipe.run_uri,
                    done,
                    done * train.global_batch_size,
                    mark,
                    train.keep_checkpoints,
                    free_values(recipe),
                    changes,
                )
                runtime.report({"step": done, "loss": result.loss, "grad_norm": result.grad_norm}, commit)
            if stop:
                return done
    return train.steps


def _mend_divergence(recipe: Recipe, step: int) -> str:
    """What to do about a loss or gradient that is not finite; the rate may change at a resume (`config.resume`)."""
    rate, first = recipe.train.learning_rate, step * recipe.train.global_batch_size
    return (
        f"Resume with a lower rate (the same command with --set train.learning_rate={rate / 2:g}), or look at the"
        f" step's samples, {first} to {first + recipe.train.global_batch_size - 1}: longspan sample {recipe.run_uri}"
        f" {first}"
    )


def _next_batches(
    feed: Iterator[MicroBatch] | None, count: int, world: World, layout: Documents, step: int
) -> tuple[list[RankBatch], float]:
    """This rank's micro-batches of a step, and the seconds it waited for the feed."""
    started = time.perf_counter()
    read = list(islice(feed, count)) if feed is not None else [None] * count
    if len(read) < count:
        raise StaleFeedError(
            f"step {step + 1}: the feed ended after {len(read)} of the step's {count} micro-batches; it began at"
            " another step, or the plan of this run directory is shorter than the run"
        )
    waited = time.perf_counter() - started
    return [share(batch, world, layout) for batch in read], waited


def _expect_samples(batches: list[RankBatch], recipe: Recipe, world: World, step: int) -> None:
    size = recipe.train.micro_batch_size
    first = step * recipe.train.global_batch_size + world.group * len(batches) * size
    for number, batch in enumerate(batches):
        if batch.first_sample != first + number * size:
            raise StaleFeedError(
                f"step {step + 1}: the feed gave sample {batch.first_sample}, the checkpoint goes on at"
                f" {first + number * size}"
            )
