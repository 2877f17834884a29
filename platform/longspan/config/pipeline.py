"""What a pipeline is: stages in order (train, merge), each from the checkpoint of the one before. Typed and pure.

`recipes` runs it. A train stage is a recipe in pieces: the file that it extends, what all stages have in common, and
its own values, later over earlier; here they become one checked `Recipe`.
"""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import Field, model_validator

from longspan.config.fields import NUMBER, Fraction, Place, Section
from longspan.config.load import apply_overrides, parse, read_yaml
from longspan.config.recipe import Evaluate, Recipe
from longspan.errors import ConfigError

BASE = "base"
"""How a stage names the model that the pipeline begins with."""
CHECKPOINT = "checkpoint"
"""Folder of a stage's model, inside the stage's own folder."""
Name = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$")]
Values = dict[str, Any]


class Sections(Section):
    """Parts of recipes; what they hold is checked once they are put together."""

    model: Values = Field(default_factory=dict)
    rope: Values = Field(default_factory=dict)
    data: Values = Field(default_factory=dict)
    positions: Values = Field(default_factory=dict)
    train: Values = Field(default_factory=dict)
    parallel: Values = Field(default_factory=dict)
    tracking: Values = Field(default_factory=dict)

    def given(self) -> Values:
        """The sections that are given, by name."""
        return {name: dict(value) for name in SECTIONS if (value := getattr(self, name))}


SECTIONS = tuple(Sections.model_fields)


class TrainSpec(Sections):
    """A training run, in the words of a recipe."""

    type: Literal["train"] = "train"
    name: Name
    """Its folder is OUTPUT/NN-NAME; later stages call it by this name."""
    start: Name | None = None
    """The earlier stage whose checkpoint it trains, or `base`; the stage before when left out."""
    extends: str | None = None
    """Recipe to begin with, a path relative to the pipeline's file; its model.path, output and evaluate are not taken.
    """
    seed: Annotated[int, Field(ge=0, lt=2**32), NUMBER] | None = None
    """The extended recipe's when left out. Else the pipeline's for the first stage, and another for every later one,
    drawn from that and the stage's name: with the same, stages over one corpus would read the same documents again.
    """
    evaluate: bool = True
    """Ask its model what `evaluate` of the pipeline says."""


class MergeSpec(Section):
    """(1 - weight) * a + weight * b, as `longspan merge`: LongRecipe's last stage (2409.00509, section 4)."""

    type: Literal["merge"]
    name: Name
    """Its folder is OUTPUT/NN-NAME; later stages call it by this name."""
    a: Name = BASE
    """An earlier stage or `base`."""
    b: Name | None = None
    """An earlier stage or `base`; the stage before when left out."""
    weight: Fraction = 0.5
    """Share of b in the result."""
    rope: Literal["a", "b"] | None = None
    """The side whose RoPE, window and tokenizer the result keeps; needed where they differ."""
    vocabulary: Literal["a", "b"] | None = None
    """The side whose tokens the result keeps; needed where they differ. Rows of tokens of both sides are averaged."""
    dtype: Literal["float32", "bfloat16", "float16"] | None = None
    """Type of the result's weights; the tensors' own when left out."""
    evaluate: bool = True
    """Ask its model what `evaluate` of the pipeline says."""


class Evaluation(Evaluate):
    """Asked of every stage's model, on one corpus, so that the stages can be compared."""

    manifest: Place
    """Prepared corpus that holds `text_source`."""
    base: bool = True
    """The model that the pipeline begins with is asked too."""

    @model_validator(mode="after")
    def _something_to_ask(self) -> "Evaluation":
        for field in ("lengths", "text_source"):
            if not getattr(self, field):
                raise ValueError(f"'{field}' is needed: an evaluation has lengths in tokens and a held-out text_source")
        return self


class PipelineSpec(Section):
    """A pipeline as its file has it."""

    name: Name
    output: Place | None = None
    """Directory (local or s3://) of all stages; runs/NAME when left out."""
    base: Place
    """The model to begin with: Hugging Face directory (local or s3://) or hub name."""
    revision: str | None = None
    """Commit hash or tag of `base` on the hub."""
    seed: Annotated[int, Field(ge=0, lt=2**32), NUMBER] = 0
    """Seed of the evaluation and of the first stage; decides those of the later stages."""
    common: Values = Field(default_factory=dict)
    """Sections that hold for every train stage, over those of the recipe that it extends."""
    evaluate: Evaluation | None = None
    """What every stage's model is asked; left out, none is. Its `scale_window`, left out, is `positions.window` of the
    first stage whose rope.type is `e2llm`, for all models.
    """
    stages: Annotated[list[Values], Field(min_length=1, max_length=99)]
    """Train and merge stages in order."""


