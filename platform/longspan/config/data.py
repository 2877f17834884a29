"""The sections of a recipe about its samples: mix, upsampling, packing, selection, and positions."""

from typing import Annotated, Any, Literal

from pydantic import Field, model_validator

from longspan.config.attention_window import AttentionWindow
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
from longspan.config.weighting import LossWeighting


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
    """Share of the trained tokens that each source gets; normalised to 1. Padding counts for nothing."""
    short: ShortMix | None = None
    """A share of the tokens set aside for short documents, with a mix of its own."""
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


class Selection(Section):
    """LongRecipe trains on the sentences of a long sample that profit from its length (2409.00509), PoSE on chunks."""

    mode: Literal["prefix", "uniform", "weighted", "chunks"]
    """What is kept of a long sample: its first tokens (`prefix`), sentences at random (`uniform`), those with the
    highest scores (`weighted`), or the `chunks` that `positions.text_offset` takes, the same share of every document.
    """
    from_length: Annotated[int, Field(ge=2), NUMBER]
    """Tokens of the long sample that the plan draws; `data.sample_length` of them are kept and trained on."""
    scores: Place | None = None
    """Analysis of the corpus (local or s3://) that `longspan impact` wrote; `weighted` needs it."""
    score_by: Literal["token", "type"] | None = None
    """`weighted`: by the score of each `token` itself (the default), or by the mean of its `type`, the vocabulary item,
    as LongRecipe's impactful token types: then an analysis of some text serves, of this corpus or of another with the
    same tokenizer.
    """
    statistic: Literal["mean", "sum", "mean_abs"] | None = None
    """`weighted`: of the positive scores of a sentence's tokens, or (`mean_abs`) of how large all of them are, help or
    harm; mean when left out.
    """
    temperature: NonNegativeFloat | None = None
    """`weighted`: 0 (the default) takes the highest, 1 draws in proportion to the scores."""

    @model_validator(mode="after")
    def _fields_fit_the_mode(self) -> "Selection":
        for name in ("scores", "score_by", "statistic", "temperature"):
            if getattr(self, name) is not None and self.mode != "weighted":
                raise ValueError(f"'{name}' has no meaning for mode '{self.mode}'; it belongs to ['weighted']")
        if self.mode == "weighted" and self.scores is None:
            raise ValueError("mode 'weighted' needs 'scores', the folder that `longspan impact` wrote")
        return self


class Interleave(Section):
    """Chunks of a sample's documents mixed, so that what belongs together lies far apart (CIP, 2406.00605).

    Drawn anew for every sample, whatever its source. Without `data.document_mask` (the paper's way, and the default
    here) the tokens are put in that order; with it they stay, and each gets the position that it would have there.
    """

    method: Literal["cip", "utk"] = "cip"
    """`cip`: the first chunks of all documents, then all second ones, and so on; `utk`: chunks in random order, those
    of one document in theirs (2409.04774, without its marks).
    """
    chunks: PositiveInt | tuple[PositiveInt, PositiveInt] | None = None
    """Chunks of each document, or the least and most of which each draws its own; by default 2, with `utk` [1, 3]."""
    cut: Literal["random", "equal"] = "random"
    """Where a document is cut."""

    @model_validator(mode="after")
    def _bounds(self) -> "Interleave":
        if isinstance(self.chunks, tuple) and self.chunks[0] > self.chunks[1]:
            raise ValueError(f"'chunks' is {list(self.chunks)}; the least comes first")
        return self


