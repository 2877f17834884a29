"""The sections of a recipe about the model: where it comes from, what of it is trained, and its RoPE."""

from typing import Annotated, Literal

from pydantic import Field, model_validator

from longspan.config.fields import NUMBER, Place, PositiveFloat, PositiveInt, Section

ModuleNames = list[Annotated[str, Field(pattern=r"^[A-Za-z0-9_]+$")]]
"""Last parts of module names: `q_proj` is the one of every layer."""


class Lora(Section):
    """Train small matrices beside frozen linear layers: W + alpha / rank * B A (2106.09685)."""

    rank: Annotated[int, Field(gt=0, le=1024), NUMBER] = 16
    alpha: PositiveFloat = 32.0
    targets: ModuleNames = Field(default=["q_proj", "k_proj", "v_proj", "o_proj"], min_length=1)
    """Linear layers that get such matrices."""
    also_train: ModuleNames = Field(default_factory=list)
    """Modules trained whole; the embedding and the norms help a longer window (LongLoRA, 2309.12307)."""
    quantize: Literal["nf4"] | None = None
    """`nf4` keeps the frozen linear layers in 4 bits (QLoRA, 2305.14314); needs bitsandbytes."""

    @model_validator(mode="after")
    def _one_way_to_train(self) -> "Lora":
        both = sorted(set(self.targets) & set(self.also_train))
        if both:
            raise ValueError(f"'{both[0]}' is in both 'targets' and 'also_train'; name it in one of them")
        return self


class ShiftedGroups(Section):
    """LongLoRA's shifted sparse attention (2309.12307), in training only; evaluation and the exported model attend to
    everything. Half of the heads attend within groups of a sample's tokens, half within groups shifted by half a group.
    """

    type: Literal["s2"] = "s2"
    groups: Annotated[int, Field(ge=2), NUMBER] = 4
    """Groups a sample; the paper takes 4."""


class Model(Section):
    path: Place
    """Hugging Face model directory (local or s3://) or hub name, of the Llama, Mistral, Qwen2 or Qwen3 family."""
    revision: str | None = None
    """Commit hash or tag on the hub; ignored for directories."""
    weights: Literal["pretrained", "random"] = "pretrained"
    """`random` reads config.json and the tokenizer only and draws the weights from `seed`."""
    dtype: Literal["float32", "bfloat16"] = "bfloat16"
    """Type of the weights in forward, backward and the exported checkpoint; the optimizer keeps float32 masters."""
    attention: Literal["auto", "sdpa", "flash_attn"] = "auto"
    """Kernel behind longspan's attention; `auto` takes flash-attn when it is installed and the device is a GPU."""
    attention_pattern: ShiftedGroups | None = None
    """Cheaper attention while training; left out: whole."""
    gradient_checkpointing: bool = True
    drop_sliding_window: bool = False
    """Turn a sliding attention window off; a model that has one is refused otherwise."""
    trust_remote_code: bool = False
    lora: Lora | None = None
    """Left out: all weights are trained."""

    @model_validator(mode="after")
    def _quantised_weights_are_in_files(self) -> "Model":
        if self.weights == "random" and self.lora is not None and self.lora.quantize is not None:
            raise ValueError(
                "'lora.quantize' needs weights: pretrained; the export reads the weights before quantisation again"
            )
        return self


Factor = Annotated[float, Field(ge=1, allow_inf_nan=False), NUMBER]


class Rope(Section):
    type: Literal[
        "keep", "theta", "ntk", "dynamic_ntk", "critical_ntk", "linear", "yarn", "llama3", "longrope", "e2llm"
    ] = "keep"
    """`keep` the model's; `theta` sets the base and keeps a scaling that the model has; `ntk`, `dynamic_ntk`,
    `critical_ntk` (2310.05209: the least base that keeps the critical dimension's trained range) compute the base for
    `data.target_length`; `e2llm` trains with the model's own and exports the inference scale for `data.target_length`;
    others scale.
    """
    theta: PositiveFloat | None = None
    """rope_theta: required by `theta`; the others start from it when given, else from the model's own."""
    drop_scaling: bool = False
    """Start from plain RoPE at the model's base: a scaling of the model's own is dropped, which nothing else does."""
    factor: Factor | None = None
    """Scaling factor; target_length / original_max_position_embeddings when left out, rounded up for `e2llm`."""
    original_max_position_embeddings: PositiveInt | None = None
    """The model's window before extension; its max_position_embeddings when left out."""
    beta_fast: PositiveFloat | None = None
    beta_slow: PositiveFloat | None = None
    low_freq_factor: PositiveFloat | None = None
    high_freq_factor: PositiveFloat | None = None
    attention_factor: PositiveFloat | None = None
    """`yarn`, `longrope`: what cos and sin are multiplied by; the type's own formula when left out."""
    long_factor: tuple[Factor, ...] | None = None
    """`longrope`: what each frequency is divided by, one number a pair of rotated dimensions, as a search found them;
    by the critical dimension when left out.
    """
    short_factor: tuple[Factor, ...] | None = None
    """`longrope`: the same for sequences within the original window; all 1 when left out."""
    critical_dimension: PositiveInt | None = None
    """`longrope` without `long_factor`: first pair of dimensions that is interpolated by the whole factor; that of the
    theory (2310.05209) when left out, and LongRoPE2 found lower ones.
    """
    mixed_window: bool = False
    """LongRoPE2's training (2502.20082): documents within the original window keep the original RoPE, longer ones get
    the new one; exported as a `longrope` that makes the same choice.
    """

    @model_validator(mode="after")
    def _fields_fit_the_type(self) -> "Rope":
        if self.type == "theta" and self.theta is None:
            raise ValueError("type 'theta' needs 'theta', the new rope_theta (for example 500000.0)")
        scaled = {"ntk", "dynamic_ntk", "linear", "yarn", "llama3", "longrope"}
        for names, types in (
            (("beta_fast", "beta_slow"), {"yarn"}),
            (("low_freq_factor", "high_freq_factor"), {"llama3"}),
            (("factor",), scaled | {"e2llm"}),
            (("attention_factor",), {"yarn", "longrope"}),
            (("short_factor", "long_factor", "critical_dimension"), {"longrope"}),
        ):
            for name in names:
                if getattr(self, name) is not None and self.type not in types:
                    raise ValueError(f"'{name}' has no meaning for type '{self.type}'; it belongs to {sorted(types)}")
        for name in ("theta", "drop_scaling"):
            if self.type == "e2llm" and getattr(self, name):
                raise ValueError(f"'{name}' has no meaning for type 'e2llm', which trains with the model's frequencies")
        if self.long_factor is not None and self.critical_dimension is not None:
            raise ValueError("'critical_dimension' has no meaning beside 'long_factor'; remove one of them")
        if self.mixed_window and self.type == "e2llm":
            raise ValueError("'mixed_window' has no meaning for type 'e2llm', which scales positions; remove one")
        if self.mixed_window and self.short_factor is not None:
            raise ValueError(
                "'short_factor' has no meaning beside 'mixed_window', where short documents keep the original RoPE"
            )
        return self
