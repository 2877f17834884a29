"""The section of a recipe about an attention window that widens during the run; `config.data` holds it."""

from typing import Literal

from pydantic import model_validator

from longspan.config.fields import PositiveFloat, PositiveInt, Section


class AttentionWindow(Section):
    """Attention within blocks of w tokens, which grow with the steps (SkyLadder, 2503.15450): token i of a document (of
    a sample, without `document_mask`) sees those from the last multiple of w on. Positions and targets stay as they
    are.
    """

    start: PositiveInt = 32
    """Tokens of a block in the first step."""
    end: PositiveInt | None = None
    """Tokens of a block at last; `data.sample_length`, so that attention is whole, when left out."""
    rate: PositiveFloat
    """Tokens that a block grows by in an optimizer step: `end` is reached after (end - start) / rate steps. The paper's
    1/8 for samples of 8k takes 64 % of its 100,000 steps, so does 1/2 for 32k.
    """
    schedule: Literal["linear", "sinusoidal"] = "linear"
    """`sinusoidal` reaches `end` in the same step, faster at first and slower at last (a quarter of a sine)."""
    multiple: PositiveInt = 1
    """Grow in steps: from `start` on, blocks are multiples of this until `end` is reached."""

    @model_validator(mode="after")
    def _widens(self) -> "AttentionWindow":
        if self.end is None:
            return self
        if self.start >= self.end:
            raise ValueError(f"'start' {self.start} is not below 'end' {self.end}; the window has to widen")
        if self.multiple > self.end:
            raise ValueError(f"'multiple' {self.multiple} is above 'end' {self.end}; no block could be one")
        return self

    def check_length(self, sample_length: int) -> None:
        """Raises ValueError unless the window widens within samples of `sample_length` tokens."""
        if self.end is not None and self.end > sample_length:
            raise ValueError(
                f"'attention_window.end' {self.end} is above 'sample_length' {sample_length}; no block gets so long"
            )
        if self.end is None and max(self.start + 1, self.multiple) > sample_length:
            name, value = ("multiple", self.multiple) if self.multiple > self.start else ("start", self.start)
            raise ValueError(
                f"'attention_window.{name}' {value} leaves nothing to widen to in samples of {sample_length} tokens;"
                " lower it"
            )