class Data(Section):
    manifest: Place
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
    """Attention stays inside a document. Off: a sample is one document (UltraLong, CIP); so it is with `interleave`
    when this is left out.
    """
    attention_window: AttentionWindow | None = None
    """Attention begins within short blocks, which widen with the steps; left out: whole from the start."""
    selection: Selection | None = None
    """Train on chosen sentences of longer samples; left out: on samples as the plan draws them."""
    interleave: Interleave | None = None
    """Mix chunks of the documents of each sample; left out: documents follow one another."""
    loss_weighting: LossWeighting | None = None
    """How much each target counts, beside the corpus's own weights: `longce` by its long prefix, divided by the number
    of targets; `sequence` so that every document counts alike. Left out: every target alike.
    """

    @property
    def plan_length(self) -> int:
        """Tokens of a sample as the plan draws it; `sample_length` of them are trained on."""
        return self.selection.from_length if self.selection else self.sample_length

    @model_validator(mode="before")
    @classmethod
    def _interleaved_samples_are_one_document(cls, values: Any) -> Any:
        """The papers' way, as a default: a mask that is asked for stays."""
        if isinstance(values, dict) and values.get("interleave") is not None:
            return {"document_mask": False, **values}
        return values

    @model_validator(mode="after")
    def _lengths_and_phases(self) -> "Data":
        if self.plan_length < self.sample_length:
            raise ValueError(
                f"'selection.from_length' {self.plan_length} is below 'sample_length' {self.sample_length};"
                " a sample is chosen from at least as many tokens"
            )
        if self.sample_length > self.target_length:
            raise ValueError(
                f"'sample_length' {self.sample_length} is above 'target_length' {self.target_length};"
                " positions must fit in the target window"
            )
        if self.interleave and self.selection:
            raise ValueError("'interleave' mixes whole documents, 'selection' leaves text out of them; take one out")
        if self.attention_window:
            self.attention_window.check_length(self.sample_length)
        steps = [phase.from_step for phase in self.mix]
        if not steps or steps[0] != 0 or sorted(set(steps)) != steps:
            raise ValueError(f"'mix' phases need from_step rising from 0, not {steps}")
        return self


class Positions(Section):
    type: Literal["contiguous", "longrecipe", "pose", "randpos", "cream", "e2llm"] = "longrecipe"
    """Which position each token gets; `contiguous` is ordinary training."""
    variant: Literal["composition", "bounded"] | None = None
    """LongRecipe's gaps: `composition` (the default) shares the unused positions out uniformly; `bounded` draws each
    gap alike (its Eq. 6).
    """
    segments: Literal["sentence", "paragraph"] | None = None
    """LongRecipe: gaps open between sentences (the default) or between paragraphs, which end with their line."""
    min_segments: PositiveInt | None = None
    """LongRecipe: a document with fewer segments than this (7) gets random cuts beside them."""
    num_chunks: Annotated[int, Field(ge=1, le=4096), NUMBER] | None = None
    """PoSE: chunks a document; 2 when left out."""
    last_chunk: Literal["random", "suffix"] | None = None
    """PoSE: the last chunk after a `random` skip, as in the paper (the default), or at the window's end, `suffix`."""
    text_offset: Literal["none", "same", "uniform"] | None = None
    """PoSE: the text of a chunk follows on that of the one before (`none`, the default), or is taken from a longer
    sample (`data.selection.mode: chunks`): where it is positioned (`same`), or anywhere after (`uniform`).
    """
    sigma: PositiveFloat | None = None
    """CREAM: standard deviation of the middle's place, in half documents; 3 when left out."""
    window: PositiveInt | None = None
    """E2-LLM, which needs it: the model's own window in tokens. Scales go up to data.target_length / window."""
    num_sinks: PositiveInt | None = None
    """E2-LLM: first tokens of a document that get no offset; 4 when left out."""

    @model_validator(mode="after")
    def _fields_fit_the_type(self) -> "Positions":
        for name, owner in (
            ("variant", "longrecipe"),
            ("segments", "longrecipe"),
            ("min_segments", "longrecipe"),
            ("num_chunks", "pose"),
            ("last_chunk", "pose"),
            ("text_offset", "pose"),
            ("sigma", "cream"),
            ("window", "e2llm"),
            ("num_sinks", "e2llm"),
        ):
            if getattr(self, name) is not None and self.type != owner:
                raise ValueError(f"'{name}' has no meaning for type '{self.type}'; it belongs to ['{owner}']")
        if self.type == "e2llm" and self.window is None:
            raise ValueError("type 'e2llm' needs 'window', the model's own window in tokens (for example 4096)")
        return self
