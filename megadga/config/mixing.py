"""The ways to mix domains, one section a `type`. Knows no domain: names meet the data later."""

from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field

from megadga.config.base import (
    Count,
    NonNegative,
    PositiveShare,
    Section,
    Share,
    Whole,
)
from megadga.config.fixed import ProportionalMixing, UniformMixing
from megadga.config.grape import GrapeMixing
from megadga.config.guards import GeneralGuardSection
from megadga.config.probes import DirectionalProbe, Probe
from megadga.config.rules import DogeMixing, DoremiMixing, OdmMixing, ScheduleMixing
from megadga.config.steps import StepSize
from megadga.config.weights import TemperatureWeights, UnimaxWeights, Weights


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
    basis: Path | None = None
    """File of basis distributions over the domains (tools/histogram.py), relative to this file:
    the rule (initial, prior, floor too) weights these in the domains' place, and probes draw from
    them; null: it weights the domains."""
    initial: Weights = "uniform"
    """Weights at step 0: uniform, proportional (to tokens), {type: temperature, temperature: T},
    {type: unimax, max_epochs: N}, or {domain: weight} for every domain. With a basis: uniform, or
    {name: weight} for every distribution in it."""
    floor: Share = 0.0
    """Least weight of a domain, in [0, 1 / domains]; 0: the paper."""
    prior: Weights | None = None
    """Mixture that updates are pulled towards, written as `initial`; null: `initial`."""
    prior_pull: Share = 0.0
    """Share of the prior in every update (geometric), in [0, 1]; 0: the paper."""
    combine: Literal["sum", "worst"] = "sum"
    """What several specific sets come to; sum: their scores, by importance; worst: in each update
    those of the set whose loss falls least, as a share of itself (max-min). One is as it is."""
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
    general_guard: GeneralGuardSection | None = None
    """{max_rise, pull}: a stronger pull to the prior while the mean validation loss over the
    domains is more than max_rise above its best; null: none, as in the paper."""
    probe: Probe = DirectionalProbe()
    """How alignments are measured and on how many sequences: type directional, in_flight or
    sharded."""


class StaticMixing(Section):
    """Weights that stay as they are."""

    type: Literal["static"]
    """How the domains' weights are set."""
    weights: Weights
    """uniform, proportional (to tokens), {type: temperature, temperature: T},
    {type: unimax, max_epochs: N}, or {domain: weight} for every domain."""


class ImportanceMixing(Section):
    """Importance sampling: the weights are the specific set's histogram over the domains."""

    type: Literal["importance"]
    """How the domains' weights are set."""
    histogram: Path
    """JSON file {domain: count or share}, relative to this file."""


Mixing = Annotated[
    DgaMixing
    | StaticMixing
    | ImportanceMixing
    | ScheduleMixing
    | OdmMixing
    | GrapeMixing
    | DogeMixing
    | DoremiMixing
    | UniformMixing
    | ProportionalMixing
    | TemperatureWeights
    | UnimaxWeights,
    Field(discriminator="type"),
]


def aligns_to_specific(mixing: Mixing) -> bool:
    """Tell whether a run's rule compares domains with the specific sets."""
    match mixing:
        case DgaMixing() | GrapeMixing():
            return True
        case DogeMixing():
            return mixing.target == "specific"
        case _:
            return False
