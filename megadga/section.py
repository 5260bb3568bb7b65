"""Sections of a run's configuration (pydantic): base class, number types, what is wrong in one."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, field_validator
from pydantic_core import PydanticCustomError

_MOST_BYTES_OF_A_NAME = 255


_MOST_BYTES_OF_A_PATH = 4095


class Section(BaseModel):
    """A frozen mapping of known keys; each field's docstring says its meaning, unit and range."""

    model_config = ConfigDict(
        frozen=True,
        extra="forbid",
        allow_inf_nan=False,
        use_attribute_docstrings=True,
        validate_default=True,
    )

    @field_validator("*", mode="after")
    @classmethod
    def _can_be_a_path(cls, value: Any) -> Any:
        """Refuse a path that no file system has: asking for it would be an error of its own."""
        if isinstance(value, Path):
            longest = max((len(part.encode()) for part in value.parts), default=0)
            total = len(str(value).encode())
            if longest > _MOST_BYTES_OF_A_NAME or total > _MOST_BYTES_OF_A_PATH:
                raise PydanticCustomError(
                    "long_path",
                    "Input should be a path of at most {name} bytes a name and {all} in all",
                    {
                        "name": _MOST_BYTES_OF_A_NAME,
                        "all": _MOST_BYTES_OF_A_PATH,
                        "found": f"{longest} and {total}",
                    },
                )
        return value


# Strict: a quoted number, or 8.0 for a count, is a mistake to report and not a value to convert.
# Numpy counts in 64 bits.
Count = Annotated[int, Field(strict=True, ge=1, lt=2**63)]


Whole = Annotated[int, Field(strict=True, ge=0, lt=2**63)]


Flag = Annotated[bool, Field(strict=True)]


Positive = Annotated[float, Field(strict=True, gt=0.0)]


NonNegative = Annotated[float, Field(strict=True, ge=0.0)]


Share = Annotated[float, Field(strict=True, ge=0.0, le=1.0)]


PositiveShare = Annotated[float, Field(strict=True, gt=0.0, le=1.0)]


KeyPath = tuple[str | int, ...]


@dataclass(frozen=True)
class ConfigIssue:
    """One thing that is wrong.

    Args:
        path: The key, from the root.
        expected: What belongs there.
        found: What is there.
        hint: What the author may have meant; empty: no idea.
    """

    path: KeyPath
    expected: str
    found: str
    hint: str = ""


def dotted(path: KeyPath) -> str:
    """Return the path as it is written in messages and overrides: ``mixing.step_size``."""
    return ".".join(map(str, path))


def format_value(value: Any) -> str:
    """Return a value as a message shows it: as YAML would have it, cut where it gets long."""
    text = repr(value) if isinstance(value, str) else json.dumps(value, default=str)
    return text if len(text) <= 60 else f"{text[:57]}..."
