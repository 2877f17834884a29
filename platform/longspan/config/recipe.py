"""What a run is: frozen, typed sections that together make one recipe.

Validators are pure: they look at the values only. What needs a model or a manifest is checked by `launch.stage`.
Field docstrings are the help that `longspan recipe schema` prints.
"""

from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, field_validator, model_validator

from longspan.topology import check_global_batch, check_micro_batch_tokens, check_world_size


def _number(value: Any) -> Any:
    """pydantic takes true for 1, but a recipe with `steps: yes` is a mistake."""
    if isinstance(value, bool):
        raise ValueError(f"a number is needed, not {str(value).lower()}")
    return value


NUMBER = BeforeValidator(_number)
PositiveInt = Annotated[int, Field(gt=0), NUMBER]
NonNegativeInt = Annotated[int, Field(ge=0), NUMBER]
PositiveFloat = Annotated[float, Field(gt=0, allow_inf_nan=False), NUMBER]
NonNegativeFloat = Annotated[float, Field(ge=0, allow_inf_nan=False), NUMBER]
Fraction = Annotated[float, Field(ge=0, le=1), NUMBER]


class Section(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True, strict=False)


class Model(Section):
    path: str
    """Hugging Face model directory (local or s3://) or hub name, of the Llama, Mistral, Qwen2 or Qwen3 family."""
    revision: str | None = None
    """Commit hash or tag on the hub; ignored for directories."""
    weights: Literal["pretrained", "random"] = "pretrained"
    """`random` reads config.json and the tokenizer only and draws the weights from `seed`."""
    dtype: Literal["float32", "bfloat16"] = "bfloat16"
    """Type of the weights in forward, backward and the exported checkpoint; the optimizer keeps float32 masters."""
    attention: Literal["auto", "sdpa", "flash_attn"] = "auto"
    """Kernel behind longspan's attention; `auto` takes flash-attn when it is installed and the device is a GPU."""
    gradient_checkpointing: bool = True
    drop_sliding_window: bool = False
    """Turn a sliding attention window off; a model that has one is refused otherwise."""
    trust_remote_code: bool = False


class Rope(Section):
    type: Literal["keep", "theta", "ntk", "dynamic_ntk", "linear", "yarn", "llama3"] = "keep"
    """`keep` the model's; `theta` sets the base; `ntk`, `dynamic_ntk` compute it for `data.target_length`; others
    scale.
    """
    theta: PositiveFloat | None = None
    """rope_theta: required by `theta`; the others start from it when given, else from the model's own."""
    factor: Annotated[float, Field(ge=1, allow_inf_nan=False), NUMBER] | None = None
    """Scaling factor; target_length / original_max_position_embeddings when left out."""
    original_max_position_embeddings: PositiveInt | None = None
    """The model's window before extension; its max_position_embeddings when left out."""
    beta_fast: PositiveFloat | None = None
    beta_slow: PositiveFloat | None = None
    low_freq_factor: PositiveFloat | None = None
    high_freq_factor: PositiveFloat | None = None

    @model_validator(mode="after")
    def _fields_fit_the_type(self) -> "Rope":
        if self.type == "theta" and self.theta is None:
            raise ValueError("type 'theta' needs 'theta', the new rope_theta (for example 500000.0)")
        for names, types in (
            (("beta_fast", "beta_slow"), {"yarn"}),
            (("low_freq_factor", "high_freq_factor"), {"llama3"}),
            (("factor",), {"ntk", "dynamic_ntk", "linear", "yarn", "llama3"}),
        ):
            for name in names:
                if getattr(self, name) is not None and self.type not in types:
                    raise ValueError(f"'{name}' has no meaning for type '{self.type}'; it belongs to {sorted(types)}")
        return self


class ShortMix(Section):
    """Short documents beside the long ones keep what the model could do before (ProLong, 2410.02660)."""

    share: Fraction
    """Share of the samples that is drawn by these weights instead of the phase's."""
    weights: dict[str, NonNegativeFloat]
    """Share of those samples drawn from each source; normalised to 1."""

    @model_validator(mode="after")
    def _some_weight(self) -> "ShortMix":
        _check_weights(self.weights)
        return self


class MixPhase(Section):
    from_step: NonNegativeInt = 0
    """First optimizer step (0-based) at which these weights hold."""
    weights: dict[str, NonNegativeFloat]
    """Share of samples drawn from each source; normalised to 1."""
    short: ShortMix | None = None
    """A share of the samples set aside for short documents, with a mix of its own."""
    ramp: bool = False
    """Move in a straight line from this phase's mix to the next one's, reached at its from_step."""

    @model_validator(mode="after")
    def _some_weight(self) -> "MixPhase":
        _check_weights(self.weights)
        return self


