"""Mixtures that have a name and stay. Knows no domain."""

from typing import Literal

from megadga.config.base import Section


class UniformMixing(Section):
    """The same weight for every domain."""

    type: Literal["uniform"]
    """How the domains' weights are set."""


class ProportionalMixing(Section):
    """Weights proportional to the domains' tokens."""

    type: Literal["proportional"]
    """How the domains' weights are set."""
