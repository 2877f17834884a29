"""What a score is: the models, the prefixes that they see, the documents. `run` takes it, the manifest keeps it.

A score is what a long prefix adds: the log-probability of the token under the long-context model, less that under the
base. Two models with the same prefix are LongRecipe's analysis (2409.00509, Eq. 3), one model with a long and a short
prefix is LongCE's (2410.23771, LSD); a base model kept to its own short window is both.
"""

import hashlib
import json
from dataclasses import asdict, dataclass
from typing import Any, ClassVar, Literal, get_args

from pydantic import ConfigDict

from longspan.errors import ConfigError

Measure = Literal["logprob", "logit"]
Dtype = Literal["float32", "bfloat16"]
UntrainedRope = Literal["ntk", "dynamic_ntk", "linear", "yarn"]


@dataclass(frozen=True)
class ScoreSettings:
    """What decides the scores of a corpus.

    Attributes:
        model: the long-context model, a Hugging Face directory (local or s3://) or hub name.
        base: the model it is compared with; None is `model` itself.
        rope: kind of RoPE that is put over `model`, untrained, so that it reaches `window`: a base and its own weights
            with YaRN can be compared before any longer model exists. None keeps the model's.
        window: tokens of the longest prefix. A longer document is read in windows that overlap by half, so that every
            later token has at least `window` / 2 tokens before it.
        short_prefix: tokens that the base sees before a token (up to `stride` - 1 more, since neighbours share a
            forward pass); None gives it the prefix that `model` has. A token that has no more before it scores 0 if
            `base` is None.
        stride: tokens scored by one forward pass over `short_prefix` + `stride` tokens.
        measure: difference of `logprob`s, which two models have on one scale, or of raw `logit`s as LongRecipe writes.
        sources: names of the corpus's sources to score; None is all.
        documents: only the first so many of each source; None is all.
        part_tokens: tokens of one result file, which is also one task; a longer document has a file of its own.
        dtype: type of the models' weights, `float32` or `bfloat16`; scores are computed in float32.
        drop_sliding_window: attend to everything although a model has a sliding window; else it is refused.

    Raises:
        ConfigError: values that do not fit together; the message names the field.
    """

    __pydantic_config__: ClassVar[ConfigDict] = ConfigDict(extra="forbid")
    model: str
    window: int
    base: str | None = None
    short_prefix: int | None = None
    stride: int = 1024
    measure: Measure = "logprob"
    sources: tuple[str, ...] | None = None
    documents: int | None = None
    part_tokens: int = 1 << 20
    dtype: Dtype = "bfloat16"
    drop_sliding_window: bool = False
    rope: UntrainedRope | None = None

    def __post_init__(self) -> None:
        for name, least in (("window", 2), ("short_prefix", 1), ("stride", 1), ("documents", 1), ("part_tokens", 1)):
            value = getattr(self, name)
            if value is not None and value < least:
                raise ConfigError(f"impact.{name}: {value}; must be at least {least}")
        for name, choices in (("measure", get_args(Measure)), ("dtype", get_args(Dtype))):
            if getattr(self, name) not in choices:
                raise ConfigError(f"impact.{name}: '{getattr(self, name)}'; must be one of {', '.join(choices)}")
        if self.rope is not None and self.rope not in get_args(UntrainedRope):
            raise ConfigError(f"impact.rope: '{self.rope}'; must be one of {', '.join(get_args(UntrainedRope))}")
        if self.base is None and self.short_prefix is None:
            raise ConfigError(
                "impact: one model with one prefix tells no difference; give base, a model with a shorter context, or"
                " short_prefix, the tokens of the short prefix (LongCE takes 4096)"
            )
        if self.short_prefix is not None and self.short_width > self.window // 2:
            raise ConfigError(
                f"impact.short_prefix: {self.short_prefix} + stride {self.stride} is more than half of window"
                f" {self.window}, so the long prefix would not always be the longer one; lower short_prefix or stride"
            )

    @property
    def short_width(self) -> int:
        """Tokens of a window of the base where it has a short prefix."""
        return (self.short_prefix or 0) + self.stride

    @property
    def first_scored(self) -> int:
        """Place in a document of the first token whose score can be other than 0."""
        return self.short_width if self.base is None else 1


@dataclass(frozen=True)
class Machine:
    """How the work is done; decides no more than the last bits of a score.

    Attributes:
        device: `auto` takes the GPU if there is one.
        batch_tokens: tokens a forward pass of short windows; a longer window goes alone.
        threads: CPU threads a process; 0 leaves the choice to torch. Equal bytes need equal threads.
    """

    device: str = "auto"
    batch_tokens: int = 16384
    threads: int = 1


def score_fingerprint(settings: ScoreSettings, corpus: str, models: dict[str, str]) -> str:
    """Hash of what decides the scores; the models count by their content (`models.model_fingerprint`), not their path.

    Args:
        corpus: fingerprint of the corpus's manifest.
        models: fingerprint of `model`, and of `base` where there is one.
    """
    values: dict[str, Any] = {**asdict(settings), **models, "corpus": corpus}
    return hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()[:32]
