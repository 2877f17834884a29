"""What of a recipe may change when its run resumes, what may differ in a run that begins with another's checkpoint, and
how a change is told.

Three kinds of fields: what decides neither samples nor numbers (where and how fast a run works) and the schedule may
change at any resume; what lies at a place (model, corpus, scores) is told by its content, which `launch.stage` checks;
everything else makes another run.
"""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from longspan.config.load import deciding_values
from longspan.config.recipe import Recipe

SCHEDULE = tuple(
    f"train.{key}"
    for key in ("steps", "learning_rate", "schedule", "warmup_steps", "min_lr_ratio", "decay_share", "grad_clip")
)
"""They decide numbers, and hold from the step on at which a run resumes with them."""
PLACES = ("model.path", "model.revision", "data.manifest", "data.selection.scores", "data.loss_weighting.scores")
_FORK_KEEPS = "train.global_batch_size"
_MOST_TOLD = 3


@dataclass(frozen=True)
class Change:
    """A field of a recipe, by its dotted name, and its values before and after; `from_step` optimizer steps were done
    when it came.
    """

    field: str
    was: Any
    now: Any
    from_step: int = 0


def flat(values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Values by dotted name; lists stay whole."""
    result: dict[str, Any] = {}
    for key, value in values.items():
        result |= flat(value, f"{prefix}{key}.") if isinstance(value, Mapping) else {f"{prefix}{key}": value}
    return result


def differences(old: Mapping[str, Any], new: Mapping[str, Any], from_step: int = 0) -> tuple[Change, ...]:
    """What differs between two flat sets of values, in their order; a field that is not there counts as null."""
    fields = [field for field in {**old, **new} if old.get(field) != new.get(field)]
    return tuple(Change(field, old.get(field), new.get(field), from_step) for field in fields)


def told(changes: tuple[Change, ...]) -> str:
    """`train.steps was 4, is 5; and 2 more`."""
    parts = [f"{c.field} was {json.dumps(c.was)}, is {json.dumps(c.now)}" for c in changes[:_MOST_TOLD]]
    return "; ".join([*parts, *([f"and {len(changes) - _MOST_TOLD} more"] if changes[_MOST_TOLD:] else [])])


def fixed_values(recipe: Recipe) -> dict[str, Any]:
    """What makes a run the run that was begun, by dotted name; content at `PLACES` is not looked at here."""
    return {k: v for k, v in flat(deciding_values(recipe)).items() if k not in (*SCHEDULE, *PLACES)}


def free_values(recipe: Recipe) -> dict[str, Any]:
    """What may change at a resume, or in a run that begins with a checkpoint (the train section), by dotted name, as a
    commit records it; without names of places.
    """
    fixed, everything = fixed_values(recipe), flat(recipe.model_dump(mode="json", exclude={"output", "name"}))
    return {k: v for k, v in everything.items() if k.startswith("train.") or k not in (*fixed, *PLACES)}


def run_mark(recipe: Recipe, model: str = "") -> str:
    """Hash of `fixed_values` and of the content of the model (`model.identity.identity_digest`): what a commit must
    have for the recipe to resume from it.
    """
    return hashlib.sha256(json.dumps([fixed_values(recipe), model], sort_keys=True).encode()).hexdigest()[:32]


def fork_differences(parent: Recipe, recipe: Recipe) -> tuple[Change, ...]:
    """What a run that begins with a checkpoint of `parent` may not have otherwise: all that `fixed_values` holds but
    the train section, of which only the global batch size stays (it says which samples a step takes).
    """
    found = differences(fixed_values(parent), fixed_values(recipe))
    return tuple(c for c in found if c.field == _FORK_KEEPS or not c.field.startswith("train."))


def planned_steps(steps: int, changes: tuple[Change, ...] = ()) -> tuple[int, ...]:
    """Ends of the stretches that a run's plan is made of, rising: its steps at first, and each extension.

    A stretch is planned with the mix of the last phase and leaves all samples before it as they were.

    Args:
        steps: of the recipe.
        changes: of the run until now.
    """
    history = [c for c in changes if c.field == "train.steps"]
    ends: list[int] = []
    for end in [*(c.was for c in history), *(c.now for c in history), steps]:
        if not ends or end > ends[-1]:
            ends.append(end)
    return tuple(ends)
