"""The ways to mix domains, one section a `type`. Knows no domain: names meet the data later."""

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Literal, cast

from pydantic import AfterValidator, Discriminator, Field, Tag
from pydantic_core import PydanticCustomError

from megadga.config.base import (
    Count,
    NonNegative,
    Positive,
    PositiveShare,
    Section,
    Share,
    Whole,
)
from megadga.config.probes import DirectionalProbe, Probe
from megadga.config.steps import StepSize

ROUNDING = 1e-3
"""How far weights that a person wrote down may be from a sum of 1."""


class TemperatureWeights(Section):
    """Weights proportional to tokens ** (1 / temperature)."""

    type: Literal["temperature"]
    """Rule that makes the weights."""
    temperature: Positive
    """1: proportional to tokens; larger: flatter; above 0."""


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
    if isinstance(value, TemperatureWeights):
        return "<temperature>"
    if isinstance(value, Mapping):
        # A domain may be called "type"; its weight is a number, the rule's name is not.
        rule = cast("Mapping[str, object]", value).get("type")
        return "<temperature>" if isinstance(rule, str) else "<explicit>"
    return "<named>"


Weights = Annotated[
    Annotated[Literal["uniform", "proportional"], Tag("<named>")]
    | Annotated[TemperatureWeights, Tag("<temperature>")]
    | Annotated[dict[str, NonNegative], AfterValidator(_sums_to_one), Tag("<explicit>")],
    Discriminator(_weights_form),
]
"""uniform, proportional (to tokens), {type: temperature, temperature: T}, or {domain: weight} for
every domain, with a sum of 1."""


class DgaMixing(Section):
    """Dynamic Gradient Alignment (arXiv 2410.02498, Algorithm 1)."""

    type: Literal["dga"]
    """How the domains' weights are set."""
    interval: Count
    """Optimizer steps between updates of the weights (T_r), at least 1."""
    step_size: StepSize
    """Mirror-descent step (eta), above 0; its unit is one over the score's. {spread: s} chooses it
    for each update, so that the exponents differ by s in standard deviation."""
    ema: PositiveShare = 1.0
    """Share of the new weights in the average that batches are drawn from (beta), in (0, 1];
    1: no averaging."""
    score: Literal["raw", "cosine", "clipped", "adam"] = "raw"
    """What enters exp(): raw: inner products (the paper); cosine: of unit gradients; clipped: of
    gradients clipped to norm 1; adam: with the specific gradient divided by what AdamW divides
    by. cosine and clipped need every domain's gradient."""
    without_moments: Literal["refuse", "raw"] = "refuse"
    """What the score adam does before AdamW has second moments; refuse: an error; raw: as the
    score raw. Other scores do not read it."""
    initial: Weights = "uniform"
    """Weights at step 0: uniform, proportional (to tokens),
    {type: temperature, temperature: T}, or {domain: weight} for every domain."""
    floor: Share = 0.0
    """Least weight of a domain, in [0, 1 / domains]; 0: the paper."""
    prior: Weights | None = None
    """Mixture that updates are pulled towards, written as `initial`; null: `initial`."""
    prior_pull: Share = 0.0
    """Share of the prior in every update (geometric), in [0, 1]; 0: the paper."""
    min_signal: NonNegative = 0.0
    """Least ratio of the scores' true differences to their noise; an update below it is skipped.
    At least 0; 0: none is, as in the paper."""
    max_change: PositiveShare = 1.0
    """Largest share of a batch that an update may move to other domains (total variation), in
    (0, 1]; 1: no limit, as in the paper."""
    warmup: Whole = 0
    """Updates at the start that are measured and left out, at least 0."""
    freeze_after: Count | None = None
    """Updates after which the weights stay, above `warmup`, counting those that were left out;
    null: the weights never stop."""
    min_effective_domains: NonNegative = 0.0
    """Effective domains (exp of the entropy of the averaged weights) below which an event is
    logged when the weights fall there; at most those of the first mixture; 0: never."""
    probe: Probe = DirectionalProbe()
    """How alignments are measured and on how many sequences: type directional, in_flight or
    sharded."""


class StaticMixing(Section):
    """Weights that stay as they are."""

    type: Literal["static"]
    """How the domains' weights are set."""
    weights: Weights
    """uniform, proportional (to tokens), {type: temperature, temperature: T}, or
    {domain: weight} for every domain."""


class ImportanceMixing(Section):
    """Importance sampling: the weights are the specific set's histogram over the domains."""

    type: Literal["importance"]
    """How the domains' weights are set."""
    histogram: Path
    """JSON file {domain: count or share}, relative to the working directory."""


Mixing = Annotated[DgaMixing | StaticMixing | ImportanceMixing, Field(discriminator="type")]
