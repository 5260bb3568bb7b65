"""GRAPE (arXiv 2505.20380): several target sets; those that improve least count most."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Literal, final

import numpy as np

from megadga.arrays import FloatArray, check_simplex
from megadga.mixers.base import (
    MixtureState,
    Observed,
    TargetAlignments,
    TargetNeeds,
    check_domains,
    first_average,
    next_average,
    skip_update,
)
from megadga.mixers.carrying import MixtureChange, carry
from megadga.mixers.probing import (
    DIRECTIONAL,
    InFlight,
    Probe,
    find_direction_inconsistencies,
    unusable_probe,
)
from megadga.mixers.rule import Rule, RuleContext, RuleOptions
from megadga.mixers.simplex import exponentiated_step
from megadga.mixers.weights import Weights
from megadga.section import ConfigIssue, Fraction, NonNegativeFloat, PositiveFloat, PositiveInt


class GrapeOptions(RuleOptions):
    """GRAPE (arXiv 2505.20380): several specific sets, those that improve least count most."""

    type: Literal["grape"]
    """How the domains' weights are set."""
    interval: PositiveInt
    """Optimizer steps between updates of the weights, at least 1; 100 in the authors' runs."""
    initial: Weights = "uniform"
    """Weights until the first update, written as the weights of type static. The sets' weights
    start at their importance."""
    step_size: PositiveFloat
    """Step of the domains' weights, above 0; 1.5 in the authors' runs, with clipped gradients."""
    task_step_size: NonNegativeFloat
    """Step of the sets' weights, at least 0; 5 or 10 in the authors' runs. 0: they stay at their
    importance, but for the smoothing."""
    task_smoothing: Fraction = 1e-3
    """Share of the sets' weights that each update spreads evenly, in [0, 1]; 0.001: the authors'
    code."""
    score: Literal["raw", "clipped"] = "raw"
    """What enters exp(): inner products of the domains' gradients and those of the logarithms of
    the sets' losses; raw: as they are (the paper); clipped: of gradients clipped to norm 1 (the
    authors' code), which needs every domain's gradient."""
    probe: Probe = DIRECTIONAL
    """How alignments are measured, for each set in turn, and on how many sequences: type
    directional or sharded."""

    @property
    def aligns_to_specific(self) -> bool:
        """True."""
        return True

    def find_inconsistencies(self, specific: Sequence[str] | None) -> Iterator[ConfigIssue]:
        """Yield what cannot be measured the way that the section says."""
        if specific is not None and not specific:
            expected = f"at least one set, which mixing.type {self.type} aligns to"
            yield ConfigIssue(("data", "specific"), expected, "none")
        if isinstance(self.probe, InFlight):
            reason = "with mixing.type grape: in_flight has a single direction"
            yield unusable_probe(self.probe, reason)
        else:
            yield from find_direction_inconsistencies(self.probe)


TASK_WEIGHTS = "task_weights"
"""What rules for several targets call the targets' weights in their memory."""


