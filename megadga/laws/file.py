"""A fitted law as a JSON file: the law, what it was fitted to, and how well it predicts."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, Self, cast

import numpy as np
from pydantic import Field, ValidationError, model_validator

from megadga.arrays import FloatArray
from megadga.config.validation import SourceMap, issues_from_validation, validation_error
from megadga.data.files import atomic_write, parse_strictly
from megadga.errors import ConfigError
from megadga.laws.assessing import HeldOutError, Law
from megadga.laws.exponential import ExponentialLaw
from megadga.laws.observations import Observations
from megadga.laws.power import PowerLaw
from megadga.laws.regression import BoostedLaw, LinearLaw
from megadga.section import (
    ConfigIssue,
    NonNegativeFloat,
    NonNegativeInt,
    PositiveFloat,
    PositiveFraction,
    PositiveInt,
    Section,
    format_value,
)

VERSION = 1
Numbers = tuple[float, ...]
Correlation = Annotated[float, Field(ge=-1.0, le=1.0)]


class ExponentialParameters(Section):
    """``L_i(r) = c_i + k_i exp(sum_j t_ij r_j)``, sets and domains in the file's order."""

    type: Literal["exponential"]
    """Kind of law."""
    c: tuple[PositiveFloat, ...]
    """Of each set, nats per token."""
    k: tuple[PositiveFloat, ...]
    """Likewise."""
    t: tuple[Numbers, ...]
    """Of each set, of each domain; those of a set sum to 0."""


class PowerParameters(Section):
    """``L_i(r) = c_i + 1 / sum_j b_ij r_j^g_i``, sets and domains in the file's order."""

    type: Literal["power"]
    """Kind of law."""
    c: tuple[PositiveFloat, ...]
    """Of each set, nats per token."""
    b: tuple[tuple[PositiveFloat, ...], ...]
    """Of each set, of each domain, one over nats per token."""
    g: tuple[PositiveFraction, ...]
    """Of each set, in (0, 1]."""


class LinearParameters(Section):
    """``L_i(r) = sum_j b_ij r_j``."""

    type: Literal["linear"]
    """Kind of law."""
    b: tuple[Numbers, ...]
    """Of each set, of each domain, nats per token."""


class BoostedParameters(Section):
    """Trees of LightGBM."""

    type: Literal["lightgbm"]
    """Kind of law."""
    models: tuple[str, ...]
    """Of each set, as LightGBM's text."""


Parameters = Annotated[
    ExponentialParameters | PowerParameters | LinearParameters | BoostedParameters,
    Field(discriminator="type"),
]


class ObservedRun(Section):
    """What a law was fitted to, of one run."""

    run: str
    """Its name."""
    weights: tuple[NonNegativeFloat, ...]
    """Of each domain."""
    losses: Numbers
    """Of each set, nats per token."""


class HeldOut(Section):
    """How held-out mixtures were predicted, over all folds."""

    set: str
    """Name of the set, or general."""
    mean_absolute_error: NonNegativeFloat
    """In nats."""
    constant_error: NonNegativeFloat
    """Likewise, of predicting the mean of the mixtures that were fitted."""
    rank_correlation: Correlation
    """Spearman's, of predicted and observed losses."""
    rank_interval: tuple[Correlation, Correlation] | None = None
    """From 5 to 95 % of it over mixtures drawn with replacement; null: not known."""
    noise: NonNegativeFloat | None = None
    """Standard deviation of the losses of runs of one mixture; null: each mixture has one run."""


class LawFile(Section):
    """A law, and all that is known of it."""

    version: PositiveInt
    """Of this format."""
    domains: Annotated[tuple[str, ...], Field(min_length=1)]
    """Names, in the order of weights."""
    sets: Annotated[tuple[str, ...], Field(min_length=1)]
    """What losses are of, ``specific=NAME`` and ``domain=NAME``, in the order of losses."""
    tokens: PositiveInt
    """Tokens of training that losses are after."""
    observed_tokens: PositiveInt
    """Tokens that the runs were trained on; fewer than `tokens` where laws of steps predict."""
    parameters: PositiveInt | None
    """Parameters, without the embedding, of the model that a law of sizes predicts; null: losses
    are those of the runs' own model."""
    law: Parameters
    """Fitted to all runs."""
    replicates: tuple[Parameters, ...]
    """Fitted to runs drawn with replacement: what intervals are over."""
    held_out: tuple[HeldOut, ...]
    """Errors on held-out mixtures, by cross-validation."""
    folds: NonNegativeInt
    """Of the cross-validation; 0: there was none."""
    runs: Annotated[tuple[ObservedRun, ...], Field(min_length=1)]
    """What the law was fitted to."""

    @model_validator(mode="after")
    def _check_sizes(self) -> Self:
        domains, sets = len(self.domains), len(self.sets)
        issues = [
            ConfigIssue(("runs", index), f"{domains} weights and {sets} losses", "others")
            for index, run in enumerate(self.runs)
            if (len(run.weights), len(run.losses)) != (domains, sets)
        ]
        laws = {
            ("law",): self.law,
            **{("replicates", i): r for i, r in enumerate(self.replicates)},
        }
        issues += [
            ConfigIssue(path, f"parameters of {sets} sets and {domains} domains", "others")
            for path, law in laws.items()
            if not _fits(law, sets, domains)
        ]
        if issues:
            raise validation_error(issues)
        return self

    @property
    def unknowns(self) -> int | None:
        """Unknowns of each set's law; None of trees, which have no fixed number of them."""
        domains = len(self.domains)
        match self.law:
            case ExponentialParameters():
                return domains + 1
            case PowerParameters():
                return domains + 2
            case LinearParameters():
                return domains
            case BoostedParameters():
                return None

    @property
    def mixtures(self) -> FloatArray:
        """Weights of the runs, shape ``(N, K)``."""
        return np.array([run.weights for run in self.runs])

    @property
    def losses(self) -> FloatArray:
        """Losses of the runs, shape ``(N, M)``."""
        return np.array([run.losses for run in self.runs])

    def fitted(self) -> Law:
        """Return the law."""
        return _law(self.law)

    def resampled(self) -> tuple[Law, ...]:
        """Return the laws of resampled runs; may be empty."""
        return tuple(map(_law, self.replicates))


