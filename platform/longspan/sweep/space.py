"""What a sweep is: a base recipe, the values to try, and the number to judge them by. Typed, and free of Ray."""

from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, model_validator

from longspan.config.fields import Place, PositiveInt, Section
from longspan.config.load import apply_overrides, load_recipe, parse, read_yaml
from longspan.config.recipe import Recipe
from longspan.errors import ConfigError

Scalar = float | int | str | bool


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
    """Base recipe, relative to the sweep's file."""
    output: Place | None = None
    """Where trials and results go; runs/NAME when left out."""
    metric: str = "evaluation.needle.mean.-1"
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


def load_sweep(path: str, overrides: list[str]) -> tuple[Sweep, Recipe]:
    """The sweep in a YAML file and its base recipe.

    Raises:
        ConfigError: the file, the base recipe, or a key of the space is wrong.
    """
    values = apply_overrides(read_yaml(path), overrides)
    sweep = parse(Sweep, values, path)
    recipe = Path(path).parent / sweep.recipe
    base = load_recipe(recipe, [f"{key}={_yaml(value)}" for key, value in sweep.set.items()])
    for key, dimension in sweep.space.items():
        tried = dimension.values if isinstance(dimension, Choice) else [dimension.low, dimension.high]
        for value in tried:
            try:
                trial_recipe(base, sweep, {key: value}, "check")
            except ConfigError as error:
                raise ConfigError(f"{path}: space.{key}: {error}") from None
    return sweep, base


def trial_recipe(base: Recipe, sweep: Sweep, values: dict[str, Any], name: str) -> Recipe:
    """The base recipe with one trial's values, running under the sweep's output."""
    overrides = [f"{key}={_yaml(value)}" for key, value in values.items()]
    changed = apply_overrides(base.model_dump(mode="json"), overrides)
    changed |= {"name": name, "output": f"{sweep.output_uri.rstrip('/')}/trials/{name}"}
    return parse(Recipe, changed, "trial")


def metric_of(summary: dict[str, Any], path: str) -> float:
    """The number at a dotted path.

    Raises:
        ConfigError: there is none; names the part of the path that is missing.
    """
    value: Any = summary
    for part in path.split("."):
        try:
            value = value[int(part)] if isinstance(value, list) else value[part]
        except (KeyError, IndexError, ValueError, TypeError):
            known = f"; it has {', '.join(value)}" if isinstance(value, dict) else ""
            raise ConfigError(f"metric: '{path}': no '{part}' in the trial's summary{known}") from None
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise ConfigError(f"metric: '{path}' is not a number in the trial's summary, but {value!r}")
    return float(value)


def _yaml(value: Any) -> str:
    import yaml

    return str(yaml.safe_dump(value, default_flow_style=True, width=10**9)).removesuffix("\n...\n").strip()
