"""Metrics of an update: weights and alignments by name, probe overhead, collapse events."""

import math
from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, final

import numpy as np

from megadga.arrays import FloatArray
from megadga.mixers.base import (
    AlignmentNeeds,
    Alignments,
    DomainLosses,
    Memory,
    Mixtures,
    MixtureState,
    Needs,
    Observed,
    TargetAlignments,
    TargetNeeds,
    average_weights,
    keeps_average,
)
from megadga.mixers.basis import basis_weights, rule_state
from megadga.mixers.filtering import read_posterior
from megadga.mixers.general_guard import read_guard
from megadga.mixers.grape import task_weights
from megadga.mixers.safeguards import effective_domains, entropy_alarm
from megadga.mixers.targets import inner_state
from megadga.plugin.protocol import Metrics


@dataclass(frozen=True)
class ObservedOverhead:
    """Cost of measuring since the last update.

    Attributes:
        probe_s: Seconds spent on measuring, including the extra time of in-flight steps if there
            were other steps to compare with: a difference of noisy times, which may be below 0.
        share: ``probe_s`` divided by the seconds spent on training; None before the first step.
    """

    probe_s: float
    share: float | None


@final
class ProbeTimer:
    """Separates the time spent on measuring from the time spent on training.

    Args:
        now: Returns a monotonic time in seconds.

    Attributes:
        total_s: Seconds that were counted as measuring since the beginning.
    """

    def __init__(self, now: Callable[[], float]) -> None:
        self._now = now
        self._step_began: float | None = None
        self._plain_s: list[float] = []
        self._in_flight_s: list[float] = []
        self._probing_s = 0.0
        self.total_s = 0.0

    def begin_step(self) -> None:
        """Start timing a training step, when its batch is returned."""
        self._step_began = self._now()

    def end_step(self, *, in_flight: bool) -> None:
        """Stop timing a training step.

        Args:
            in_flight: Whether alignments were measured in flight during the step.
        """
        if self._step_began is not None:
            steps = self._in_flight_s if in_flight else self._plain_s
            steps.append(self._now() - self._step_began)
        self._step_began = None

    @contextmanager
    def probing(self) -> Generator[None]:
        """Count the time inside the block as measuring."""
        began = self._now()
        try:
            yield
        finally:
            spent = self._now() - began
            self._probing_s += spent
            self.total_s += spent

    def take(self) -> ObservedOverhead:
        """Return the overhead since the last call and reset."""
        plain, in_flight = self._plain_s, self._in_flight_s
        surplus = 0.0
        if plain and in_flight:
            surplus = sum(in_flight) - len(in_flight) * sum(plain) / len(plain)
        probe_s = self._probing_s + surplus
        training_s = sum(plain) + sum(in_flight) - surplus
        self._plain_s, self._in_flight_s, self._probing_s = [], [], 0.0
        return ObservedOverhead(probe_s, probe_s / training_s if training_s else None)