@dataclass(frozen=True)
class TrainStage:
    """`recipe` is complete: it trains the checkpoint of `start`, an earlier stage's name or `base`.

    `start` is None where the stage names a `model.path` of its own.
    """

    name: str
    folder: str
    start: str | None
    recipe: Recipe
    evaluate: bool


@dataclass(frozen=True)
class MergeStage:
    """(1 - weight) * a + weight * b; a and b are names of earlier stages or `base`."""

    name: str
    folder: str
    a: str
    b: str
    weight: float
    rope: str | None
    dtype: str | None
    evaluate: bool
    vocabulary: str | None = None


Stage = TrainStage | MergeStage


@dataclass(frozen=True)
class Pipeline:
    """A checked pipeline: every stage knows its folder (a name inside `output`) and where it begins."""

    name: str
    output: str
    base: str
    revision: str | None
    seed: int
    evaluate: Evaluation | None
    stages: tuple[Stage, ...]

    def folder(self, stage: Stage) -> str:
        """URI of the stage's folder."""
        return f"{self.output.rstrip('/')}/{stage.folder}"


def load_pipeline(path: str | Path, overrides: Sequence[str] = ()) -> Pipeline:
    """The pipeline in a YAML file, with dotted overrides (`stages.1.train.steps=100`, `common.parallel.num_workers=2`).

    Raises:
        ConfigError: one line that names the dotted field (`stages.1.train.steps`), what is wrong and the mend.
    """
    spec = parse(PipelineSpec, apply_overrides(read_yaml(path, "pipeline"), list(overrides)), str(path))
    return resolve_pipeline(spec, Path(path))


def resolve_pipeline(spec: PipelineSpec, file: Path) -> Pipeline:
    """Put the stages' recipes together. `file` is what messages name and what `extends` is relative to.

    Raises ConfigError as `load_pipeline`.
    """
    common = _parse_at(Sections, spec.common, file, "common").given()
    output = spec.output or f"runs/{spec.name}"
    stages: list[Stage] = []
    for number, values in enumerate(spec.stages):
        stages.append(_stage(spec, values, number, output, common, stages, file))
    evaluate = spec.evaluate
    if evaluate is not None and evaluate.scale_window is None:
        windows = [stage.recipe.scale_window for stage in stages if isinstance(stage, TrainStage)]
        evaluate = evaluate.model_copy(update={"scale_window": next(filter(None, windows), 0)})
    return Pipeline(spec.name, output, spec.base, spec.revision, spec.seed, evaluate, tuple(stages))


def _stage(
    spec: PipelineSpec, values: Values, number: int, output: str, common: Values, earlier: list[Stage], file: Path
) -> Stage:
    field = f"stages.{number}"
    kind = values.get("type", "train")
    if kind not in ("train", "merge"):
        raise ConfigError(f"{file}: {field}.type: input should be one of 'train', 'merge', not {kind!r}")
    known = [BASE, *(stage.name for stage in earlier)]
    own = _parse_at(TrainSpec if kind == "train" else MergeSpec, values, file, field)
    if own.name in known:
        raise ConfigError(f"{file}: {field}.name: '{own.name}' is taken; every stage needs a name of its own")
    folder = f"{number + 1:02d}-{own.name}"
    before = known[-1]
    if isinstance(own, MergeSpec):
        a, b = own.a, own.b or before
        for side, name in (("a", a), ("b", b)):
            _check_known(name, known, file, f"{field}.{side}")
        if a == b:
            raise ConfigError(f"{file}: {field}: a and b are both '{a}'; name two different models")
        return MergeStage(own.name, folder, a, b, own.weight, own.rope, own.dtype, own.evaluate, own.vocabulary)
    start = own.start or before
    _check_known(start, known, file, f"{field}.start")
    folders = {stage.name: stage.folder for stage in earlier}
    begins: Values = {"path": spec.base, "revision": spec.revision}
    if start != BASE:
        begins = {"path": f"{output.rstrip('/')}/{folders[start]}/{CHECKPOINT}", "revision": None}
    _check_beginning(own, common, file, field)
    recipe = _recipe(spec, own, field, f"{output.rstrip('/')}/{folder}", common, begins, file)
    return TrainStage(own.name, folder, None if "path" in own.model else start, recipe, own.evaluate)


def _check_beginning(own: TrainSpec, common: Values, file: Path, field: str) -> None:
    """A stage says once, and in its own place, which model it begins with."""
    for key in ("path", "revision"):
        if key in common.get("model", {}):
            raise ConfigError(
                f"{file}: common.model.{key}: the pipeline's base and the stages before say it; leave it out"
            )
    if "revision" in own.model and "path" not in own.model:
        raise ConfigError(f"{file}: {field}.model.revision: belongs to a model.path; give that too, or leave it out")
    if "path" in own.model and own.start is not None:
        raise ConfigError(
            f"{file}: {field}.start: model.path says already where the stage begins; leave one of them out"
        )


