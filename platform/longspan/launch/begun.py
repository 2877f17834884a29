"""What an output holds already decides what a recipe may do there: begin, resume, resume with another schedule,
begin with a checkpoint of another run, or nothing. `stage` asks before anything is written.
"""

from collections.abc import Iterable
from dataclasses import dataclass, replace
from itertools import pairwise

import numpy as np

from longspan import storage
from longspan.checkpoint.commit import Commit, changes_at, written_steps
from longspan.checkpoint.parent import Parent, find_parent, read_parent, resume_commit, split_name
from longspan.config.load import parse
from longspan.config.recipe import Recipe
from longspan.config.resume import (
    SCHEDULE,
    Change,
    differences,
    fixed_values,
    fork_differences,
    free_values,
    planned_steps,
    run_mark,
    told,
)
from longspan.corpus.plan_table import PlanReader
from longspan.errors import ConfigError, StorageError
from longspan.model.identity import Identity, expect_model, identify, identity_digest, pinned, read_identity
from longspan.sampling.plan import PlanPart

RECIPE_FILE = "recipe.yaml"


@dataclass(frozen=True)
class Begun:
    """A run as it will be staged.

    Attributes:
        recipe: with the hub revision that the run was begun with.
        identity, asked: of its model, for RUN/model.json.
        parent: the checkpoint that it begins with.
        commit: what it resumes from; None at the beginning.
        changes: of the run until now, those of this resume included.
    """

    recipe: Recipe
    identity: Identity
    asked: str | None
    parent: Parent | None
    commit: Commit | None
    changes: tuple[Change, ...]

    @property
    def ends(self) -> tuple[int, ...]:
        """Ends in steps of the stretches of its plan."""
        return planned_steps(self.recipe.train.steps, self.changes)


def pinned_recipe(recipe: Recipe, resume_from: str | None = None) -> Recipe:
    """`recipe` with a hub revision resolved to its commit: the one that the run in its output, or the one that it is to
    begin with, took for the same name, so that a branch that has moved since is no other model.

    Raises:
        ConfigError: the model cannot be read.
    """
    begun_with = split_name(resume_from)[0] if resume_from else recipe.run_uri
    found = read_identity(begun_with)
    commit = found[0].get("commit") if found else None
    model = recipe.model
    if found and commit and model.revision in (commit, found[1]) and _staged_path(begun_with) == model.path:
        model = model.model_copy(update={"revision": commit})
    else:
        model = pinned(model)
    return recipe.model_copy(update={"model": model})


def _staged_path(run_uri: str) -> str | None:
    has_recipe = storage.exists(storage.join(run_uri, RECIPE_FILE))
    return read_staged(run_uri).model.path if has_recipe else None


def look(recipe: Recipe, asked: str | None, resume_from: str | None) -> Begun:
    """How the run in `recipe.run_uri` stands, for a recipe that has been checked by itself.

    Args:
        recipe: located and pinned.
        asked: the hub revision that the user's recipe names.
        resume_from: RUN or RUN@STEP to begin with.

    Raises:
        ConfigError: the output holds another run; names the fields, or the file and key of the model, and the mend.
        CheckpointError: its checkpoints, or the parent's, cannot be resumed from.
    """
    identity = identify(recipe.model)
    if storage.exists(storage.join(recipe.run_uri, RECIPE_FILE)):
        return _resumed(Begun(recipe, identity, asked, None, None, ()), resume_from)
    if any(name.startswith("checkpoints/") for name in storage.list_files(recipe.run_uri)):
        raise ConfigError(f"output: {recipe.run_uri} holds checkpoints but no {RECIPE_FILE}; give another output")
    fresh = Begun(recipe, identity, asked, None, None, ())
    return _forked(fresh, resume_from) if resume_from else fresh


def _resumed(begun: Begun, resume_from: str | None) -> Begun:
    recipe, run_uri = begun.recipe, begun.recipe.run_uri
    parent = read_parent(run_uri)
    if resume_from is not None:
        run, step = split_name(resume_from)
        if parent is None or parent.run != run or step not in (None, parent.step):
            began = f"began with {parent.name}" if parent else "did not begin with a checkpoint"
            raise ConfigError(f"--resume-from {resume_from}: the run in {run_uri} {began}; give another output")
    staged = read_staged(run_uri)
    found = differences(fixed_values(staged), fixed_values(recipe))
    if found:
        fork = all(c.field in ("train.weight_decay", "train.beta1", "train.beta2", "train.eps") for c in found)
        mend = f", or begin with its checkpoint there: --resume-from {run_uri}" if fork else ""
        raise ConfigError(
            f"output: {run_uri} holds a run of another recipe ({told(found)}); a run cannot change this when it"
            f" resumes. Give this one another output{mend}"
        )
    if parent is not None or written_steps(run_uri):
        expect_begun_with(recipe, begun.identity)
    commit = resume_commit(run_uri, run_mark(recipe, identity_digest(begun.identity)))
    changes = changes_at(commit, recipe)
    if commit is not None:
        _check_steps(recipe, commit, staged.train.steps)
    known = read_identity(run_uri)
    asked = known[1] if known and commit is not None else begun.asked
    return replace(begun, asked=asked, parent=parent, commit=commit, changes=changes)


