"""What a comparison is: one base, one corpus, one budget, methods and seeds, and the claims to be judged by them.

Typed and pure; `compare` runs it. A method is the shared recipe with some values changed, so every field that a recipe
has can be compared.
"""

import sysconfig
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, model_validator

from longspan.config.fields import (
    NUMBER,
    Fraction,
    NonNegativeFloat,
    NonNegativeInt,
    Place,
    PositiveFloat,
    PositiveInt,
    Section,
)
from longspan.config.load import apply_overrides, parse, read_yaml
from longspan.config.tasks import Task

Name = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$")]
Seed = Annotated[int, Field(ge=0, lt=2**32), NUMBER]
Values = dict[str, Any]
LOSSES = ("loss", "last_loss", "short_loss")
"""Metrics that are better when lower, in nats per token."""
Metric = Task | Literal["tasks", "loss", "last_loss", "short_loss"]
"""`tasks` is the mean over all tasks asked; the losses are explained in `compare.results`."""


class Budget(Section):
    """What every method may spend; its number of steps follows from its own sample length and batch."""

    tokens: PositiveInt | None = None
    flops: PositiveFloat | None = None
    """Training FLOPs: 6 N + 6 L d S a token, S the sample's length or, with `model.attention_pattern`, its group's. A
    mask inside the sample is not counted as saved.
    """
    steps: PositiveInt | None = None

    @model_validator(mode="after")
    def _one_measure(self) -> "Budget":
        if sum(value is not None for value in (self.tokens, self.flops, self.steps)) != 1:
            raise ValueError("give one of 'tokens', 'flops' and 'steps'")
        return self


class Base(Section):
    """The checkpoint that all methods begin with: a given one, or a small one that is trained first, once."""

    checkpoint: Place | None = None
    """Hugging Face model directory (local or s3://) or hub name."""
    config: Values | None = None
    """Values of the config.json of a new model; its vocab_size is the corpus's."""
    recipe: Values | None = None
    """Sections of the recipe that trains the new model at its short window; model.path, weights and data.manifest are
    filled in.
    """

    @model_validator(mode="after")
    def _given_or_made(self) -> "Base":
        if (self.checkpoint is None) == (self.config is None) or (self.config is None) != (self.recipe is None):
            raise ValueError("give either 'checkpoint', or 'config' and 'recipe' of a base to be trained")
        return self


class Merge(Section):
    """(1 - weight) * base + weight * the model of `start`, as `longspan merge`."""

    weight: Fraction = 0.5
    """Share of the trained model; LongRecipe takes half (2409.00509, section 4)."""
    rope: Literal["base", "start"] = "start"
    """Whose RoPE, window and tokenizer the result keeps."""


class Method(Section):
    name: Name
    note: str = ""
    """A few words for tables and plots."""
    train: bool = True
    """Off: the base with the RoPE of the recipe, and nothing trained."""
    start: Name | None = None
    """An earlier method, whose model of the same seed this one goes on from; the base when left out. What that one has
    cost counts as this one's too.
    """
    merge: Merge | None = None
    """Train nothing: the average of the base and the model of `start`."""
    set: Values = Field(default_factory=dict)
    """Dotted recipe keys and their values for this method, for example positions.type: pose."""
    budget: Budget | None = None
    """Another budget than the comparison's, for a control that is given more or less."""

    @model_validator(mode="after")
    def _a_merge_needs_two(self) -> "Method":
        if self.merge is not None and self.start is None:
            raise ValueError("'merge' needs 'start', the method whose model is averaged with the base")
        if self.merge is not None and (self.set or self.budget or not self.train):
            raise ValueError("'merge' trains nothing and has no meaning beside 'set', 'budget' or 'train'; remove them")
        if self.start is not None and not self.train:
            raise ValueError("'start' goes on training; it has no meaning beside 'train: false'; remove one of them")
        return self


class Analysis(Section):
    """What a long prefix adds to each token, scored once, for `data.selection` and `data.loss_weighting` of methods."""

    rope: Literal["ntk", "dynamic_ntk", "linear", "yarn"] | None = None
    """The model that sees far is the base with this RoPE, untrained, or `model`."""
    model: Place | None = None
    """The model that sees far: Hugging Face directory (local or s3://) or hub name."""
    window: Annotated[int, Field(ge=2), NUMBER]
    """Tokens of its longest prefix. The base, which it is compared with, has the same one."""
    sources: Annotated[list[str], Field(min_length=1)]
    """Sources of the corpus to score."""

    @model_validator(mode="after")
    def _one_model(self) -> "Analysis":
        if (self.rope is None) == (self.model is None):
            raise ValueError("give either 'model', or 'rope' to take the base with that RoPE, untrained")
        return self


