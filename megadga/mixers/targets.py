"""Several target sets for a scheduler that aligns to one: weighted sum, or the worst."""

from dataclasses import dataclass, replace
from typing import Literal, final

import numpy as np

from megadga.arrays import FloatArray
from megadga.mixers.base import (
    AlignmentNeeds,
    Alignments,
    MixtureState,
    Observed,
    Scheduler,
    TargetAlignments,
    TargetNeeds,
    skip_update,
)
from megadga.mixers.by_hand import continue_from
from megadga.mixers.carrying import MixtureChange, carried_state
from megadga.mixers.grape import TASK_WEIGHTS, has_rates, task_weights
from megadga.mixers.probing import WithoutMoments
from megadga.mixers.scores import SCORES, ScoreName

Combine = Literal["sum", "worst"]


_PREFIX = "inner_"


_LARGEST = np.finfo(np.float64).max / 2.0
"""Half of the largest number: then no weighted mean of them overflows."""


@final
@dataclass(frozen=True, eq=False)
class OverTargets:
    """Runs a rule on the weighted mean of ``M`` targets' scores of each domain.

    With the scores ``s_mk`` of domain ``k`` for target ``m`` and the targets' importance ``c_m``,
    the rule inside moves the domains by ``sum_m z_m s_mk``, where

        sum:    z_m = c_m / sum_n c_n
        worst:  z_m = 1 for the target that improves least, else 0 (the first of equals)

    A step along ``sum_k alpha_k g_k`` takes off the share ``r_m = <v_m, sum_k alpha_k g_k> / l_m``
    of a target's loss, per unit of learning rate. ``worst`` compares these rates of improvement:
    ``r_m / c_m``, or ``r_m c_m`` where a loss rises, so that what is more important is to improve
    more and counts as worse off sooner. It is ascent on max-min, and the limit that the targets'
    step of GRAPE (`Grape`, arXiv 2505.20380) has for large ``task_step_size`` if it remembers
    nothing: one target counts in each update, so weights may swing between targets where GRAPE's
    settle.

    The targets' weights, and what the rule inside remembers, are in the state's memory.

    Attributes:
        rule: Moves the domains by inner products as they are, as `Dga` with the score ``raw``.
        importance: ``c``, finite and above 0, relative to one another, shape ``(M,)``.
        combine: ``sum`` or ``worst``.
        score: What is taken of each target's alignments before they are combined.
        without_moments: Of the score ``adam``; see `AlignmentNeeds`.

    Raises:
        ValueError: If a value is out of range, or the rule reads more than inner products.
    """

    rule: Scheduler
    importance: FloatArray
    combine: Combine = "sum"
    score: ScoreName = "raw"
    without_moments: WithoutMoments = "refuse"

    def __post_init__(self) -> None:
        if self.combine not in ("sum", "worst"):
            raise ValueError(f"combine: expected sum or worst, found {self.combine!r}")
        if self.score not in SCORES:
            raise ValueError(f"score: expected one of {', '.join(SCORES)}, found {self.score!r}")
        given = self.importance
        if given.ndim != 1 or not given.size or not ((given > 0.0) & (given < np.inf)).all():
            raise ValueError(f"importance: expected finite numbers > 0, found {given.tolist()}")
        if (needs := self.rule.observes) != AlignmentNeeds():
            raise ValueError(f"rule: expected one that observes inner products, found {needs}")

    @property
    def observes(self) -> TargetNeeds:
        """Alignments with each target, and what the score needs."""
        needs = SCORES[self.score].needs
        return TargetNeeds(
            self.importance.size,
            norms=needs.norms,
            preconditioned=needs.preconditioned,
            without_moments=self.without_moments if needs.preconditioned else "refuse",
        )

    def init(self) -> MixtureState:
        """Return the rule's first state, with targets that count by their importance."""
        return _with_targets(self.rule.init(), self._shares())

    def update(self, state: MixtureState, observed: Observed) -> MixtureState:
        """Return the state after one measurement; one that is not finite is left out.

        So is one with a target loss that is not above 0, and what the rule inside leaves out.

        Raises:
            ValueError: If ``observed`` has another number of domains or targets than ``state``.
        """
        assert isinstance(observed, TargetAlignments)
        if not has_rates(observed, state):
            return skip_update(state)
        before = task_weights(state)
        tasks = self._shares() if self.combine == "sum" else self._worst(state.weights, observed)
        inner = self.rule.update(inner_state(state), self._combined(tasks, observed))
        return _with_targets(inner, tasks if inner.num_updates > state.num_updates else before)

    def continue_from(self, state: MixtureState, weights: FloatArray) -> MixtureState:
        """Return a state from which the rule inside goes on at weights set by hand."""
        inner = continue_from(self.rule, inner_state(state), weights)
        return _with_targets(inner, task_weights(state))

    def carried(self, state: MixtureState, change: MixtureChange) -> MixtureState:
        """Return the state after a change, as the rule inside carries it.

        What a checkpoint says of its domains has the weights alone, and nothing of the targets.
        """
        inner = carried_state(self.rule, inner_state(state), change)
        kept = change.same_rule and change.same_targets and TASK_WEIGHTS in state.memory
        return _with_targets(inner, task_weights(state) if kept else self._shares())

    def _shares(self) -> FloatArray:
        relative = self.importance / self.importance.max()  # their sum might overflow
        return relative / relative.sum()

    def _worst(self, weights: FloatArray, observed: TargetAlignments) -> FloatArray:
        """Return 1 for the target that improves least, shape ``(M,)``."""
        with np.errstate(over="ignore"):
            rates = np.clip(observed.dots, -_LARGEST, _LARGEST) @ weights / observed.losses
            compared = np.where(rates > 0.0, rates / self.importance, rates * self.importance)
        worst = np.zeros_like(compared)
        worst[np.argmin(compared)] = 1.0
        return worst

    def _combined(self, tasks: FloatArray, observed: TargetAlignments) -> Alignments:
        """Return the combined scores as inner products with one target."""
        score = SCORES[self.score]
        squares = observed.target_squared_norms.tolist()
        scores = [
            score.of(
                Alignments(
                    dots, square, observed.squared_norms, preconditioned=observed.preconditioned
                )
            )
            for dots, square in zip(observed.dots, squares, strict=True)
        ]
        combined = tasks @ np.clip(np.stack(scores), -_LARGEST, _LARGEST)
        # Not below |sum_m z_m v_m|^2, which is not measured; the rule inside does not read it.
        square = float(tasks @ observed.target_squared_norms)
        return Alignments(
            combined,
            square,
            general_loss=observed.general_loss,
            step=observed.step,
            epochs=observed.epochs,
        )


def _with_targets(state: MixtureState, tasks: FloatArray) -> MixtureState:
    inner = {_PREFIX + name: array for name, array in state.memory.items()}
    return replace(state, memory={TASK_WEIGHTS: tasks, **inner})


def inner_state(state: MixtureState) -> MixtureState:
    """Return the state of the rule inside `OverTargets`."""
    memory = {
        name.removeprefix(_PREFIX): array
        for name, array in state.memory.items()
        if name.startswith(_PREFIX)
    }
    return replace(state, memory=memory)