def expect_begun_with(recipe: Recipe, identity: Identity) -> None:
    """Refuse a model that is not the one that the run in the recipe's output was begun with; names file and key."""
    known = read_identity(recipe.run_uri)
    if known is not None:
        expect_model(recipe.model.path, known[0], identity)


def _check_steps(recipe: Recipe, commit: Commit, before: int) -> None:
    steps, done = recipe.train.steps, commit.step
    if steps < done:
        raise ConfigError(
            f"train.steps: {steps}, but the run in {recipe.run_uri} has done {done}; give {done} or more, or begin"
            f" another with --resume-from {recipe.run_uri}@STEP"
        )
    late = [c for c in differences(commit.settings, free_values(recipe)) if c.field in SCHEDULE[1:]]
    if steps == done == before and late:
        raise ConfigError(
            f"{late[0].field}: {told(tuple(late))}, but the run in {recipe.run_uri} is finished after {done} steps;"
            " raise train.steps to train on, or give another output"
        )


def _forked(begun: Begun, resume_from: str) -> Begun:
    run, step = split_name(resume_from)
    origin, known = read_staged(run), read_identity(run)
    if known is None:
        raise ConfigError(f"--resume-from {run}: no model.json there; it is of an older longspan, or was not begun yet")
    found = fork_differences(origin, begun.recipe)
    if found:
        raise ConfigError(
            f"--resume-from {resume_from}: {told(found)}; a run that begins with another's checkpoint keeps all but the"
            " train section, and train.global_batch_size. Leave it as it was, or train from RUN/checkpoint as"
            " model.path"
        )
    expect_model(begun.recipe.model.path, known[0], begun.identity, f"restore it to begin with {run}")
    parent, commit = find_parent(run, step, run_mark(origin, identity_digest(known[0])))
    if begun.recipe.train.steps <= commit.step:
        raise ConfigError(
            f"train.steps: {begun.recipe.train.steps}, but {parent.name} has done {commit.step}; give more, or begin"
            " with an earlier step"
        )
    return replace(begun, parent=parent, commit=commit, changes=changes_at(commit, begun.recipe))


def check_trained_samples(begun: Begun, plan_uri: str, parts: Iterable[PlanPart]) -> None:
    """Refuse an extended plan in which a sample that was trained already is another one.

    Args:
        plan_uri: of the plan that was trained by; without one there is nothing to compare.
        parts: of the extended plan.

    Raises:
        ConfigError: names the sample, and why.
    """
    trained = begun.commit.next_sample if begun.commit else 0
    if not trained or len(begun.ends) < 2 or not storage.exists(storage.join(plan_uri, "plan.json")):
        return
    reader = PlanReader(plan_uri)
    for part in parts:
        if part.first_sample >= trained:
            return
        rows = reader.rows(part.first_sample, min(part.first_sample + part.num_samples, trained))
        for row, (begin, end) in zip(rows, pairwise(part.span_offsets), strict=False):
            same = np.array_equal(row.offsets, part.offset[begin:end])
            if not (same and np.array_equal(row.lengths, part.length[begin:end])):
                raise ConfigError(
                    f"train.steps: with {begun.recipe.train.steps} steps, sample {row.sample}, which was trained"
                    f" already,"
                    " would be another one: a plan that spreads limits over the whole run (data.repetition.on_limit) is"
                    f" another when it is longer; keep train.steps {begun.ends[-2]}, or train from"
                    f" {begun.recipe.run_uri}/checkpoint as model.path"
                )


def read_staged(run_uri: str) -> Recipe:
    """The resolved recipe of a run directory."""
    import yaml

    uri = storage.join(run_uri, RECIPE_FILE)
    try:
        text = storage.read_text(uri)
    except StorageError:
        raise ConfigError(f"{run_uri}: no {RECIPE_FILE}; give a run directory that `longspan train` made") from None
    return parse(Recipe, yaml.safe_load(text), uri)
