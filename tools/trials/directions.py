"""Measures one update's alignments along many directions, on the same sequences and model.

Each is what its own probe would have found. The specific gradient and every domain's are formed
once; a low-rank direction finds its factors in them as it would while passing over the sequences,
and an inner product with a domain's gradient is the derivative that a hook would have seen. One
process alone.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import final

import numpy as np
import torch
from torch import Tensor, nn

from megadga.arrays import FloatArray
from megadga.mixers.probing import LowRank, LowRankEnergy
from megadga.probes.engine import Engine
from megadga.probes.gradients import Direction, GradientShard
from megadga.probes.loss import mean_loss
from megadga.probes.low_rank import LowRankGradient
from megadga.probes.passes import ProbePasses
from megadga.probes.sequences import PackedSequences, ProbeSequenceSampler

ANOTHER_PROBE = "another probe"
"""Drawn apart from the update's own: other specific sequences, other sequences of each domain."""


def age_name(steps: int) -> str:
    """Return what a direction is called that was measured so many steps ago."""
    return f"age {steps}"


@dataclass(frozen=True)
class Kept:
    """What a low-rank direction holds.

    Attributes:
        estimated_energy: Share of ``|v|^2``, as the probe says.
        energy: The share in fact, in ``[0, 1]``.
        numbers: Its numbers, as a share of the model's.
    """

    estimated_energy: float
    energy: float
    numbers: float


@dataclass(frozen=True, eq=False)
class Measured:
    """One update.

    Attributes:
        full: Alignments along the whole specific gradient, shape ``(K,)``.
        scale: Largest ``|g_i| |v|``, which bounds what rounding can do to ``full``.
        others: Along the other directions, by name, each of shape ``(K,)``.
        kept: What the low-rank ones hold, by name.
    """

    full: FloatArray
    scale: float
    others: Mapping[str, FloatArray]
    kept: Mapping[str, Kept]


@final
class _Remembered:
    """A loss whose gradient is a vector that was measured before: the inner product with it."""

    def __init__(self, parameters: Sequence[nn.Parameter]) -> None:
        self._parameters = parameters
        self.gradient: Sequence[Tensor] = ()

    def __call__(self, module: nn.Module, tokens: Tensor) -> Tensor:  # noqa: ARG002
        """See ``Loss``; the same for all tokens."""
        pairs = zip(self._parameters, self.gradient, strict=True)
        return torch.stack([(parameter * part).sum() for parameter, part in pairs]).sum()


@dataclass
class _OldDirections:
    """Specific gradients that updates to come will ask for.

    Attributes:
        ages: In optimizer steps, at least 0.
        interval: Steps between updates.
        by_step: When each was measured.
    """

    ages: Sequence[int]
    interval: int
    by_step: dict[int, GradientShard] = field(default_factory=dict[int, GradientShard])

    def is_wanted(self, measured: int, now: int) -> bool:
        """Tell whether an update at ``now`` or later asks for one of step ``measured``."""
        uses = [measured + age for age in self.ages]
        return any(use >= now and use % self.interval == 0 for use in uses)

    def prune(self, now: int) -> None:
        """Forget those that no update from ``now`` on asks for."""
        kept = {step: v for step, v in self.by_step.items() if self.is_wanted(step, now)}
        self.by_step = kept