@final
class CollapseAlarm:
    """A plugin that logs an event when the number of effective domains falls below a threshold.

    Logs once per fall below the threshold.

    Args:
        weights: Returns the sampling weights, shape ``(K,)``.
        min_effective: Threshold for `effective_domains`.
    """

    name = "collapse_alarm"

    def __init__(self, weights: Callable[[], FloatArray], *, min_effective: float) -> None:
        self._weights = weights
        self._min_effective = min_effective
        self._low = self._is_low()

    def after_step(self, step: int) -> Metrics:  # noqa: ARG002  (depends on the weights only)
        """Return an ``event`` if the threshold was crossed since the last call. Not collective."""
        was_low, self._low = self._low, self._is_low()
        if was_low or not self._low:
            return {}
        event = {
            "event": "few_effective_domains",
            "effective_domains": effective_domains(self._weights()),
            "min_effective_domains": self._min_effective,
        }
        return {"event": event}

    def state_dict(self) -> dict[str, Any]:
        """Return whether the weights are below the threshold."""
        return {"low": self._low}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore ``state``."""
        self._low = bool(state["low"])

    def _is_low(self) -> bool:
        return entropy_alarm(self._weights(), min_effective=self._min_effective)


_LISTED = 8
"""Names listed in an event; there may be thousands of domains."""


@final
class RepeatAlarm:
    """A plugin that logs which domains begin to repeat, once for each.

    Args:
        ended: Returns the names of the domains whose first epoch the last batch has ended.
    """

    name = "repeat_alarm"

    def __init__(self, ended: Callable[[], Sequence[str]]) -> None:
        self._ended = ended

    def after_step(self, step: int) -> Metrics:  # noqa: ARG002  (depends on the batch only)
        """Return an ``event`` if a first epoch has ended. Not collective."""
        if not (names := self._ended()):
            return {}
        event = {"event": "domain_repeats", "domains": list(names[:_LISTED])}
        return {"event": {**event, "num_domains": len(names)}}

    def state_dict(self) -> dict[str, Any]:
        """Return nothing: all of it follows from the mixture's state."""
        return {}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Do nothing: there is no state."""


MEAN_WEIGHTS = "mean_weights"
"""Key of the mean of the weights over the run, for schedulers that keep one."""


BY_DOMAIN = (
    "alignments",
    "standard_errors",
    "gradient_norms",
    "target_alignments",
    "target_standard_errors",
    "scores",
    "weights",
    "averaged_weights",
    "epochs",
    MEAN_WEIGHTS,
    "basis_weights",
    "basis_averaged_weights",
)
"""Keys of an ``update`` record whose values are by domain, or by basis distribution."""


@final
@dataclass(frozen=True)
class UpdateRecords:
    """Builds metric records with values keyed by name.

    Attributes:
        domains: Names of the ``K`` domains.
        needs: Observations that the scheduler needs.
        specific: Names of the ``M`` specific sets.
    """

    domains: tuple[str, ...]
    needs: Needs | None
    specific: tuple[str, ...] = ()

    @property
    def measured(self) -> tuple[str, ...]:
        """Names of the measured mixtures: the domains, or the basis distributions."""
        return self.domains if self._mixtures is None else self._mixtures.names

    def averaged(self, mixture: MixtureState) -> FloatArray:
        """Return the averaged weights of what is measured, in the order of ``measured``."""
        if self._mixtures is None:
            return mixture.averaged_weights
        return basis_weights(mixture.memory)[1]

    def weights(self, mixture: MixtureState, epochs: FloatArray) -> dict[str, Any]:
        """Return the weights after an update, with their entropy (nats).

        Args:
            mixture: State after the update.
            epochs: Number of epochs of each domain, shape ``(K,)``.
        """
        record: dict[str, Any] = {}
        memory = self._rule_memory(mixture)
        if (guard := read_guard(memory)) is not None:
            record["general_guard"] = guard.is_on
        if (known := read_posterior(memory)) is not None:
            record["scores"] = _by_name(self.measured, known.standardized)
        if self._mixtures is not None:
            of_rows, averaged = basis_weights(mixture.memory)
            record["basis_weights"] = _by_name(self.measured, of_rows)
            record["basis_averaged_weights"] = _by_name(self.measured, averaged)
        effective = effective_domains(mixture.averaged_weights)
        record["entropy"], record["effective_domains"] = math.log(effective), effective
        record["weights"] = _by_name(self.domains, mixture.weights)
        record["averaged_weights"] = _by_name(self.domains, mixture.averaged_weights)
        record["epochs"] = _by_name(self.domains, epochs)
        if keeps_average(mixture):
            record[MEAN_WEIGHTS] = _by_name(self.domains, average_weights(mixture))
        return record

    def measurement(
        self, observed: Alignments | TargetAlignments, mixture: MixtureState
    ) -> dict[str, Any]:
        """Return the measured values.

        Args:
            observed: Alignments with one specific set, or several.
            mixture: State after the update.
        """
        match observed:
            case Alignments():
                return self._alignments(observed)
            case TargetAlignments():
                return self._targets(observed, mixture)

    def _alignments(self, alignments: Alignments) -> dict[str, Any]:
        record: dict[str, Any] = {
            "alignments": _by_name(self.measured, alignments.dots),
            f"{self._target}_gradient_norm": float(np.sqrt(alignments.specific_squared_norm)),
        }
        if alignments.standard_errors is not None:
            record["standard_errors"] = _by_name(self.measured, alignments.standard_errors)
        if alignments.squared_norms is not None:
            norms = np.sqrt(alignments.squared_norms)
            record["gradient_norms"] = _by_name(self.measured, norms)
        if isinstance(self.needs, AlignmentNeeds) and self.needs.preconditioned:
            record["preconditioned"] = alignments.preconditioned
        if alignments.direction_energy < 1.0:
            record["direction_energy"] = alignments.direction_energy
        return record

    def guard(
        self, before: MixtureState, after: MixtureState, general_loss: float | None
    ) -> dict[str, dict[str, Any]]:
        """Return an ``event`` if an update switched a general guard on or off.

        Args:
            before: State before the update.
            after: State after it.
            general_loss: The loss passed to the guard.
        """
        was, now = (read_guard(self._rule_memory(state)) for state in (before, after))
        if was is None or now is None or was.is_on == now.is_on:
            return {}
        event = {
            "event": f"general_guard_{'on' if now.is_on else 'off'}",
            "general_loss": general_loss,
            "best_general_loss": now.best,
        }
        return {"event": event}

    def _rule_memory(self, mixture: MixtureState) -> Memory:
        """Return the memory of the rule, also from inside wrapped schedulers."""
        state = mixture if self._mixtures is None else rule_state(mixture)
        if isinstance(self.needs, TargetNeeds):
            state = inner_state(state)
        return state.memory

    def _targets(self, observed: TargetAlignments, mixture: MixtureState) -> dict[str, Any]:
        state = mixture if self._mixtures is None else rule_state(mixture)
        of_targets = {
            "target_losses": observed.losses,
            "target_weights": task_weights(state),
            "target_gradient_norms": np.sqrt(observed.target_squared_norms),
        }
        if observed.direction_energies is not None:
            of_targets["target_direction_energies"] = observed.direction_energies
        of_both = {"target_alignments": observed.dots}
        if observed.standard_errors is not None:
            of_both["target_standard_errors"] = observed.standard_errors
        record: dict[str, Any] = {
            key: {
                name: _by_name(self.measured, row)
                for name, row in zip(self.specific, rows, strict=True)
            }
            for key, rows in of_both.items()
        } | {key: _by_name(self.specific, values) for key, values in of_targets.items()}
        if observed.squared_norms is not None:
            record["gradient_norms"] = _by_name(self.measured, np.sqrt(observed.squared_norms))
        if isinstance(self.needs, TargetNeeds) and self.needs.preconditioned:
            record["preconditioned"] = observed.preconditioned
        return record

    def skipped(self, observed: Observed, mixture: MixtureState) -> dict[str, Any]:
        """Return the event of a skipped update, with the names of the values that caused it.

        Args:
            observed: The observation passed to the scheduler.
            mixture: State after the update.
        """
        reason, finite = "skipped by the scheduler", np.ones(len(self.measured), dtype=np.bool_)
        match observed:
            case Alignments():
                finite = np.isfinite(observed.dots)
                if observed.squared_norms is not None:
                    finite &= np.isfinite(observed.squared_norms)
                reason = "alignments are not finite"
                if observed.is_finite():
                    reason = (
                        "skipped by the scheduler: min_signal, warmup, freeze_after, or no second "
                        "moments yet"
                    )
            case TargetAlignments():
                for dots in observed.dots:
                    finite &= np.isfinite(dots)
                if observed.squared_norms is not None:
                    finite &= np.isfinite(observed.squared_norms)
                reason = "alignments or losses of the specific sets are not finite"
                if observed.is_finite():
                    reason = (
                        "skipped by the scheduler: warmup, freeze_after or a loss that is not > 0"
                    )
            case DomainLosses():
                finite = np.isfinite(observed.losses)
                if not observed.is_finite():
                    reason = "losses are not finite"
            case _:
                pass
        culprits = [name for name, good in zip(self.measured, finite, strict=True) if not good]
        return {
            "event": "update_skipped",
            "reason": reason,
            "domains" if self._mixtures is None else "basis": culprits,
            "num_skipped": mixture.num_skipped,
        }

    @property
    def _target(self) -> str:
        of_domains = isinstance(self.needs, AlignmentNeeds) and self.needs.target == "domains"
        return "mean" if of_domains else "specific"

    @property
    def _mixtures(self) -> Mixtures | None:
        needs = self.needs
        return needs.mixtures if isinstance(needs, AlignmentNeeds | TargetNeeds) else None


def _by_name(names: tuple[str, ...], values: FloatArray) -> dict[str, float]:
    return dict(zip(names, values.tolist(), strict=True))