def _check_weights(weights: dict[str, float]) -> None:
    if not weights or sum(weights.values()) <= 0:
        raise ValueError("'weights' needs at least one source with a weight above 0")


UpsampleRatio = Annotated[float, Field(ge=1, le=100), NUMBER]


class LengthWeight(Section):
    threshold: PositiveInt | None = None
    """Documents of at least this many tokens count as long; `data.upsample.threshold` when left out."""
    ratio: UpsampleRatio
    """As `data.upsample.ratio`; 1 draws all documents of this source alike."""


class Upsample(Section):
    threshold: PositiveInt
    """Documents of at least this many tokens count as long."""
    ratio: UpsampleRatio
    """How many times as often a long document is drawn, inside its own source (Fu et al., 2402.10171)."""
    by_source: dict[str, LengthWeight] = Field(default_factory=dict)
    """Other values for some sources."""


class Repetition(Section):
    """How often a source may be read again; four epochs cost little, many more do (2305.16264)."""

    max_epochs: PositiveFloat | None = None
    """Limit for every source, in passes over its tokens (upsampled copies count as tokens); left out: none."""
    by_source: dict[str, PositiveFloat] = Field(default_factory=dict)
    """Other limits for some sources."""
    on_limit: Literal["refuse", "spread"] = "refuse"
    """A mix that needs more: `refuse` the recipe, or `spread` what is over on the other sources by their weights."""


class Data(Section):
    manifest: str
    """Directory (local or s3://) that `longspan prepare` wrote."""
    sample_length: Annotated[int, Field(ge=2), NUMBER]
    """Tokens in a training sample."""
    target_length: Annotated[int, Field(ge=2, le=2**24), NUMBER]
    """The window that positions are spread over; becomes max_position_embeddings."""
    mix: list[MixPhase]
    """The source mix; more than one phase makes a schedule."""
    upsample: Upsample | None = None
    repetition: Repetition = Repetition()
    packing: Literal["best_fit", "sequential"] = "best_fit"
    """How documents become samples: `best_fit` puts whole documents together where they fit and pads the rest,
    `sequential` cuts the stream of documents every `sample_length` tokens and pads nothing.
    """
    shuffle: bool = True
    """Off: documents and samples of a source come in the corpus's own order."""
    shuffle_tokens: PositiveInt = 32_000_000
    """Tokens of a source that are shuffled together, out of chunks drawn from all over it. More mixes wider; a feed
    worker holds the blocks of all sources in memory (4 bytes a token, up to 2 GiB) and each chunk is read about once.
    """
    document_mask: bool = True
    """Attention stays inside a document. Off: a sample is one document (UltraLong, CIP)."""

    @model_validator(mode="after")
    def _lengths_and_phases(self) -> "Data":
        if self.sample_length > self.target_length:
            raise ValueError(
                f"'sample_length' {self.sample_length} is above 'target_length' {self.target_length};"
                " positions must fit in the target window"
            )
        steps = [phase.from_step for phase in self.mix]
        if not steps or steps[0] != 0 or sorted(set(steps)) != steps:
            raise ValueError(f"'mix' phases need from_step rising from 0, not {steps}")
        return self


class Positions(Section):
    type: Literal["contiguous", "longrecipe", "pose", "randpos"] = "longrecipe"
    """Which position each token gets: papers.md; contiguous is ordinary training."""
    variant: Literal["composition", "bounded"] = "composition"
    """LongRecipe's gaps: a uniform composition of the unused positions, or independent bounded gaps (its Eq. 6)."""
    min_segments: PositiveInt = 7
    """LongRecipe: a document with fewer sentences than this gets random cuts beside them."""
    num_chunks: Annotated[int, Field(ge=1), NUMBER] = 2
    """PoSE: chunks a sample."""


