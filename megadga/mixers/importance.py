"""Importance sampling (arXiv 2410.02498, section 3.1): the specific set's histogram."""

import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Literal

import numpy as np
from pydantic import Field, TypeAdapter, ValidationError

from megadga.arrays import FloatArray
from megadga.data.files import atomic_write, parse_strictly
from megadga.errors import ConfigError
from megadga.mixers.rule import Rule, RuleContext, RuleOptions
from megadga.mixers.static import Static
from megadga.section import KeyPath, format_value

Mass = Annotated[float, Field(strict=True, ge=0.0, allow_inf_nan=False)]
_HISTOGRAM = TypeAdapter(dict[str, Mass])


def read_histogram(path: Path) -> dict[str, float]:
    """Return the mass of each name: counts or shares, as ``{"novels": 120, "recipes": 3}``.

    Raises:
        ConfigError: If the file is missing or invalid; one line.
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
    """Write the mass of each name atomically.

    Raises:
        ConfigError: If it cannot be written.
    """
    content = json.dumps(dict(masses), indent=2, allow_nan=False, ensure_ascii=False)
    try:
        with atomic_write(path) as file:
            file.write(content.encode() + b"\n")
    except OSError as error:
        raise ConfigError(f"{path}: expected to write it, found {error}") from error


class ImportanceOptions(RuleOptions):
    """Importance sampling: the weights are the specific set's histogram over the domains."""

    type: Literal["importance"]
    """How the domains' weights are set."""
    histogram: Path
    """JSON file {domain: count or share}, relative to this file."""

    def files(self) -> Mapping[KeyPath, Path]:
        """Return the file of the histogram."""
        return {("histogram",): self.histogram}

    def digests(self) -> Mapping[str, str]:
        """Return the histogram's digest: equal for equal masses.

        Raises:
            ConfigError: If the file is no histogram.
        """
        masses = json.dumps(read_histogram(self.histogram), sort_keys=True)
        return {"histogram": hashlib.sha256(masses.encode()).hexdigest()[:16]}


_NAMES_SHOWN = 5


def importance_weights(histogram: Mapping[str, float], names: Sequence[str]) -> FloatArray:
    """Return the share of specific documents that fall into each domain (the paper's baseline).

    Args:
        histogram: Documents, or any non-negative mass, by domain name. Every domain must be named,
            with 0 where nothing falls into it, and nothing else.
        names: The domains in the order of the result, ``K`` of them.

    Returns:
        Weights that sum to 1, shape ``(K,)``.

    Raises:
        ValueError: If domains are unknown or missing, or the numbers are no histogram.
    """
    unknown = sorted(histogram.keys() - set(names))
    missing = sorted(set(names) - histogram.keys())
    if unknown or missing:
        raise ValueError(
            f"histogram: expected exactly the {len(names)} domains, found "
            f"{_listed(unknown)} unknown and {_listed(missing)} missing"
        )
    masses = np.array([histogram[name] for name in names], dtype=np.float64)
    if (wrong := ~(np.isfinite(masses) & (masses >= 0.0))).any():
        index = int(np.argmax(wrong))
        raise ValueError(
            f"histogram: {names[index]}: expected a finite number >= 0, found {masses[index]}"
        )
    if not (masses > 0.0).any():
        raise ValueError("histogram: expected a mass > 0 in some domain, found only 0")
    relative = masses / masses.max()
    return relative / relative.sum()


def _listed(names: Sequence[str]) -> str:
    shown = ", ".join(names[:_NAMES_SHOWN]) or "none"
    return shown if len(names) <= _NAMES_SHOWN else f"{shown} ... ({len(names)} in all)"


def make_importance(options: ImportanceOptions, context: RuleContext) -> Static:
    """Return the mixture that gives each domain its share of the histogram.

    What the histogram has in domains that are too short goes to the others, in proportion.

    Raises:
        ConfigError: If the file is no histogram over exactly the domains.
    """
    histogram = read_histogram(options.histogram)
    kept = {name: mass for name, mass in histogram.items() if name not in context.excluded}
    try:
        weights = importance_weights(kept, context.domains)
    except ValueError as error:
        raise ConfigError(f"{options.histogram}: {error}") from None
    lost = sum(histogram[name] for name in histogram.keys() & context.excluded)
    return Static(weights, lost_mass=lost / (lost + sum(kept.values())))


RULES = (Rule(ImportanceOptions, make_importance),)
