"""How far an update moves: a number, or one chosen for each update. Knows no mixture."""

from collections.abc import Mapping
from typing import Annotated

from pydantic import Discriminator, Tag

from megadga.config.base import Positive, Section


class SpreadStep(Section):
    """A step size chosen for each update by how much its scores differ."""

    spread: Positive
    """Standard deviation of an update's exponents over the domains, above 0; at 0.1 a domain one
    standard deviation above the mean gains about 10 % on the average domain."""


def _step_form(value: object) -> str:
    return "<spread>" if isinstance(value, SpreadStep | Mapping) else "<fixed>"


StepSize = Annotated[
    Annotated[Positive, Tag("<fixed>")] | Annotated[SpreadStep, Tag("<spread>")],
    Discriminator(_step_form),
]
"""A number above 0, or {spread: s}."""