def describe_law(
    observations: Observations,
    law: Law,
    replicates: Sequence[Law],
    held_out: Sequence[HeldOutError],
    *,
    tokens: int,
    observed_tokens: int,
    parameters: int | None,
    folds: int,
) -> LawFile:
    """Return the file of a law."""
    return LawFile(
        version=VERSION,
        domains=observations.domains,
        sets=observations.sets,
        tokens=tokens,
        observed_tokens=observed_tokens,
        parameters=parameters,
        law=_parameters(law),
        replicates=tuple(map(_parameters, replicates)),
        held_out=tuple(
            HeldOut(
                set=each.set,
                mean_absolute_error=each.mean_absolute_error,
                constant_error=each.constant_error,
                rank_correlation=each.rank_correlation,
                rank_interval=each.rank_interval,
                noise=each.noise,
            )
            for each in held_out
        ),
        folds=folds,
        runs=tuple(
            ObservedRun(run=run, weights=tuple(weights), losses=tuple(losses))
            for run, weights, losses in zip(
                observations.runs,
                observations.weights.tolist(),
                observations.losses.tolist(),
                strict=True,
            )
        ),
    )


def write_law(path: Path, law: LawFile) -> None:
    """Write a law.

    Raises:
        ConfigError: If the file cannot be written.
    """
    try:
        with atomic_write(path) as file:
            file.write(f"{json.dumps(law.model_dump(mode='json'), indent=1)}\n".encode())
    except OSError as error:
        raise ConfigError(
            f"{path}: expected a file that can be written, found {error.strerror}"
        ) from None


def read_law(path: Path) -> LawFile:
    """Read a law.

    Raises:
        ConfigError: If the file is missing, or not one of this version; a line for each key.
    """
    try:
        content: Any = parse_strictly(path.read_bytes())
    except (OSError, ValueError) as error:
        raise ConfigError(f"{path}: expected a law by `megadga law fit`, found {error}") from None
    version = cast("dict[str, Any]", content).get("version") if isinstance(content, dict) else None
    if version != VERSION:
        raise ConfigError(f"{path}: version: expected {VERSION}, found {format_value(version)}")
    try:
        return LawFile.model_validate(content)
    except ValidationError as error:
        issues = list(issues_from_validation(error, LawFile))
        raise SourceMap({(): str(path)}).error(issues) from None


def _fits(law: Parameters, sets: int, domains: int) -> bool:
    match law:
        case ExponentialParameters(c=c, k=k, t=t):
            return len(c) == len(k) == len(t) == sets and all(len(row) == domains for row in t)
        case PowerParameters(c=c, b=b, g=g):
            return len(c) == len(b) == len(g) == sets and all(len(row) == domains for row in b)
        case LinearParameters(b=b):
            return len(b) == sets and all(len(row) == domains for row in b)
        case BoostedParameters(models=models):
            return len(models) == sets


def _law(parameters: Parameters) -> Law:
    match parameters:
        case ExponentialParameters(c=c, k=k, t=t):
            return ExponentialLaw(np.array(c), np.array(k), np.array(t))
        case PowerParameters(c=c, b=b, g=g):
            return PowerLaw(np.array(c), np.array(b), np.array(g))
        case LinearParameters(b=b):
            return LinearLaw(np.array(b))
        case BoostedParameters(models=models):
            return BoostedLaw(models)


def _parameters(law: Law) -> Parameters:
    match law:
        case ExponentialLaw(floors=floors, scales=scales, slopes=slopes):
            return ExponentialParameters(
                type="exponential",
                c=tuple(floors.tolist()),
                k=tuple(scales.tolist()),
                t=tuple(map(tuple, slopes.tolist())),
            )
        case PowerLaw(floors=floors, gains=gains, exponents=exponents):
            return PowerParameters(
                type="power",
                c=tuple(floors.tolist()),
                b=tuple(map(tuple, gains.tolist())),
                g=tuple(exponents.tolist()),
            )
        case LinearLaw(coefficients=coefficients):
            return LinearParameters(type="linear", b=tuple(map(tuple, coefficients.tolist())))
        case BoostedLaw(models=models):
            return BoostedParameters(type="lightgbm", models=models)
