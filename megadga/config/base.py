"""What every section of a configuration is made of. Knows no section in particular."""

from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field


class Section(BaseModel):
    """A frozen mapping of known keys; each field's docstring says its meaning, unit and range."""

    model_config = ConfigDict(
        frozen=True,
        extra="forbid",
        allow_inf_nan=False,
        use_attribute_docstrings=True,
        validate_default=True,
    )


# Strict: a quoted number, or 8.0 for a count, is a mistake to report and not a value to convert.
Count = Annotated[int, Field(strict=True, ge=1)]
Whole = Annotated[int, Field(strict=True, ge=0)]
Flag = Annotated[bool, Field(strict=True)]
Positive = Annotated[float, Field(strict=True, gt=0.0)]
NonNegative = Annotated[float, Field(strict=True, ge=0.0)]
Share = Annotated[float, Field(strict=True, ge=0.0, le=1.0)]
PositiveShare = Annotated[float, Field(strict=True, gt=0.0, le=1.0)]
