"""What laws are fitted to: the weights, tokens and validation losses of runs at fixed mixtures."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import reduce
from typing import final

import numpy as np

from megadga.arrays import FloatArray, IntArray
from megadga.errors import ConfigError
from megadga.report.grouping import run_names
from megadga.report.runs import RunHistory

GENERAL = "general"
"""The mean over the domains' losses, as runs report it; computed from theirs."""
SPECIFIC, DOMAIN = "specific=", "domain="
"""What the name of a set begins with: of specific and additional sets, and of domains."""
_SAME_WEIGHT = 1e-9


@final
@dataclass(frozen=True, eq=False)
class RunLosses:
    """A run at a fixed mixture, and its validation losses over training.

    Attributes:
        name: Of its folder.
        domains: Names, ``K`` of them, in alphabetical order.
        weights: Of these, a distribution, shape ``(K,)``.
        sets: What was evaluated, ``M`` names: ``specific=NAME`` and ``domain=NAME``.
        tokens: Trained before each evaluation, ascending, shape ``(E,)``.
        losses: Nats per token, shape ``(E, M)``.
    """

    name: str
    domains: tuple[str, ...]
    weights: FloatArray
    sets: tuple[str, ...]
    tokens: IntArray
    losses: FloatArray


@final
@dataclass(frozen=True, eq=False)
class Observations:
    """Losses of runs after the same number of tokens: what a law of mixtures is fitted to.

    Attributes:
        runs: Names, ``N`` of them.
        domains: Names, ``K`` of them.
        sets: Names, ``M`` of them.
        weights: A distribution for each run, shape ``(N, K)``.
        losses: Nats per token, shape ``(N, M)``.
    """

    runs: tuple[str, ...]
    domains: tuple[str, ...]
    sets: tuple[str, ...]
    weights: FloatArray
    losses: FloatArray

    @classmethod
    def at(cls, runs: "Sequence[RunLosses]", losses: Sequence[FloatArray]) -> "Observations":
        """Return those of runs, at least one, whose losses of each set were ``losses``."""
        return cls(
            tuple(run.name for run in runs),
            runs[0].domains,
            runs[0].sets,
            np.stack([run.weights for run in runs]),
            np.stack(losses),
        )

    def of(self, rows: IntArray) -> "Observations":
        """Return some runs, in any order and perhaps several times."""
        chosen: list[int] = rows.tolist()
        names = tuple(self.runs[row] for row in chosen)
        return Observations(names, self.domains, self.sets, self.weights[rows], self.losses[rows])

    def mixtures(self) -> IntArray:
        """Return the number of each run's mixture: runs of equal weights have the same."""
        _, numbers = np.unique(self.weights.round(9), axis=0, return_inverse=True)
        return numbers.reshape(-1)


def read_losses(runs: Sequence[RunHistory]) -> tuple[RunLosses, ...]:
    """Return the weights and losses of runs.

    Args:
        runs: At least one.

    Raises:
        ConfigError: If a run's mixture moves or is capped, one has no evaluation, or their domains
            or sets differ.
    """
    names = run_names(runs)
    found = tuple(_losses(run, name) for run, name in zip(runs, names, strict=True))
    for run, each in zip(runs, found, strict=True):
        for what in ("domains", "sets"):
            ours, theirs = getattr(found[0], what), getattr(each, what)
            if ours != theirs:
                raise ConfigError(
                    f"{run.folder}: expected the {what} {', '.join(ours)}, as {found[0].name} "
                    f"has, found {', '.join(theirs) or 'none'}"
                )
    return found


def _losses(run: RunHistory, name: str) -> RunLosses:
    _check_fixed(run)
    order: list[int] = np.argsort(run.weights.names).tolist()
    parts = [
        (prefix, series)
        for prefix, series in ((SPECIFIC, run.specific), (DOMAIN, run.domains))
        if series.steps.size
    ]
    if not parts:
        raise ConfigError(f"{run.folder}: expected a run that was evaluated, found none")
    steps: IntArray = reduce(np.intersect1d, [series.steps for _, series in parts])
    columns = {
        f"{prefix}{each}": series.of(each)[np.isin(series.steps, steps)]
        for prefix, series in parts
        for each in sorted(series.names)
    }
    losses = np.stack(list(columns.values()), axis=1)
    known = np.isfinite(losses).all(axis=1)
    if not known.any():
        raise ConfigError(f"{run.folder}: expected an evaluation of all sets, found none")
    return RunLosses(
        name,
        tuple(run.weights.names[index] for index in order),
        run.weights.weights[-1][order],
        tuple(columns),
        steps[known] * run.tokens_per_step,
        losses[known],
    )


def _check_fixed(run: RunHistory) -> None:
    """Refuse a run that was not trained on its weights from the first step to the last."""
    moved = float(np.abs(run.weights.weights - run.weights.weights[0]).max())
    if moved > _SAME_WEIGHT:
        raise ConfigError(
            f"{run.folder}: expected a run at a fixed mixture, as `megadga sweep` trains them, "
            f"found weights that moved by up to {moved:.3f}"
        )
    cap = run.config.get("sampling", {}).get("max_epochs")
    if cap is not None and run.epochs.steps.size:
        most = float(np.nanmax(run.epochs.values[-1]))
        if most >= cap - 1.0:
            raise ConfigError(
                f"{run.folder}: sampling.max_epochs: expected a cap that no domain came near, "
                f"found {cap:g} with {most:.2f} epochs: batches may not follow the weights"
            )


def common_tokens(runs: Sequence[RunLosses]) -> int:
    """Return the largest number of tokens after which all runs were evaluated.

    Raises:
        ConfigError: If there is none.
    """
    common: IntArray = reduce(np.intersect1d, [run.tokens for run in runs])
    if not common.size:
        raise ConfigError(
            "runs: expected evaluations after the same number of tokens in all of them, found "
            "none: `--tokens T` has each run's losses follow a law of its own steps to T"
        )
    return int(common[-1])


def observe(runs: Sequence[RunLosses], tokens: int) -> Observations:
    """Return the losses of runs after so many tokens, of which each has an evaluation."""
    losses = [run.losses[int(np.flatnonzero(run.tokens == tokens)[0])] for run in runs]
    return Observations.at(runs, losses)


def objective_of(name: str, sets: Sequence[str]) -> FloatArray:
    """Return the weights of the sets in an objective, shape ``(M,)``.

    Args:
        name: ``general``, ``specific=NAME`` or ``domain=NAME``.
        sets: All that have a law.

    Raises:
        ConfigError: If there is no such set.
    """
    if name == GENERAL:
        of_domains = np.array([each.startswith(DOMAIN) for each in sets], dtype=np.float64)
        if not of_domains.any():
            raise ConfigError("objective: expected losses of domains for general, found none")
        return of_domains / of_domains.sum()
    if name not in sets:
        expected = ", ".join([GENERAL, *sets])
        raise ConfigError(f"objective: expected one of {expected}, found {name!r}")
    return np.array([float(each == name) for each in sets])