def _check_known(name: str, known: list[str], file: Path, field: str) -> None:
    if name not in known:
        raise ConfigError(f"{file}: {field}: '{name}' is no earlier stage; earlier are {', '.join(known)}")


def _recipe(
    spec: PipelineSpec, own: TrainSpec, field: str, output: str, common: Values, begins: Values, file: Path
) -> Recipe:
    extended: Values = {}
    if own.extends is not None:
        try:
            extended = read_yaml(file.parent / own.extends, "recipe")
        except ConfigError as error:
            raise ConfigError(f"{file}: {field}.extends: {error}") from None
    values = overlay(overlay(extended, common), own.given())
    seed = own.seed if own.seed is not None else extended.get("seed", _stage_seed(spec, own.name))
    values |= {"name": f"{spec.name}-{own.name}", "output": output, "seed": seed}
    values.pop("evaluate", None)
    model = _mapping(values.get("model"))
    values["model"] = (
        {**model, **begins} if "path" not in own.model else {**model, "revision": own.model.get("revision")}
    )
    try:
        return parse(Recipe, values, "")
    except ConfigError as error:
        layers = ((field, own.given()), ("common", common), (f"{field}.extends ({own.extends})", extended))
        raise type(error)(f"{file}: {_place(str(error).removeprefix(': '), layers)}") from None


def _stage_seed(spec: PipelineSpec, name: str) -> int:
    if spec.stages[0].get("name") == name:
        return spec.seed
    return int.from_bytes(hashlib.sha256(f"{spec.seed} {name}".encode()).digest()[:4])


def _mapping(value: Any) -> Values:
    return value if isinstance(value, dict) else {}


def overlay(under: Mapping[str, Any], over: Mapping[str, Any]) -> Values:
    """`under` with the values of `over`, key by key through the sections; lists are replaced.

    A section with another `type` replaces the old one whole: the old type's fields mean nothing to it.
    """
    result = dict(under)
    for key, value in over.items():
        old = result.get(key)
        keeps = (
            isinstance(old, dict) and isinstance(value, dict) and value.get("type", old.get("type")) == old.get("type")
        )
        result[key] = overlay(old, value) if keeps else value  # type: ignore[arg-type]
    return result


def _place(message: str, layers: Sequence[tuple[str, Values]]) -> str:
    """The message of a recipe's mistake with the field under the layer that gave its value, else under the first."""
    field, _, rest = message.partition(":")
    section = field.split(".")[0]
    if section not in Recipe.model_fields or " " in field:
        return f"{layers[0][0]}: {message}"
    owner = next((name for name, values in layers if _has(values, field.split("."))), layers[0][0])
    separator = ": " if owner.endswith(")") else "."
    return f"{owner}{separator}{field}:{rest}"


def _has(values: Any, path: list[str]) -> bool:
    for part in path:
        if isinstance(values, list) and part.isdecimal() and int(part) < len(values):
            values = values[int(part)]
        elif isinstance(values, dict) and part in values:
            values = values[part]
        else:
            return False
    return True


def _parse_at(model: type[Any], values: Values, file: Path, field: str) -> Any:
    """`values` as a `model`, with mistakes under the dotted `field`."""
    try:
        return parse(model, values, "")
    except ConfigError as error:
        raise ConfigError(f"{file}: {field}.{str(error).removeprefix(': ')}") from None


def show_pipeline(pipeline: Pipeline) -> str:
    """The pipeline as YAML with every default of every stage written out; `load_pipeline` reads the same from it."""
    values = {
        "name": pipeline.name,
        "output": pipeline.output,
        "base": pipeline.base,
        "revision": pipeline.revision,
        "seed": pipeline.seed,
        "evaluate": pipeline.evaluate.model_dump(mode="json") if pipeline.evaluate else None,
        "stages": [_shown(stage) for stage in pipeline.stages],
    }
    return yaml.safe_dump(values, sort_keys=False, allow_unicode=True)


def _shown(stage: Stage) -> Values:
    if isinstance(stage, MergeStage):
        keys = ("name", "a", "b", "weight", "rope", "vocabulary", "dtype", "evaluate")
        return {"type": "merge", **{key: getattr(stage, key) for key in keys}}
    sections = {name: getattr(stage.recipe, name).model_dump(mode="json") for name in SECTIONS}
    if stage.start is not None:  # which says where it begins, and may be said but once
        del sections["model"]["path"], sections["model"]["revision"]
    head = {"type": "train", "name": stage.name, "start": stage.start, "seed": stage.recipe.seed}
    return {**head, "evaluate": stage.evaluate, **sections}
