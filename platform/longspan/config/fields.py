"""What the sections of every configuration are made of: numbers that are numbers, places that can be, and a strict,
frozen section.
"""

from typing import Annotated, Any

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field

from longspan.uri import check_uri


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
Place = Annotated[str, AfterValidator(check_uri)]
"""A local path, relative to the directory that the command is started in, or s3://bucket/key."""


class Section(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True, strict=False)
