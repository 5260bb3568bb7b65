"""A histogram over domains in a JSON file."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated

from pydantic import Field, TypeAdapter, ValidationError

from megadga.data.files import atomic_write, parse_strictly
from megadga.errors import ConfigError
from megadga.section import format_value

Mass = Annotated[float, Field(strict=True, ge=0.0, allow_inf_nan=False)]
_HISTOGRAM = TypeAdapter(dict[str, Mass])


def read_histogram(path: Path) -> dict[str, float]:
    """Return the mass of each name: counts or shares, as ``{"novels": 120, "recipes": 3}``.

    Raises:
        ConfigError: If there is no such file, or something else is in it; one line.
    """
    try:
        return _HISTOGRAM.validate_python(parse_strictly(path.read_bytes()))
    except OSError as error:
        raise ConfigError(f"{path}: expected a histogram, found {error.strerror}") from None
    except ValidationError as error:
        detail = error.errors()[0]
        where = ": ".join(map(str, (path, *detail["loc"])))
        found = format_value(detail["input"])
        raise ConfigError(f"{where}: expected a count or share, found {found}") from None
    except ValueError as error:  # from JSON, or a name twice
        raise ConfigError(f"{path}: expected JSON with each name once, found {error}") from None


def write_histogram(path: Path, masses: Mapping[str, float]) -> None:
    """Write the mass of each name, whole or not at all.

    Raises:
        ConfigError: If it cannot be written.
    """
    content = json.dumps(dict(masses), indent=2, allow_nan=False, ensure_ascii=False)
    try:
        with atomic_write(path) as file:
            file.write(content.encode() + b"\n")
    except OSError as error:
        raise ConfigError(f"{path}: expected to write it, found {error}") from error
