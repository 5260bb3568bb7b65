"""How an update gets what its scheduler observes: alignments, training losses, or the step."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, final

import numpy as np
import torch

from megadga.arrays import FloatArray, IntArray
from megadga.data.domain import Domain, SequenceSet
from megadga.mixers.base import (
    AlignmentNeeds,
    DomainLosses,
    LossNeeds,
    Needs,
    Observed,
    StepNeeds,
    StepNumber,
    TargetNeeds,
)
from megadga.probes.engine import Engine
from megadga.probes.loss import Loss
from megadga.probes.measuring import TargetAligner, make_measurement, make_target_measurement
from megadga.probes.methods import Probing, num_measured, predicted_overhead
from megadga.probes.protocols import Measurement
from megadga.probes.sequences import TrainedBatch


class Observer(Protocol):
    """A way to come by what an update needs."""

    def prepare(self, update: int, batch: TrainedBatch) -> None:
        """Get ready for an update, before the batch that it follows is trained. Collective."""
        ...

    def observe(self, update: int, step: int) -> Observed:
        """Return what update ``update`` (from 0) sees after optimizer step ``step``. Collective.

        Raises:
            ValueError: If the loop did not tell what the update needs.
        """
        ...

    def close(self) -> None:
        """Let go of the model."""
        ...

    def state_dict(self) -> dict[str, Any]:
        """Return what the next observation depends on; equal on every rank."""
        ...

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue from ``state``."""
        ...


@final
class AlignmentObserver:
    """Measures gradients.

    Args:
        measurement: The way, with one target or with several.
    """

    def __init__(self, measurement: Measurement | TargetAligner) -> None:
        self._measurement = measurement

    def prepare(self, update: int, batch: TrainedBatch) -> None:
        """See ``Observer``."""
        self._measurement.prepare(update, batch)

    def observe(self, update: int, step: int) -> Observed:  # noqa: ARG002  (measured now)
        """See ``Observer``."""
        return self._measurement.measure(update)

    def close(self) -> None:
        """See ``Observer``."""
        self._measurement.close()

    def state_dict(self) -> dict[str, Any]:
        """See ``Observer``."""
        return self._measurement.state_dict()

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """See ``Observer``."""
        self._measurement.close()
        self._measurement.load_state_dict(state)


@final
class LossObserver:
    """Adds up the losses that the loop tells of, from one update to the next.

    Args:
        num_domains: ``K``.
        reference: Whether a reference model's losses are wanted too.
    """

    def __init__(self, num_domains: int, *, reference: bool = False) -> None:
        self._num_domains = num_domains
        self._reference = reference
        self._forget()

    def add(
        self, domains: IntArray, losses: FloatArray, reference_losses: FloatArray | None = None
    ) -> None:
        """Take in some sequences.

        Args:
            domains: Domain of each, in ``[0, K)``, shape ``(N,)``.
            losses: Mean loss of each, nats a token, shape ``(N,)``.
            reference_losses: A reference model's, same shape; not read if they are not wanted.

        Raises:
            ValueError: If the shapes differ, a domain is none, or a reference's losses are
                wanted and missing.
        """
        if domains.ndim != 1 or domains.shape != losses.shape:
            raise ValueError(
                "observe_losses: expected domains and losses of one shape (N,), found "
                f"{domains.shape} and {losses.shape}"
            )
        if domains.size and not 0 <= domains.min() <= domains.max() < self._num_domains:
            raise ValueError(
                f"observe_losses: expected domains in [0, {self._num_domains}), found "
                f"{domains.min()} to {domains.max()}"
            )
        if self._reference:
            if reference_losses is None or reference_losses.shape != domains.shape:
                found = None if reference_losses is None else reference_losses.shape
                raise ValueError(
                    "observe_losses: expected a reference model's losses of shape "
                    f"{domains.shape}, found {found}"
                )
            self._reference_sums += np.bincount(
                domains, reference_losses, minlength=self._num_domains
            )
        self._sums += np.bincount(domains, losses, minlength=self._num_domains)
        self._counts += np.bincount(domains, minlength=self._num_domains)

    def prepare(self, update: int, batch: TrainedBatch) -> None:
        """Do nothing: the losses come with the step."""

    def observe(self, update: int, step: int) -> Observed:  # noqa: ARG002  (as many as there are)
        """Return the mean losses since the last update, and begin anew. Not collective.

        Raises:
            ValueError: If nobody has told of any.
        """
        if not self._counts.any():
            raise ValueError(
                "observe_losses: expected the losses of the steps since the last update, "
                "before after_step, found none"
            )
        drawn = np.maximum(self._counts, 1)
        reference = self._reference_sums / drawn if self._reference else None
        observed = DomainLosses(self._sums / drawn, self._counts, step, reference)
        self._forget()
        return observed

    def close(self) -> None:
        """Do nothing: no model is held."""

    def state_dict(self) -> dict[str, Any]:
        """Return what was added up so far."""
        state = {
            "loss_sums": torch.from_numpy(self._sums.copy()),
            "loss_counts": torch.from_numpy(self._counts.copy()),
        }
        if self._reference:
            state["reference_loss_sums"] = torch.from_numpy(self._reference_sums.copy())
        return state

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """See ``Observer``."""
        self._sums = state["loss_sums"].numpy().copy()
        self._counts = state["loss_counts"].numpy().copy()
        if self._reference:
            self._reference_sums = state["reference_loss_sums"].numpy().copy()

    def _forget(self) -> None:
        self._sums = np.zeros(self._num_domains)
        self._reference_sums = np.zeros(self._num_domains)
        self._counts = np.zeros(self._num_domains, dtype=np.int64)


