"""The section of a recipe about how much each target counts in the loss; `config.data` holds it."""

from typing import Annotated, Any, Literal

from pydantic import Discriminator, Field, Tag, model_validator

from longspan.config.fields import NUMBER, Place, Section


class LongCE(Section):
    """A token counts more in the loss, the more a long prefix tells about it (LongCE, 2410.23771)."""

    type: Literal["longce"] = "longce"
    scores: Place
    """Analysis of the corpus (local or s3://) that `longspan impact` wrote, of log-probabilities."""
    gamma: Annotated[float, Field(ge=1, allow_inf_nan=False), NUMBER] = 5.0
    """Largest weight of a token."""


class SequenceMean(Section):
    """Every sequence counts alike, however many targets it has (LongAlign, 2401.18058): the loss is the mean over the
    sequences of the global batch of the mean over the targets of each. A sequence is a document of a packed sample; one
    that is cut into two samples is two.
    """

    type: Literal["sequence"]

    @model_validator(mode="before")
    @classmethod
    def _fields_fit_the_type(cls, values: Any) -> Any:
        for name in LongCE.model_fields:
            if name != "type" and isinstance(values, dict) and name in values:
                raise ValueError(f"'{name}' has no meaning for type 'sequence'; it belongs to ['longce']")
        return values


def _kind(value: Any) -> Any:
    return value.get("type", "longce") if isinstance(value, dict) else getattr(value, "type", None)


LossWeighting = Annotated[
    Annotated[LongCE, Tag("longce")] | Annotated[SequenceMean, Tag("sequence")], Discriminator(_kind)
]
