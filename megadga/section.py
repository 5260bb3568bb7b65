"""Sections of a run's configuration (pydantic): base class, number types, what is wrong in one."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, field_validator
from pydantic_core import PydanticCustomError

_MAX_NAME_BYTES = 255
_MAX_PATH_BYTES = 4095


class Section(BaseModel):
    """A frozen section of the configuration; field docstrings have meaning, unit and range."""

    model_config = ConfigDict(
        frozen=True,
        extra="forbid",
        allow_inf_nan=False,
        use_attribute_docstrings=True,
        validate_default=True,
    )

    @field_validator("*", mode="after")
    @classmethod
    def _check_path_length(cls, value: Any) -> Any:
        """Reject paths that are too long for a file system."""
        if isinstance(value, Path):
            longest = max((len(part.encode()) for part in value.parts), default=0)
            total = len(str(value).encode())
            if longest > _MAX_NAME_BYTES or total > _MAX_PATH_BYTES:
                raise PydanticCustomError(
                    "long_path",
                    "Input should be a path of at most {name} bytes per name and {all} in all",
                    {
                        "name": _MAX_NAME_BYTES,
                        "all": _MAX_PATH_BYTES,
                        "found": f"{longest} and {total}",
                    },
                )
        return value


# Strict: a quoted number, or 8.0 for a count, is an error and not converted. Upper bound: int64.
PositiveInt = Annotated[int, Field(strict=True, ge=1, lt=2**63)]
NonNegativeInt = Annotated[int, Field(strict=True, ge=0, lt=2**63)]
StrictBool = Annotated[bool, Field(strict=True)]
PositiveFloat = Annotated[float, Field(strict=True, gt=0.0)]
NonNegativeFloat = Annotated[float, Field(strict=True, ge=0.0)]
Fraction = Annotated[float, Field(strict=True, ge=0.0, le=1.0)]
PositiveFraction = Annotated[float, Field(strict=True, gt=0.0, le=1.0)]
KeyPath = tuple[str | int, ...]


@dataclass(frozen=True)
class ConfigIssue:
    """One problem in a configuration.

    Args:
        path: The key, from the root.
        expected: Description of valid values.
        found: The value found.
        hint: Suggested value or key; empty if there is none.
    """

    path: KeyPath
    expected: str
    found: str
    hint: str = ""


def dotted(path: KeyPath) -> str:
    """Return the path in dotted notation: ``mixing.step_size``."""
    return ".".join(map(str, path))


def format_value(value: Any) -> str:
    """Format a value for a message, in YAML notation and truncated."""
    text = repr(value) if isinstance(value, str) else json.dumps(value, default=str)
    return text if len(text) <= 60 else f"{text[:57]}..."
