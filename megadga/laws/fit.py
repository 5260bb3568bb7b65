"""From runs to a law's file: which losses, which law, and how far it can be trusted."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Literal, final

from megadga.errors import ConfigError
from megadga.laws.assessing import Fit, Law, cross_validate, resample
from megadga.laws.exponential import DELTA, ExponentialLaw, fit_exponential
from megadga.laws.extrapolating import extrapolate_sizes, extrapolate_steps, parameters_of
from megadga.laws.file import LawFile, describe_law
from megadga.laws.observations import (
    Observations,
    RunLosses,
    common_tokens,
    observe,
    read_losses,
)
from megadga.laws.power import PowerLaw, fit_power
from megadga.laws.regression import fit_boosted, fit_linear
from megadga.report.runs import RunHistory

Kind = Literal["power", "exponential", "linear", "lightgbm"]
KINDS: tuple[Kind, ...] = ("power", "exponential", "linear", "lightgbm")


@final
@dataclass(frozen=True)
class LawRequest:
    """What is to be fitted.

    Attributes:
        kind: The law.
        tokens: Of training, after which losses are; None: the most that all runs have.
        parameters: Of the model, without its embedding; None: the runs' own.
        delta: Huber's, of the exponential law and the power law, in nats, above 0.
        starts: Of each fit of these, at least 1.
        folds: Of mixtures that are held out in turn, at least 2; 0: none are.
        replicates: Laws of resampled runs; of LightGBM, whose files would be large, none are made.
        seed: Of starts, folds and resampling.
    """

    kind: Kind = "power"
    tokens: int | None = None
    parameters: int | None = None
    delta: float = DELTA
    starts: int = 16
    folds: int = 8
    replicates: int = 50
    seed: int = 0


def fit_law(runs: Sequence[RunHistory], request: LawRequest) -> LawFile:
    """Fit a law to runs.

    Args:
        runs: At fixed mixtures, of the same domains and sets.
        request: What is to be fitted.

    Raises:
        ConfigError: If the runs do not make a law of this kind.
    """
    losses = read_losses(runs)
    observed_tokens = min(int(each.tokens[-1]) for each in losses)
    tokens = common_tokens(losses) if request.tokens is None else request.tokens
    if request.parameters is None:
        observations = _after(losses, tokens)
    else:
        observations = _of_size(runs, losses, tokens, request.parameters)
    mixtures = int(observations.mixtures().max()) + 1
    if mixtures < 2 or request.folds == 1:
        what = (
            "runs: expected at least 2 mixtures"
            if mixtures < 2
            else "folds: expected 0 or more than 1"
        )
        raise ConfigError(f"{what}, found 1")
    fit = _fit(request)
    law = fit(observations.weights, observations.losses)
    again = _again(law, request) or fit
    return describe_law(
        observations,
        law,
        resample(
            observations,
            again,
            replicates=0 if request.kind == "lightgbm" else request.replicates,
            seed=request.seed,
        ),
        cross_validate(observations, fit, folds=request.folds, seed=request.seed)
        if request.folds
        else (),
        tokens=tokens,
        observed_tokens=min(observed_tokens, tokens),
        parameters=request.parameters,
        folds=min(request.folds, mixtures),
    )


def _after(runs: Sequence[RunLosses], tokens: int) -> Observations:
    """Return the losses after so many tokens: observed, or from laws of steps beyond all runs."""
    if all((run.tokens == tokens).any() for run in runs):
        return observe(runs, tokens)
    longest = max(int(run.tokens[-1]) for run in runs)
    if tokens <= longest:
        raise ConfigError(
            f"tokens: expected a number that all runs were evaluated after, or more than the "
            f"{longest:,} that the longest was trained on, found {tokens:,}"
        )
    return extrapolate_steps(runs, tokens)


def _of_size(
    runs: Sequence[RunHistory], losses: Sequence[RunLosses], tokens: int, parameters: int
) -> Observations:
    by_size: dict[int, list[RunLosses]] = {}
    for run, each in zip(runs, losses, strict=True):
        by_size.setdefault(parameters_of(run), []).append(each)
    return extrapolate_sizes(
        {size: _after(of_size, tokens) for size, of_size in by_size.items()}, parameters
    )


def _fit(request: LawRequest) -> Fit:
    match request.kind:
        case "exponential":
            return partial(
                fit_exponential, delta=request.delta, starts=request.starts, seed=request.seed
            )
        case "power":
            return partial(
                fit_power, delta=request.delta, starts=request.starts, seed=request.seed
            )
        case "linear":
            return fit_linear
        case "lightgbm":
            return partial(fit_boosted, seed=request.seed)


def _again(law: Law, request: LawRequest) -> Fit | None:
    """Return the fit to resampled runs that starts from the law of all of them, if it has one."""
    match law:
        case ExponentialLaw():
            return partial(fit_exponential, delta=request.delta, near=law)
        case PowerLaw():
            return partial(fit_power, delta=request.delta, near=law)
        case _:
            return None
