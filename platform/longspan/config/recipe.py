"""What a run is: frozen, typed sections that together make one recipe.

Validators are pure: they look at the values only. What needs a model or a manifest is checked by `launch.stage`.
Field docstrings are the help that `longspan recipe schema` prints.
"""

from typing import Annotated, Any, Literal

from pydantic import Field, field_validator, model_validator

from longspan.config.data import Data, Positions
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
from longspan.config.model import Model, Rope
from longspan.topology import check_global_batch, check_micro_batch_tokens, check_world_size


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
    scale_window: NonNegativeInt | None = None
    """E2-LLM's inference: each length is asked at position interpolation by ceil(length / scale_window) over the
    checkpoint's base (plain RoPE within the window); 0 asks at the checkpoint's own RoPE. Left out: `positions.window`
    where rope.type is `e2llm`, else 0.
    """


class Recipe(Section):
    """One training run, whole."""

    name: Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$")]
    seed: Annotated[int, Field(ge=0, lt=2**32), NUMBER] = 0
    output: Place | None = None
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

    @model_validator(mode="after")
    def _groups_fit_the_samples(self) -> "Recipe":
        pattern, length = self.model.attention_pattern, self.data.sample_length
        if pattern is None:
            return self
        if length % (2 * pattern.groups):
            below = length // (2 * pattern.groups) * 2 * pattern.groups
            near = f"{below} or {below + 2 * pattern.groups}" if below else f"{2 * pattern.groups}"
            raise ValueError(
                f"model.attention_pattern.groups: samples of {length} tokens have no {pattern.groups} equal groups with"
                f" equal halves; use a data.sample_length of {near}"
            )
        if self.data.attention_window:
            raise ValueError(
                "model.attention_pattern: data.attention_window limits attention already; turn one of them off"
            )
        return self

    @model_validator(mode="after")
    def _rope_fits_the_data(self) -> "Recipe":
        if self.rope.type == "e2llm" and self.positions.type != "e2llm":
            raise ValueError(
                "rope.type: 'e2llm' exports the scale that was trained as positions; it needs positions.type: e2llm,"
                f" not '{self.positions.type}'"
            )
        if self.rope.mixed_window and not self.data.document_mask:
            raise ValueError(
                "rope.mixed_window: tokens that attend to each other need one RoPE; set data.document_mask: true"
            )
        if self.rope.mixed_window and self.positions.type != "contiguous":
            raise ValueError(
                "rope.mixed_window: it tells documents by their length, which the skipped positions of"
                f" '{self.positions.type}' go beyond; set positions.type: contiguous"
            )
        if self.rope.mixed_window and self.data.attention_window:
            raise ValueError(
                "data.attention_window: it cuts documents into blocks, and rope.mixed_window tells documents by their"
                " length; turn one of them off"
            )
        return self

    @model_validator(mode="after")
    def _chunks_have_their_positions(self) -> "Recipe":
        selection, offset = self.data.selection, self.positions.text_offset or "none"
        takes_chunks = selection is not None and selection.mode == "chunks"
        if takes_chunks and offset == "none":
            raise ValueError(
                "data.selection.mode: 'chunks' takes the text that PoSE's positions ask for; set positions.type: pose"
                " and positions.text_offset: same or uniform"
            )
        if offset != "none" and not takes_chunks:
            raise ValueError(
                f"positions.text_offset: '{offset}' takes chunks of a longer sample; set data.selection.mode: chunks"
                " and data.selection.from_length"
            )
        if offset == "same" and self.data.plan_length > self.data.target_length:
            raise ValueError(
                f"data.selection.from_length: {self.data.plan_length} is above data.target_length"
                f" {self.data.target_length}; with positions.text_offset: same, places in the text are positions"
            )
        return self

    @model_validator(mode="after")
    def _interleaving_has_the_positions(self) -> "Recipe":
        if self.data.interleave and self.positions.type != "contiguous":
            raise ValueError(
                "data.interleave: it decides the positions, so it does not go with positions.type:"
                f" {self.positions.type}; set positions.type: contiguous"
            )
        if self.data.interleave and self.rope.mixed_window:
            raise ValueError(
                "data.interleave: rope.mixed_window tells documents by their length, which chunks far apart go beyond;"
                " turn one of them off"
            )
        return self

    @property
    def run_uri(self) -> str:
        return self.output or f"runs/{self.name}"

    @property
    def scale_window(self) -> int | None:
        """Window in tokens that the evaluation counts E2-LLM's scale from; None asks at the checkpoint's own RoPE."""
        if self.evaluate.scale_window is None and self.rope.type == "e2llm":
            return self.positions.window
        return self.evaluate.scale_window or None

    @property
    def num_samples(self) -> int:
        return self.train.steps * self.train.global_batch_size