class Train(Section):
    steps: PositiveInt
    global_batch_size: PositiveInt
    """Samples an optimizer step, over all data-parallel groups and accumulation steps."""
    micro_batch_size: PositiveInt = 1
    """Samples a forward pass of one data-parallel group."""
    learning_rate: PositiveFloat = 2e-5
    schedule: Literal["constant", "cosine", "linear", "wsd"] = "cosine"
    """After the warm-up; `wsd` stays constant and decays linearly over the last `decay_share` of the steps."""
    warmup_steps: NonNegativeInt = 0
    min_lr_ratio: Fraction = 0.0
    decay_share: Fraction = 0.3
    weight_decay: NonNegativeFloat = 0.0
    beta1: Annotated[float, Field(ge=0, lt=1), NUMBER] = 0.9
    beta2: Annotated[float, Field(ge=0, lt=1), NUMBER] = 0.95
    eps: PositiveFloat = 1e-8
    grad_clip: NonNegativeFloat = 1.0
    """Largest global gradient norm; 0 turns clipping off."""
    zero_stage: Literal[1, 2, 3] = 1
    loss_chunk: PositiveInt = 2048
    """Tokens whose logits are held at once; the full logits of a long sample do not fit a GPU."""
    save_every: NonNegativeInt = 0
    """Optimizer steps between resumable checkpoints; 0 saves at the end only."""
    keep_checkpoints: Annotated[int, Field(ge=1), NUMBER] = 2
    threads: NonNegativeInt = 0
    """CPU threads a worker; 0 leaves the choice to torch."""

    @model_validator(mode="after")
    def _warmup_fits(self) -> "Train":
        if self.warmup_steps > self.steps:
            raise ValueError(f"'warmup_steps' {self.warmup_steps} is above 'steps' {self.steps}")
        return self


class Parallel(Section):
    launch: Literal["local", "ray"] = "local"
    """`local` runs in this process on one device; `ray` starts `num_workers` Ray Train workers."""
    num_workers: PositiveInt = 1
    sequence_parallel: PositiveInt = 1
    """Workers that share one sample (DeepSpeed Ulysses)."""
    use_gpu: bool | Literal["auto"] = "auto"
    """A GPU a worker; `auto`: if the cluster (or this machine) has one."""
    cpus_per_worker: PositiveFloat = 1.0
    feed_workers: PositiveInt = 1
    """CPU slots that Ray Data may use beside the training workers."""
    prefetch_batches: NonNegativeInt = 8
    """Micro-batches made ready ahead of the step."""
    shard_cache_bytes: PositiveInt = 16 * 2**30
    """Disk that a node may use to keep chunks of a corpus in object storage."""
    address: str | None = None
    """Ray cluster to join; left out: RAY_ADDRESS, else a cluster of this machine for the run."""
    max_failures: Annotated[int, Field(ge=-1), NUMBER] = 3
    """Restarts from the last checkpoint after a worker dies; -1 for no limit."""

    @model_validator(mode="after")
    def _local_is_one_process(self) -> "Parallel":
        if self.launch == "local" and (self.num_workers != 1 or self.sequence_parallel != 1):
            raise ValueError(
                f"'launch' local is one process; num_workers {self.num_workers} and sequence_parallel"
                f" {self.sequence_parallel} need launch: ray"
            )
        return self


class Tracking(Section):
    wandb: Literal["off", "online", "offline"] = "off"
    project: str = "longspan"

    @field_validator("wandb", mode="before")
    @classmethod
    def _off_is_a_word(cls, value: Any) -> Any:
        """YAML 1.1 reads a bare `off` as false."""
        return "off" if value is False else value


class Evaluate(Section):
    lengths: list[PositiveInt] = Field(default_factory=list)
    """Needle-grid lengths; left empty the run is not evaluated."""
    needles: PositiveInt = 10
    examples: PositiveInt = 16
    """Needle examples a length; each asks for every needle."""
    text_source: str | None = None
    """Held-out source of the manifest: haystack of the needles, and loss by position."""


class Recipe(Section):
    """One training run, whole."""

    name: Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$")]
    seed: Annotated[int, Field(ge=0, lt=2**32), NUMBER] = 0
    output: str | None = None
    """Run directory (local or s3://); runs/NAME when left out."""
    model: Model
    rope: Rope = Rope()
    data: Data
    positions: Positions = Positions()
    train: Train
    parallel: Parallel = Parallel()
    evaluate: Evaluate = Evaluate()
    tracking: Tracking = Tracking()

    @model_validator(mode="after")
    def _layout_divides(self) -> "Recipe":
        parallel, train = self.parallel, self.train
        check_world_size(parallel.num_workers, parallel.sequence_parallel)
        check_micro_batch_tokens(train.micro_batch_size, self.data.sample_length, parallel.sequence_parallel)
        check_global_batch(
            train.global_batch_size, train.micro_batch_size, parallel.num_workers // parallel.sequence_parallel
        )
        late = [phase.from_step for phase in self.data.mix if phase.from_step >= self.train.steps]
        if late:
            raise ValueError(f"data.mix: from_step {late[0]} is never reached in train.steps {self.train.steps}")
        if self.data.mix[-1].ramp:
            last = len(self.data.mix) - 1
            raise ValueError(f"data.mix.{last}.ramp: the last phase has no next one to move to; add a phase to reach")
        return self

    @property
    def run_uri(self) -> str:
        return self.output or f"runs/{self.name}"

    @property
    def num_samples(self) -> int:
        return self.train.steps * self.train.global_batch_size
