"""Carries a mixture over to other domains, specific sets or another rule, during a run.

Domains that stay keep their weights relative to one another, and what the rule remembers of them.
The weight of those that leave goes to the others in proportion; those that enter get a share.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Literal, Protocol, final, runtime_checkable

import numpy as np

from megadga.arrays import FloatArray, IntArray
from megadga.mixers.base import (
    AVERAGE_WEIGHTS,
    MixtureState,
    Scheduler,
    StepNeeds,
    StepNumber,
    keeps_average,
)

Entering = Literal["uniform_share", "proportional"]


def entering_shares(
    rule: Entering | Mapping[str, float],
    names: tuple[str, ...],
    tokens: IntArray,
    sources: IntArray,
) -> FloatArray:
    """Return the share of the mixture that each domain enters with, 0 for those that stay.

    Args:
        rule: ``uniform_share``: one over the number of domains afterwards; ``proportional``: its
            share of all tokens; or the weight of each domain that enters, with a sum of at most 1,
            where those of others, which may have entered before, are not read.
        names: The domains afterwards, ``K'`` of them.
        tokens: Of each, shape ``(K',)``.
        sources: See `MixtureChange`.

    Returns:
        Shape ``(K',)``. Of sum 1 if no domain stays.

    Raises:
        ValueError: If weights lack a domain that enters, name one that is none, or sum to more.
    """
    enters = sources < 0
    if not enters.any():
        return np.zeros(enters.size)
    if rule == "uniform_share":
        shares = np.where(enters, 1.0 / enters.size, 0.0)
    elif rule == "proportional":
        shares = np.where(enters, tokens / tokens.sum(), 0.0)
    else:
        assert isinstance(rule, Mapping)
        new = [name for name, each in zip(names, enters.tolist(), strict=True) if each]
        if wrong := [*(set(new) - rule.keys()), *(rule.keys() - set(names))]:
            raise ValueError(
                f"expected a weight for each domain that enters ({', '.join(new[:5]) or 'none'}), "
                f"found another choice of {', '.join(sorted(wrong)[:5])}"
            )
        masses = np.array([rule.get(name, 0.0) for name in names], dtype=np.float64)
        shares = np.where(enters, masses, 0.0)
        if (total := float(shares.sum())) > 1.0:
            raise ValueError(f"expected weights with a sum of at most 1, found {total:g}")
    if enters.all():
        return shares / shares.sum() if shares.any() else np.full(enters.size, 1.0 / enters.size)
    return shares


@final
@dataclass(frozen=True, eq=False)
class MixtureChange:
    """What changes around a mixture, from ``K`` domains to ``K'``.

    Attributes:
        sources: For each domain afterwards, which of those before it is, -1 for one that enters,
            shape ``(K',)``.
        num_before: ``K``.
        entering: Share of the mixture of each that enters, 0 for the others, sum at most 1; see
            `entering_shares`; shape ``(K',)``.
        step: Optimizer steps completed.
        same_rule: Whether the rule is of the same kind as before, whatever its numbers.
        same_targets: Whether the specific sets that the rule aligns to are those before.
        same_validation: Whether the mean validation loss over the domains is over those before.
    """

    sources: IntArray
    num_before: int
    entering: FloatArray
    step: int
    same_rule: bool = True
    same_targets: bool = True
    same_validation: bool = True

    @property
    def same_domains(self) -> bool:
        """Whether the domains are those before, in the same order; they may have grown."""
        return np.array_equal(self.sources, np.arange(self.num_before))

    def mixture(self, weights: FloatArray) -> FloatArray:
        """Return a mixture over the domains afterwards.

        Domains that stay share what is not ``entering`` in proportion to their weights before,
        equally if these were all 0.

        Args:
            weights: A distribution over the domains before, shape ``(K,)``.
        """
        if self.same_domains:
            return weights
        stays = self.sources >= 0
        carried = np.where(stays, weights[self.sources], 0.0)
        if stays.any() and not carried.any():
            carried = stays.astype(np.float64)
        total = carried.sum()
        scale = (1.0 - self.entering.sum()) / total if total > 0.0 else 0.0
        return carried * scale + self.entering

    def along(self, before: FloatArray, fresh: FloatArray, axis: int) -> FloatArray:
        """Return an array with one entry for each domain along ``axis``.

        Args:
            before: Of the domains before.
            fresh: Of the domains afterwards, as at the start of a run: what those that enter get.
            axis: Where the domains are.
        """
        stays = np.flatnonzero(self.sources >= 0)
        after = np.moveaxis(fresh.copy(), axis, 0)
        after[stays] = np.moveaxis(before, axis, 0)[self.sources[stays]]
        return np.moveaxis(after, 0, axis)


@runtime_checkable
class CarryingScheduler(Protocol):
    """A scheduler that knows what its memory means after a change."""

    def carried(self, state: MixtureState, change: MixtureChange) -> MixtureState:
        """Return the state to go on from over the domains afterwards, which the scheduler is of.

        Args:
            state: Over the domains before, of any rule.
            change: From those to these.
        """
        ...


def carried_state(
    scheduler: Scheduler, state: MixtureState, change: MixtureChange
) -> MixtureState:
    """Return the state that a rule goes on from after a change.

    A rule that measures nothing has the weights that it says for the new domains. Another keeps
    its state if it implements `CarryingScheduler`; else, as one of another kind does, it starts
    from the weights of before, carried over, and remembers nothing.

    Args:
        scheduler: The rule over the domains afterwards.
        state: Over the domains before, of this or another rule.
        change: From those to these.
    """
    if scheduler.observes is None:
        return scheduler.init()
    if isinstance(scheduler.observes, StepNeeds):
        moved = scheduler.update(scheduler.init(), StepNumber(change.step))
        return replace(moved, num_updates=state.num_updates, num_skipped=state.num_skipped)
    if isinstance(scheduler, CarryingScheduler):
        return scheduler.carried(state, change)
    return carry(state, scheduler.init(), change)


def carry(
    state: MixtureState,
    fresh: MixtureState,
    change: MixtureChange,
    *,
    axes: Mapping[str, int] | None = None,
    restarted: frozenset[str] = frozenset(),
) -> MixtureState:
    """Return the state of a rule after a change, with the part of its memory that has a meaning.

    Args:
        state: Over the domains before.
        fresh: The rule's first state over the domains afterwards.
        change: From those to these.
        axes: Axis of the domains in each array of memory that has one; None: nothing is known of
            the memory, which is kept only if the domains are the same.
        restarted: Arrays of memory that start anew.
    """
    if not change.same_rule:
        weights = change.mixture(state.averaged_weights)
        memory = dict(fresh.memory)
        if keeps_average(fresh):
            memory[AVERAGE_WEIGHTS] = weights
        return MixtureState(weights, weights.copy(), 0, 0, memory)
    known = axes or {}
    memory: dict[str, FloatArray] = {}
    for name, first in fresh.memory.items():
        before = state.memory.get(name)
        if before is None or name in restarted:
            memory[name] = first
        elif name == AVERAGE_WEIGHTS:
            memory[name] = change.mixture(before)
        elif name in known:
            memory[name] = change.along(before, first, known[name])
        else:
            kept = before.shape == first.shape and (axes is not None or change.same_domains)
            memory[name] = before if kept else first
    return replace(
        state,
        weights=change.mixture(state.weights),
        averaged_weights=change.mixture(state.averaged_weights),
        memory=memory,
    )
