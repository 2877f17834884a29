"""`longspan compare`: corpus, base, every method and seed, then the table. What is finished is read, not done again."""

import logging
import os
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

from longspan import storage
from longspan.compare.plan import DATA, IMPACT, INIT, Run, base_path, base_recipe, make_runs, manifest_uri
from longspan.compare.pool import in_processes
from longspan.compare.present import present
from longspan.compare.results import Measured, metric_key, metrics_of
from longspan.compare.work import finished, perform, train_base
from longspan.config.compare import Comparison
from longspan.config.corpus import Corpus
from longspan.config.load import parse
from longspan.config.model import Model
from longspan.config.recipe import Recipe
from longspan.errors import ConfigError, LongspanError
from longspan.evaluate.heldout import check_held_out

Report = Callable[[str], None]
Outcome = Measured | LongspanError | None


def run_comparison(comparison: Comparison, report: Report = print) -> dict[str, Any]:
    """Run the comparison to its end, going on where it stopped; returns OUTPUT/compare.json.

    Args:
        report: called with a line for each part that is done.

    Raises:
        HeldError: another driver writes to the output; LeaseLostError: one has taken it over.
        ConfigError: the corpus, the base or a method is wrong; before anything is trained.
        KeyboardInterrupt: the user stopped it; what is finished stays, the same call goes on.
        LaunchError: a run's process died.
        LongspanError: a run failed; the others are finished first, and the table is written if the reference has runs.
    """
    with storage.hold(comparison.output_uri, "compare"):
        return _run(comparison, report)


def _run(comparison: Comparison, report: Report) -> dict[str, Any]:
    started = time.perf_counter()
    prepare_material(comparison, report)
    _check_corpus(comparison)
    runs = make_runs(comparison, _base_config(comparison))
    analyse(comparison, report)
    _stage_all(runs)
    measured, failures = _all_runs(comparison, runs, report)
    summary: dict[str, Any] = {}
    if any(run.method == comparison.reference for run in measured):
        summary = present(comparison, measured, failures, time.perf_counter() - started)
    if failures:
        first, reason = next(iter(failures.items()))
        raise LongspanError(f"{len(failures)} of {len(runs)} runs failed; {first}: {reason}")
    return summary


def prepare_material(comparison: Comparison, report: Report) -> None:
    """The corpus and the base, where the comparison describes them.

    Raises:
        KeyboardInterrupt: a signal stopped the base's training.
    """
    output = storage.absolute(comparison.output_uri)
    if comparison.corpus is not None:
        from longspan.corpus.prepare import prepare

        values = {**comparison.corpus, "output": storage.join(output, DATA)}
        prepare(parse(Corpus, values, "corpus"), report)
    recipe = base_recipe(comparison)
    if recipe is None:
        return
    _initial_model(comparison, storage.join(output, INIT))
    report(f"base: {recipe.train.steps:,} steps at {recipe.data.sample_length:,} tokens")
    if not train_base(recipe):
        raise KeyboardInterrupt


def _initial_model(comparison: Comparison, uri: str) -> None:
    """config.json and tokenizer of the base; its weights are drawn when it is trained.

    Raises:
        ConfigError: those of another base are there.
    """
    from longspan.corpus.manifest import named_manifest

    manifest = named_manifest(manifest_uri(comparison), "recipe.data.manifest")
    values = {**(comparison.base.config or {}), "vocab_size": manifest.tokenizer.vocab_size}
    config = storage.join(uri, "config.json")
    if storage.exists(config) and storage.read_json(config) != values:
        raise ConfigError(f"base.config: {config} is that of another base; give the comparison another output")
    storage.write_json(config, values)
    for name in manifest.tokenizer.files:
        source = storage.join(manifest_uri(comparison), manifest.tokenizer.directory, name)
        storage.write_bytes(storage.join(uri, name), storage.read_bytes(source))


def _base_config(comparison: Comparison) -> dict[str, Any]:
    from longspan.model.load import read_config

    values: dict[str, Any] = read_config(
        Model(path=base_path(comparison)), "base.checkpoint" if comparison.base.checkpoint else "base.config"
    ).to_dict()
    return values


def analyse(comparison: Comparison, report: Report) -> None:
    """The scores of `impact`, where the comparison asks for them; what is there is not scored again.

    Raises:
        ConfigError, DataError: as `impact.run.score_corpus`.
    """
    asked = comparison.impact
    if asked is None:
        return
    from longspan.corpus.impact.settings import Machine, ScoreSettings
    from longspan.launch.impact import describe, score

    base = base_path(comparison)
    output = storage.join(storage.absolute(comparison.output_uri), IMPACT)
    report(f"impact: scoring {', '.join(asked.sources)} with {asked.model or f'the base on {asked.rope}'}")
    settings = ScoreSettings(
        model=asked.model or base,
        base=base,
        rope=asked.rope,
        window=asked.window,
        sources=tuple(asked.sources),
        dtype=(comparison.recipe.get("model") or {}).get("dtype", "bfloat16"),
    )
    # Alone on the machine: the runs begin when the scores are there.
    score(manifest_uri(comparison), output, settings, Machine(threads=os.cpu_count() or 1))
    describe(manifest_uri(comparison), output)