class Claim(Section):
    """A sentence about two methods that the runs bear out, contradict, or leave open."""

    name: str
    """The sentence itself, as it is to be read in the report."""
    method: Name
    against: Name
    metric: Metric
    length: PositiveInt | None = None
    """Context length of a task's accuracy; the longest when left out. The losses have none."""
    relation: Literal["within", "above"]
    """`within`: the method is worse by at most `points`; `above`: it is better by more than `points`."""
    points: NonNegativeFloat = 2.0
    """Percentage points of accuracy, or hundredths of a nat per token."""
    at_most_compute: PositiveFloat | None = None
    """And it takes at most this share of the other's training FLOPs."""


class Questions(Section):
    """What every model is asked, the same for all of them."""

    lengths: Annotated[list[PositiveInt], Field(min_length=1)]
    """Context lengths in tokens."""
    text_source: str
    """Held-out source of the corpus: haystack, and text for the losses."""
    tasks: Annotated[list[Task], Field(min_length=1)] = Field(default_factory=lambda: ["recall"])  # type: ignore[arg-type]
    questions: PositiveInt = 10
    """Questions an example."""
    examples: PositiveInt = 16
    """Examples a task and length."""
    seed: Seed = 0
    loss_windows: PositiveInt = 16
    """Held-out windows read for the losses."""
    short_length: Annotated[int, Field(ge=2), NUMBER] | None = None
    """Window of the short-context loss; the shortest of `lengths` when left out."""


class Comparison(Section):
    name: Name
    output: Place | None = None
    """Where the runs and the results go; runs/NAME when left out."""
    corpus: Values | None = None
    """A corpus to prepare first, as in a corpus file, without `output`. The text {stdlib} in a path stands for the
    folder of Python's standard library. Left out: `recipe` names the manifest of a prepared one.
    """
    base: Base
    impact: Analysis | None = None
    """Scores for the methods that select sentences or weigh targets; they find them without naming them."""
    recipe: Values
    """What the methods share: sections of a recipe. model.path and, with `corpus`, data.manifest are filled in."""
    budget: Budget
    methods: Annotated[list[Method], Field(min_length=1)]
    seeds: Annotated[list[Seed], Field(min_length=1)]
    """Each method is trained once for each; a seed decides samples and positions."""
    reference: Name
    """The method that the others are compared with, seed by seed."""
    evaluate: Questions
    claims: list[Claim] = Field(default_factory=list)
    workers: NonNegativeInt = 0
    """Runs at a time, each in a process of its own; 0: one for each core, or one where there is a GPU."""

    @model_validator(mode="after")
    def _names_fit(self) -> "Comparison":
        names = [method.name for method in self.methods]
        if len(set(names)) != len(names):
            raise ValueError(f"'methods' need names that differ, not {names}")
        if len(set(self.seeds)) != len(self.seeds):
            raise ValueError(f"'seeds' must differ, not {self.seeds}")
        if self.reference not in names:
            raise ValueError(f"'reference' {self.reference} is none of the methods {names}")
        for number, method in enumerate(self.methods):
            earlier = [other.name for other in self.methods[:number] if other.train]
            if method.start is not None and method.start not in earlier:
                raise ValueError(f"methods.{number}.start: '{method.start}' is no earlier trained method of {earlier}")
        for number, claim in enumerate(self.claims):
            for field, name in (("method", claim.method), ("against", claim.against)):
                if name not in names:
                    raise ValueError(f"claims.{number}.{field}: '{name}' is none of the methods {names}")
            if claim.metric not in (*LOSSES, "tasks", *self.evaluate.tasks):
                raise ValueError(f"claims.{number}.metric: {claim.metric} is not asked; add it to evaluate.tasks")
            if claim.metric in LOSSES and claim.length is not None:
                raise ValueError(f"claims.{number}.length: {claim.metric} has none; leave it out")
            if claim.length is not None and claim.length not in self.evaluate.lengths:
                raise ValueError(f"claims.{number}.length: {claim.length} is none of {self.evaluate.lengths}")
        return self

    @property
    def output_uri(self) -> str:
        return self.output or f"runs/{self.name}"


def load_comparison(path: str | Path, overrides: list[str] | None = None) -> Comparison:
    """The comparison in a YAML file, with overrides. Raises ConfigError with one line (see `load.parse`)."""
    values = apply_overrides(read_yaml(path, "comparison"), overrides or [])
    return parse(Comparison, _with_places(values), str(path))


def _with_places(values: Values) -> Values:
    """{stdlib} replaced in the corpus's paths."""
    stdlib = sysconfig.get_paths()["stdlib"]

    def replaced(value: Any) -> Any:
        if isinstance(value, str):
            return value.replace("{stdlib}", stdlib)
        if isinstance(value, list):
            return [replaced(item) for item in value]
        return {key: replaced(item) for key, item in value.items()} if isinstance(value, dict) else value

    return values | {"corpus": replaced(values["corpus"])} if "corpus" in values else values


def dotted(values: Values) -> list[str]:
    """`values` of dotted keys as overrides for `load.apply_overrides`."""
    return [f"{key}={_yaml(value)}" for key, value in values.items()]


def _yaml(value: Any) -> str:
    import yaml

    return str(yaml.safe_dump(value, default_flow_style=True, width=10**9)).removesuffix("\n...\n").strip()
