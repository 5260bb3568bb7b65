"""A training run in numpy, seconds long, of which the best mixture is known.

Domains and targets are quadratics with floors, as texts have entropies. Where the mean loss of a
mixture is least is known in closed form, so a target can be placed where a chosen mixture ends.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np

from megadga.arrays import FloatArray, IntArray
from megadga.mixers.base import (
    AlignmentNeeds,
    Alignments,
    DomainLosses,
    LossNeeds,
    Needs,
    Observed,
    Scheduler,
    StepNeeds,
    StepNumber,
    TargetAlignments,
    TargetNeeds,
)


@dataclass(frozen=True, eq=False)
class Quadratics:
    """Losses ``floor_i + sum_d curvature_id (x_d - centre_id)^2 / 2``, N of them.

    Attributes:
        centres: Where each is least, shape ``(N, D)``.
        curvatures: Above 0, shape ``(N, D)``.
        floors: Its least value, shape ``(N,)``.
    """

    centres: FloatArray
    curvatures: FloatArray
    floors: FloatArray

    def losses(self, parameters: FloatArray) -> FloatArray:
        """Return each one's loss, shape ``(N,)``."""
        return self.floors + (self.curvatures * (parameters - self.centres) ** 2).sum(axis=1) / 2

    def gradients(self, parameters: FloatArray) -> FloatArray:
        """Return each one's gradient, shape ``(N, D)``."""
        return self.curvatures * (parameters - self.centres)

    def optimum(self, weights: FloatArray) -> FloatArray:
        """Return where the weighted mean of the losses is least, shape ``(D,)``."""
        return weights @ (self.curvatures * self.centres) / (weights @ self.curvatures)


@dataclass(frozen=True, eq=False)
class Bed:
    """Domains to train on, and targets that a known mixture of them serves best.

    Attributes:
        domains: ``K`` of them.
        targets: ``M`` of them; the first is the specific set of rules that know one.
        best: The mixture at whose optimum the first target is at its floor, shape ``(K,)``.
    """

    domains: Quadratics
    targets: Quadratics
    best: FloatArray

    def observe(self, needs: Needs, parameters: FloatArray, step: int) -> Observed:
        """Measure what a rule needs, without noise."""
        gradients = self.domains.gradients(parameters)
        squared_norms = (gradients**2).sum(axis=1)
        match needs:
            case AlignmentNeeds(target=target):
                specific = self.targets.gradients(parameters)[0]
                direction = specific if target == "specific" else gradients.mean(axis=0)
                square = float(direction @ direction)
                return Alignments(gradients @ direction, square, squared_norms)
            case TargetNeeds():
                towards = self.targets.gradients(parameters)
                squares = (towards**2).sum(axis=1)
                losses = self.targets.losses(parameters)
                return TargetAlignments(towards @ gradients.T, losses, squares, squared_norms)
            case LossNeeds():
                losses = self.domains.losses(parameters)
                # The best reference there is: no model is below the floors.
                return DomainLosses(losses, np.ones_like(losses, int), step, self.domains.floors)
            case StepNeeds():
                return StepNumber(step)


@dataclass(frozen=True, eq=False)
class Trace:
    """What a run did, a line per update, ``U`` of them.

    Attributes:
        steps: Optimizer steps completed, shape ``(U,)``.
        weights: What batches were sampled from then on, shape ``(U, K)``.
        domain_losses: Shape ``(U, K)``.
        target_losses: Shape ``(U, M)``.
    """

    steps: IntArray
    weights: FloatArray
    domain_losses: FloatArray
    target_losses: FloatArray


def make_bed() -> Bed:
    """Return six domains and two targets in four dimensions."""
    rng = np.random.default_rng(3)
    domains = Quadratics(
        centres=rng.normal(size=(6, 4)),
        curvatures=rng.uniform(0.5, 1.5, size=(6, 4)),
        floors=np.array([1.0, 2.0, 1.5, 3.0, 2.5, 1.2]),
    )
    best = np.array([0.0, 0.5, 0.0, 0.2, 0.3, 0.0])
    second = np.array([0.5, 0.0, 0.3, 0.0, 0.0, 0.2])
    centres = np.stack([domains.optimum(best), domains.optimum(second)])
    targets = Quadratics(centres, np.ones((2, 4)), np.array([1.5, 1.5]))
    return Bed(domains, targets, best)


def train(bed: Bed, scheduler: Scheduler, *, updates: int = 400, interval: int = 5) -> Trace:
    """Descend along the mixture's gradient from 0, and update the mixture every few steps."""
    steps = interval * np.arange(1, updates + 1)
    taken = [each for each in descend(bed, scheduler, steps[-1], interval) if each.updated]
    return Trace(
        steps,
        np.stack([each.weights for each in taken]),
        np.stack([bed.domains.losses(each.parameters) for each in taken]),
        np.stack([bed.targets.losses(each.parameters) for each in taken]),
    )


@dataclass(frozen=True, eq=False)
class Descent:
    """Where a run is after an optimizer step.

    Attributes:
        parameters: Shape ``(D,)``.
        weights: What the next batch is sampled from, shape ``(K,)``.
        updated: Whether the mixture was updated after the step.
    """

    parameters: FloatArray
    weights: FloatArray
    updated: bool


Disturb = Callable[[Observed, int], Observed]


def descend(
    bed: Bed,
    scheduler: Scheduler,
    num_steps: int,
    interval: int,
    disturb: Disturb = lambda observed, _: observed,
) -> Iterator[Descent]:
    """Yield a run step by step: gradient descent from 0 at a rate of 0.3.

    Args:
        bed: What is trained on.
        scheduler: Moves the mixture.
        num_steps: Optimizer steps.
        interval: Optimizer steps between updates.
        disturb: Makes what an update sees after a step of what is true; by default, nothing else.
    """
    state, parameters = scheduler.init(), np.zeros(bed.domains.centres.shape[1])
    needs = scheduler.observes
    for step in range(1, num_steps + 1):
        gradient = state.averaged_weights @ bed.domains.gradients(parameters)
        parameters = parameters - 0.3 * gradient
        due = step % interval == 0
        if due and needs is not None:
            observed = disturb(bed.observe(needs, parameters, step), step)
            state = scheduler.update(state, observed)
        yield Descent(parameters, state.averaged_weights, due)
