"""What a sweep is: a base recipe, the values to try, and the number to judge them by. Typed, and free of Ray."""

import math
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, model_validator

from longspan.config.fields import Place, PositiveInt, Section
from longspan.config.load import apply_overrides, parse, read_yaml
from longspan.config.recipe import Recipe
from longspan.errors import ConfigError

Scalar = float | int | str | bool
_NEEDLES = "evaluation.needle.mean.-1"


class Choice(Section):
    """Each of these values; with several dimensions, every combination of the `grid` ones."""

    type: Literal["grid", "choice"]
    values: Annotated[list[Scalar], Field(min_length=1)]


class Range(Section):
    """A number between `low` and `high`, drawn anew for each sample."""

    type: Literal["uniform", "loguniform"]
    low: float
    high: float

    @model_validator(mode="after")
    def _rises(self) -> "Range":
        if not self.low < self.high or (self.type == "loguniform" and self.low <= 0):
            raise ValueError(f"{self.type} needs low < high{', above 0' if self.type == 'loguniform' else ''}")
        return self


class Sweep(Section):
    name: Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$")]
    recipe: str
    """Base recipe, a path relative to the sweep's file."""
    output: Place | None = None
    """Where trials and results go; runs/NAME when left out."""
    metric: Annotated[str, Field(pattern=r"^(evaluation\..+|final_loss|seconds|wall_seconds)$")] = _NEEDLES
    """Dotted path into a trial's summary.json; list items by number, -1 is the last."""
    mode: Literal["max", "min"] = "max"
    samples: PositiveInt = 1
    """Draws of the random dimensions; the grid is tried whole for each."""
    max_concurrent: PositiveInt = 1
    seed: int = 0
    set: dict[str, Any] = Field(default_factory=dict)
    """Overrides of the base recipe that hold for every trial."""
    space: Annotated[dict[str, Annotated[Choice | Range, Field(discriminator="type")]], Field(min_length=1)]
    """Dotted recipe keys and the values to try for each, for example rope.theta or data.upsample.ratio."""

    @property
    def output_uri(self) -> str:
        return self.output or f"runs/{self.name}"

    @property
    def num_trials(self) -> int:
        grids = [len(each.values) for each in self.space.values() if isinstance(each, Choice) and each.type == "grid"]
        return self.samples * math.prod(grids)

    @property
    def first_values(self) -> dict[str, Scalar]:
        """One value of each dimension."""
        return {key: each.values[0] if isinstance(each, Choice) else each.low for key, each in self.space.items()}


def load_sweep(path: str, overrides: list[str]) -> tuple[Sweep, Recipe]:
    """The sweep in a YAML file and its base recipe.

    Raises:
        ConfigError: the file, the base recipe, or a key of the space is wrong.
    """
    values = apply_overrides(read_yaml(path, "sweep"), overrides)
    sweep = parse(Sweep, values, path)
    recipe = Path(path).parent / sweep.recipe
    base = _base(path, recipe, sweep)
    if sweep.metric.startswith("evaluation.") and not base.evaluate.lengths:
        raise ConfigError(f"{path}: metric: '{sweep.metric}' needs evaluate.lengths in the recipe; give them in 'set'")
    for key, dimension in sweep.space.items():
        tried = dimension.values if isinstance(dimension, Choice) else [dimension.low, dimension.high]
        for value in tried:
            try:
                trial_recipe(base, sweep, {key: value}, "check")
            except ConfigError as error:
                raise ConfigError(f"{path}: space.{key}: {error}") from None
    return sweep, base


def _base(path: str, recipe: Path, sweep: Sweep) -> Recipe:
    try:
        values = read_yaml(recipe, "recipe")
    except ConfigError as error:
        raise ConfigError(f"{path}: recipe: {error}") from None
    try:
        return parse(Recipe, apply_overrides(values, [f"{key}={_yaml(value)}" for key, value in sweep.set.items()]), "")
    except ConfigError as error:
        reason = str(error).removeprefix(": ").removeprefix("--set ")
        raise ConfigError(f"{path}: {recipe} with 'set': {reason}") from None


def trial_recipe(base: Recipe, sweep: Sweep, values: dict[str, Any], name: str) -> Recipe:
    """The base recipe with one trial's values, running under the sweep's output."""
    overrides = [f"{key}={_yaml(value)}" for key, value in values.items()]
    changed = apply_overrides(base.model_dump(mode="json"), overrides)
    changed |= {"name": name, "output": f"{sweep.output_uri.rstrip('/')}/trials/{name}"}
    return parse(Recipe, changed, "trial")


def value_at(values: Any, path: str) -> Any:
    """The value at a dotted path; items of lists go by number. Raises KeyError with the part that is missing."""
    for part in path.split("."):
        try:
            values = values[int(part)] if isinstance(values, list) else values[part]
        except (KeyError, IndexError, ValueError, TypeError):
            known = f"; it has {', '.join(values)}" if isinstance(values, dict) else ""
            raise KeyError(f"no '{part}'{known}") from None
    return values


def metric_of(summary: dict[str, Any], path: str) -> float:
    """The number at a dotted path.

    Raises:
        ConfigError: there is none; names the part of the path that is missing.
    """
    try:
        value = value_at(summary, path)
    except KeyError as error:
        raise ConfigError(f"metric: '{path}': the trial's summary has {error.args[0]}") from None
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise ConfigError(f"metric: '{path}' is not a number in the trial's summary, but {value!r}")
    return float(value)


def _yaml(value: Any) -> str:
    import yaml

    return str(yaml.safe_dump(value, default_flow_style=True, width=10**9)).removesuffix("\n...\n").strip()