@final
@dataclass(frozen=True, eq=False)
class Grape:
    """Group robust multi-target adaptive pretraining (Fan, Glarou, Jaggi, arXiv 2505.20380).

    A target's rate of improvement is the share of its loss ``l_m`` that a step takes off: to first
    order the learning rate times ``<grad log l_m, sum_k alpha_k g_k>``. With the inner products
    ``A_mk = <v_m, g_k> / l_m`` of domains and logarithms of target losses, group DRO over the
    targets and mirror descent over the domains are

        z     <- z * exp(-task_step_size * A alpha) / sum
        z     <- (1 - task_smoothing) * z + task_smoothing / M
        alpha <- alpha * exp(step_size * z A) / sum

    Targets first, with the domains' last weights, then the domains, as in the authors' code.

    Paper and code: learning rates, which scale ``A`` in the paper, are part of the step sizes in
    the code, and here. The code clips every gradient to norm 1, those of the logarithms too:
    score ``clipped``, but that the code draws a batch from a mixture and clips its gradient,
    where we mix clipped ones. It smooths ``z`` with 1e-3. Its two updates may have intervals of
    their own; here one measurement serves both.

    Attributes:
        initial: The domains' first mixture, shape ``(K,)``; zeros stay zero for good.
        task_weights: The targets' first weights, shape ``(M,)``.
        step_size: Of the domains, finite, at least 0; 1.5 in the authors' runs.
        task_step_size: Of the targets, finite, at least 0; 5 or 10 there. 0 keeps their weights.
        task_smoothing: Share of the targets' weights that is spread evenly, in ``[0, 1]``.
        score: ``raw`` as in the formula above, or ``clipped``.

    Raises:
        ValueError: If a value is out of range.
    """

    initial: FloatArray
    task_weights: FloatArray
    step_size: float
    task_step_size: float
    task_smoothing: float = 1e-3
    score: Literal["raw", "clipped"] = "raw"

    def __post_init__(self) -> None:
        check_simplex(self.initial, name="initial")
        check_simplex(self.task_weights, name="task_weights")
        for name, size in (
            ("step_size", self.step_size),
            ("task_step_size", self.task_step_size),
        ):
            if not 0.0 <= size < float("inf"):
                raise ValueError(f"{name}: expected a finite number >= 0, found {size}")
        if not 0.0 <= self.task_smoothing <= 1.0:
            raise ValueError(
                f"task_smoothing: expected 0 <= task_smoothing <= 1, found {self.task_smoothing}"
            )
        if self.score not in ("raw", "clipped"):
            raise ValueError(f"score: expected raw or clipped, found {self.score!r}")

    @property
    def observes(self) -> TargetNeeds:
        """Alignments with each target; the domains' norms if gradients are clipped."""
        return TargetNeeds(self.task_weights.size, norms=self.score == "clipped")

    def init(self) -> MixtureState:
        """Return the initial mixture and task weights."""
        weights = check_simplex(self.initial)
        tasks = check_simplex(self.task_weights)
        memory = {**first_average(weights), TASK_WEIGHTS: tasks.copy()}
        return MixtureState(weights.copy(), weights.copy(), 0, 0, memory)

    def update(self, state: MixtureState, observed: Observed) -> MixtureState:
        """Return the state after one measurement; one that is not finite is left out.

        So is one with a target loss that is not above 0, which has no logarithm.

        Raises:
            ValueError: If ``observed`` has another number of domains or targets than ``state``.
        """
        assert isinstance(observed, TargetAlignments)
        if not has_rates(observed, state):
            return skip_update(state)
        alignments = self._alignments(observed)
        tasks = self._next_tasks(task_weights(state), alignments @ state.weights)
        weights = exponentiated_step(state.weights, tasks @ alignments, self.step_size)
        return replace(
            state,
            weights=weights,
            averaged_weights=weights,
            num_updates=state.num_updates + 1,
            memory={**next_average(state, weights), TASK_WEIGHTS: tasks},
        )

    def carried(self, state: MixtureState, change: MixtureChange) -> MixtureState:
        """Return the state after a change; other specific sets start at their importance."""
        restarted = frozenset[str]() if change.same_targets else frozenset({TASK_WEIGHTS})
        return carry(state, self.init(), change, axes={}, restarted=restarted)

    def _alignments(self, observed: TargetAlignments) -> FloatArray:
        """Return ``A``, of gradients clipped to norm 1 if asked for, shape ``(M, K)``."""
        losses = observed.losses[:, np.newaxis]
        # Half of the largest number: then no weighted mean of them overflows.
        largest = np.finfo(np.float64).max / 2.0
        with np.errstate(over="ignore"):
            alignments = np.clip(observed.dots / losses, -largest, largest)
            if self.score == "raw":
                return alignments
            assert observed.squared_norms is not None
            log_norms = np.sqrt(observed.target_squared_norms)[:, np.newaxis] / losses
        domain_norms = np.sqrt(observed.squared_norms)
        return alignments / np.maximum(log_norms, 1.0) / np.maximum(domain_norms, 1.0)

    def _next_tasks(self, tasks: FloatArray, improvements: FloatArray) -> FloatArray:
        stepped = exponentiated_step(tasks, -improvements, self.task_step_size)
        return (1.0 - self.task_smoothing) * stepped + self.task_smoothing / stepped.size


def has_rates(observed: TargetAlignments, state: MixtureState) -> bool:
    """Return whether each target's rate of improvement is known: all finite, losses above 0.

    Raises:
        ValueError: If ``observed`` has another number of domains or targets than ``state``.
    """
    check_domains("target dots", observed.dots.shape[1:], state)
    expected = task_weights(state).shape
    if observed.losses.shape != expected:
        raise ValueError(
            f"target losses: expected shape {expected}, found {observed.losses.shape}"
        )
    return observed.is_finite() and bool((observed.losses > 0.0).all())


def task_weights(state: MixtureState) -> FloatArray:
    """Return the targets' weights, shape ``(M,)``.

    Raises:
        ValueError: If a rule that is not for several targets made ``state``.
    """
    if TASK_WEIGHTS not in state.memory:
        raise ValueError(
            f"memory: expected {TASK_WEIGHTS}, found none: only rules for several have them"
        )
    return state.memory[TASK_WEIGHTS]


def make_grape(options: GrapeOptions, context: RuleContext) -> Grape:
    """Return the rule for the run's specific sets, whose weights start at their importance.

    Raises:
        ConfigError: If weights do not name exactly the domains.
    """
    return Grape(
        context.weights("initial", options.initial),
        context.importance / context.importance.sum(),
        step_size=options.step_size,
        task_step_size=options.task_step_size,
        task_smoothing=options.task_smoothing,
        score=options.score,
    )


RULES = (Rule(GrapeOptions, make_grape),)