@final
class DirectionTrial:
    """Compares directions at every update of a run.

    Args:
        engine: Trains the model, on this process alone.
        draws: The sequences that the run's own updates are measured on.
        other_draws: Others, for another probe and for the directions that grow old.
        low_ranks: By name; each starts from its own last direction.
        ages: Of directions, in optimizer steps; 0 is another draw of specific sequences.
        interval: Optimizer steps between updates.
    """

    def __init__(
        self,
        engine: Engine,
        draws: ProbeSequenceSampler,
        other_draws: ProbeSequenceSampler,
        *,
        low_ranks: Mapping[str, LowRank | LowRankEnergy],
        ages: Sequence[int],
        interval: int,
    ) -> None:
        self._passes = ProbePasses(engine, loss=mean_loss)
        if self._passes.collective.world_size > 1:
            raise ValueError("engine: expected one process, whose shards are whole gradients")
        self._draws = draws
        self._other_draws = other_draws
        self._interval = interval
        self._remembered = _Remembered(self._passes.parameters)
        remembering = ProbePasses(engine, loss=self._remembered)
        self._low_ranks = {
            name: LowRankGradient(remembering, method, seed=0)
            for name, method in low_ranks.items()
        }
        self._old = _OldDirections(ages, interval)

    def after_step(self, step: int) -> Measured | None:
        """Measure an update if one is due after ``step``, and what later ones will need."""
        if self._old.is_wanted(step, step):
            drawn = PackedSequences([self._other_draws.specific(step)])
            self._old.by_step[step] = self._passes.gradient(drawn)
        measured = self._measure(step) if step % self._interval == 0 else None
        self._old.prune(step + 1)
        return measured

    def _measure(self, step: int) -> Measured:
        update = step // self._interval - 1
        specific = PackedSequences([self._draws.specific(update)])
        v = self._passes.gradient(specific)
        directions, kept = self._along_low_ranks(update, specific, v)
        old = {
            age_name(age): self._old.by_step[step - age]
            for age in self._old.ages
            if step - age in self._old.by_step
        }
        rows: list[dict[str, float]] = []
        full: list[float] = []
        norms: list[float] = []
        for index in range(self._draws.num_measured):
            g = self._passes.gradient(PackedSequences([self._draws.measured(update, index)]))
            full.append(g.dot(v))
            norms.append(g.dot(g) ** 0.5)
            low = {name: self._inner(g, direction) for name, direction in directions.items()}
            row = {**low, **{name: g.dot(direction) for name, direction in old.items()}}
            other = PackedSequences([self._other_draws.measured(step, index)])
            row[ANOTHER_PROBE] = self._passes.gradient(other).dot(self._old.by_step[step])
            rows.append(row)
        others = {name: np.array([row[name] for row in rows]) for name in rows[0]}
        return Measured(np.array(full), max(norms) * v.dot(v) ** 0.5, others, kept)

    def _along_low_ranks(
        self, update: int, specific: PackedSequences, v: GradientShard
    ) -> tuple[dict[str, Direction], dict[str, Kept]]:
        parts = self._passes.layout.parts(v.values)
        parameters = self._passes.parameters
        self._remembered.gradient = [
            part.view(parameter.shape) for parameter, part in zip(parameters, parts, strict=True)
        ]
        directions: dict[str, Direction] = {}
        kept: dict[str, Kept] = {}
        for name, source in self._low_ranks.items():
            toward = source.direction(update, specific)
            directions[name] = toward.direction
            numbers = sum(_size(toward.direction, parameter) for parameter in parameters)
            kept[name] = Kept(
                estimated_energy=toward.energy,
                energy=toward.length**2 / v.dot(v),
                numbers=numbers / v.values.numel(),
            )
        return directions, kept

    def _inner(self, gradient: GradientShard, direction: Direction) -> float:
        parts = self._passes.layout.parts(gradient.values)
        total = 0.0
        for parameter, part in zip(self._passes.parameters, parts, strict=True):
            matrix = part.view(parameter.shape)
            if (factors := direction.factors(parameter)) is not None:
                products = (factors.left.T @ matrix) * factors.right.T
            else:
                products = matrix * direction.dense(parameter)
            total += float(products.sum(dtype=torch.float64))
        return total


def _size(direction: Direction, parameter: nn.Parameter) -> int:
    """Return how many numbers a direction keeps for a parameter."""
    if (factors := direction.factors(parameter)) is not None:
        return factors.left.numel() + factors.right.numel()
    return parameter.numel()