def _check_corpus(comparison: Comparison) -> None:
    from longspan.corpus.manifest import named_manifest

    manifest = named_manifest(manifest_uri(comparison), "recipe.data.manifest")
    for name in comparison.impact.sources if comparison.impact else ():
        if name not in manifest.source_names:
            raise ConfigError(f"impact.sources: '{name}' is none of the corpus's {manifest.source_names}")
    check_held_out(manifest, comparison.evaluate.text_source, comparison.evaluate.lengths)


def _stage_all(runs: list[Run]) -> None:
    """Check every recipe, and write every plan, before the first one trains: mistakes cost seconds, not hours."""
    from longspan.launch.stage import check_recipe, located, stage_run

    with warnings_once():
        for run in runs:
            if finished(run) is not None:
                continue
            try:
                if run.seed is None or run.start is not None:
                    check_recipe(_stand_in(run))
                else:
                    stage_run(located(run.recipe))
            except LongspanError as error:
                raise type(error)(f"{run.label}: {error}") from None


def _stand_in(run: Run) -> Recipe:
    """The run's recipe on the base: the model that it will go on from is not there yet."""
    if run.start is None:
        return run.recipe
    before = _stand_in(run.start)
    rope = before.rope if run.recipe.rope.type == "keep" else run.recipe.rope
    return run.recipe.model_copy(update={"model": before.model, "rope": rope})


def _all_runs(comparison: Comparison, runs: list[Run], report: Report) -> tuple[list[Measured], dict[str, str]]:
    """Results in the order of `runs`, and what went wrong by the run's label."""
    results: dict[str, Measured] = {}
    failures: dict[str, str] = {}
    missing = []
    for run in runs:
        earlier = finished(run)
        if earlier is None:
            missing.append(run)
        else:
            results[run.label] = earlier
    report(f"{len(runs)} runs, {len(results)} of them finished before")
    for depth in range(1 + max((run.depth for run in missing), default=0)):
        ready = []
        for run in (run for run in missing if run.depth == depth):
            if run.start is None or run.start.label not in failures:
                ready.append(run)
                continue
            failures[run.label] = f"{run.start.label}, which it goes on from, failed"
            report(f"{run.label}: failed: {failures[run.label]}")
        for run, found in perform_all(ready, _workers(comparison)):
            if isinstance(found, LongspanError):
                failures[run.label] = str(found)
                report(f"{run.label}: failed: {found}")
            elif found is None:
                raise KeyboardInterrupt
            else:
                results[run.label] = found
                report(_line(run, found, comparison))
    return [results[run.label] for run in runs if run.label in results], failures


def perform_all(runs: list[Run], workers: int) -> Iterator[tuple[Run, Outcome]]:
    """Each run with its result, as they end."""
    workers = min(workers, len(runs))
    if workers <= 1:  # in this process, where breakpoints work
        yield from ((run, outcome(run)) for run in runs)
        return
    call = partial(outcome, threads=max(1, (os.cpu_count() or 1) // workers))
    yield from in_processes(storage.carried(call), runs, workers)


def outcome(run: Run, threads: int = 0) -> Outcome:
    """The result of a run, None where a signal stopped it, or what is wrong with it."""
    try:
        # Its warnings were given when it was staged.
        with warnings_once(limit=0):
            return perform(run, threads)
    except LongspanError as error:
        return error


def _workers(comparison: Comparison) -> int:
    if comparison.workers:
        return comparison.workers
    import torch

    return 1 if torch.cuda.is_available() else os.cpu_count() or 1


@contextmanager
def warnings_once(limit: int = 1) -> Iterator[None]:
    """Let through `limit` copies of each of our own warnings: runs that differ in one value warn of the same things."""
    seen: Counter[str] = Counter()

    def is_new(record: logging.LogRecord) -> bool:
        seen[record.getMessage()] += 1
        return record.levelno > logging.WARNING or seen[record.getMessage()] <= limit

    # Filters of a logger do not see what its children log, so this one sits where the warnings come from.
    logger = logging.getLogger("longspan.launch.stage")
    logger.addFilter(is_new)
    try:
        yield
    finally:
        logger.removeFilter(is_new)


def _line(run: Run, measured: Measured, comparison: Comparison) -> str:
    longest = max(comparison.evaluate.lengths)
    found = metrics_of(measured.evaluation, comparison.evaluate.tasks)
    accuracies = ", ".join(f"{task} {found[metric_key(task, longest)]:.3f}" for task in comparison.evaluate.tasks)
    return f"{run.label}: {measured.steps:,} steps, {measured.seconds:.0f} s; at {longest:,}: {accuracies}"