@final
class StepObserver:
    """Sees how far training is, and nothing else."""

    def prepare(self, update: int, batch: TrainedBatch) -> None:
        """Do nothing."""

    def observe(self, update: int, step: int) -> Observed:  # noqa: ARG002
        """Return the step."""
        return StepNumber(step)

    def close(self) -> None:
        """Do nothing."""

    def state_dict(self) -> dict[str, Any]:
        """Return nothing."""
        return {}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take nothing."""


@dataclass(frozen=True, eq=False)
class Measured:
    """What alignments would be measured on.

    Attributes:
        engine: A DeepSpeed engine.
        domains: The training domains, ``K`` of them.
        specific: The specific sets, in the order of a rule's targets.
        loss: Mean loss of tokens through a module.
        seed: Addresses the probe streams.
    """

    engine: Engine
    domains: Sequence[Domain]
    specific: Sequence[SequenceSet]
    loss: Loss
    seed: int


@dataclass(frozen=True, eq=False)
class Observation:
    """How a rule's updates come by what they observe.

    Attributes:
        needs: What that is; None: the rule never moves.
        observer: Observes it; None exactly if there are no needs.
        predicted_overhead: Share of training's sequences that it reads more.
    """

    needs: Needs | None
    observer: Observer | None
    predicted_overhead: float = 0.0


def as_targets(specific: SequenceSet | Sequence[SequenceSet] | None) -> tuple[SequenceSet, ...]:
    """Return the specific sets.

    Raises:
        ValueError: If two have one name.
    """
    if specific is None:
        return ()
    targets = tuple(specific) if isinstance(specific, Sequence) else (specific,)
    names = [target.name for target in targets]
    if len(set(names)) < len(names):
        raise ValueError(f"specific: expected different names, found {', '.join(names)}")
    return targets


def make_observation(
    needs: Needs | None,
    measured: Measured,
    *,
    losses: LossObserver,
    probing: Probing,
    interval: int,
) -> Observation:
    """Return what observes for a rule.

    Args:
        needs: What the rule asks for.
        measured: What alignments are measured on.
        losses: Is told the losses of training.
        probing: How alignments are measured.
        interval: Optimizer steps between updates.

    Raises:
        UnsupportedEngineError: If alignments are not known to be exact on the engine.
        ValueError: If that is nothing that a training loop is observed for, or it is for another
            number of specific sets than there are.
    """
    match needs:
        case None:
            return Observation(None, None)
        case StepNeeds():
            return Observation(needs, StepObserver())
        case LossNeeds():
            return Observation(needs, losses)
        case AlignmentNeeds():
            return _of_alignments(needs, measured, probing=probing, interval=interval)
        case TargetNeeds():
            return _of_targets(needs, measured, probing=probing, interval=interval)
        case _:
            raise ValueError(
                "scheduler: expected a rule that observes alignments, "
                f"losses of training, the step, or nothing, found one that observes {needs}"
            )


def _of_alignments(
    needs: AlignmentNeeds, measured: Measured, *, probing: Probing, interval: int
) -> Observation:
    if needs.target == "specific":
        _check_number(measured.specific, 1)
    measurement = make_measurement(
        measured.engine,
        measured.domains,
        measured.specific[0] if needs.target == "specific" else None,
        probing=probing,
        needs=needs,
        loss=measured.loss,
        seed=measured.seed,
    )
    share = _predicted(needs, measured, probing=probing, interval=interval)
    return Observation(needs, AlignmentObserver(measurement), share)


def _of_targets(
    needs: TargetNeeds, measured: Measured, *, probing: Probing, interval: int
) -> Observation:
    _check_number(measured.specific, needs.num_targets)
    measurement = make_target_measurement(
        measured.engine,
        measured.domains,
        measured.specific,
        probing=probing,
        needs=needs,
        loss=measured.loss,
        seed=measured.seed,
    )
    share = _predicted(needs, measured, probing=probing, interval=interval)
    return Observation(needs, AlignmentObserver(measurement), share)


def _check_number(specific: Sequence[SequenceSet], expected: int) -> None:
    if len(specific) != expected:
        sets = "a specific set" if expected == 1 else f"{expected} specific sets"
        found = ", ".join(each.name for each in specific) or "None"
        raise ValueError(f"specific: expected {sets} to align with, found {found}")


def _predicted(
    needs: AlignmentNeeds | TargetNeeds, measured: Measured, *, probing: Probing, interval: int
) -> float:
    overhead = predicted_overhead(
        probing,
        num_domains=num_measured(needs, len(measured.domains)),
        interval=interval,
        global_batch_size=measured.engine.train_batch_size(),
        needs=needs,
    )
    return overhead.share
