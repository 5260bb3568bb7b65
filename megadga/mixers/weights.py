"""The ways to write a mixture in YAML: named, by rule, or one weight per domain."""

from collections.abc import Mapping
from typing import Annotated, Literal, cast

from pydantic import AfterValidator, Discriminator, Tag
from pydantic_core import PydanticCustomError

from megadga.section import Fraction, NonNegativeFloat, PositiveFloat, Section

ROUNDING = 1e-3
"""How far weights that a person wrote down may be from a sum of 1."""


class TemperatureWeights(Section):
    """Weights proportional to tokens ** (1 / temperature)."""

    type: Literal["temperature"]
    """Rule that makes the weights."""
    temperature: PositiveFloat
    """1: proportional to tokens; larger: flatter; above 0."""


class UnimaxWeights(Section):
    """The most even weights at which no domain is repeated too often (arXiv 2304.09151)."""

    type: Literal["unimax"]
    """Rule that makes the weights."""
    max_epochs: PositiveFloat
    """Passes over a domain that the whole run makes at most at these weights, above 0."""


class MatchedWeights(Section):
    """Weights at which the domains' token frequencies are closest to the specific sets'."""

    type: Literal["matched"]
    """Rule that makes the weights."""
    uniform_share: Fraction = 0.05
    """Share of uniform weights in them, in [0, 1]; 1: they are uniform."""


DERIVED = TemperatureWeights | UnimaxWeights | MatchedWeights
"""Weights that are derived from the domains, by a rule with a type."""


def _sums_to_one(weights: dict[str, float]) -> dict[str, float]:
    """Refuse weights with mass missing; the rest of the rounding is divided out at their use."""
    total = sum(weights.values())
    if abs(total - 1.0) > ROUNDING:
        raise PydanticCustomError(
            "weights_sum",
            "Input should be weights that sum to 1",
            {"found": f"a sum of {total:g}"},
        )
    return weights


def _weights_form(value: object) -> str:
    if isinstance(value, DERIVED):
        return value.type
    if isinstance(value, Mapping):
        # A domain may be called "type"; its weight is a number, the rule's name is not.
        rule = cast("Mapping[str, object]", value).get("type")
        return rule if isinstance(rule, str) else "<explicit>"
    return "<named>"


Weights = Annotated[
    Annotated[Literal["uniform", "proportional"], Tag("<named>")]
    | Annotated[TemperatureWeights, Tag("temperature")]
    | Annotated[UnimaxWeights, Tag("unimax")]
    | Annotated[MatchedWeights, Tag("matched")]
    | Annotated[dict[str, NonNegativeFloat], AfterValidator(_sums_to_one), Tag("<explicit>")],
    Discriminator(_weights_form),
]
"""uniform, proportional (to tokens), {type: temperature, temperature: T}, {type: unimax,
max_epochs: N}, {type: matched} (to the specific sets), or {domain: weight} for every domain, with
a sum of 1."""
