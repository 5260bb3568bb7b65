"""What an update observes: losses of training, which are kept here, or measured alignments."""

from collections.abc import Mapping, Sequence
from typing import Any, final

import numpy as np
import torch

from megadga.arrays import FloatArray, IntArray
from megadga.data.domain import Domain, SequenceSet
from megadga.mixers.base import (
    AlignmentNeeds,
    DomainLosses,
    LossNeeds,
    Needs,
    StepNeeds,
    TargetNeeds,
)
from megadga.mixers.probing import Probe
from megadga.probes.engine import Engine
from megadga.probes.loss import Loss
from megadga.probes.measuring import TargetMeasurement, make_measurement, make_target_measurement
from megadga.probes.protocols import Measurement


@final
class TrainingLosses:
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

    def take(self, step: int) -> DomainLosses:
        """Return the mean losses since the last update, and begin anew. Not collective.

        Args:
            step: Optimizer steps completed so far.

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
        """Continue from ``state``."""
        self._sums = state["loss_sums"].numpy().copy()
        self._counts = state["loss_counts"].numpy().copy()
        if self._reference:
            self._reference_sums = state["reference_loss_sums"].numpy().copy()

    def _forget(self) -> None:
        self._sums = np.zeros(self._num_domains)
        self._reference_sums = np.zeros(self._num_domains)
        self._counts = np.zeros(self._num_domains, dtype=np.int64)


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


def measure_for(
    needs: Needs | None,
    engine: Engine,
    domains: Sequence[Domain],
    specific: Sequence[SequenceSet],
    *,
    probe: Probe,
    loss: Loss,
    seed: int,
) -> Measurement | TargetMeasurement | None:
    """Return what measures the alignments that a rule observes; None if it observes none.

    Collective.

    Args:
        needs: What the rule observes; None: nothing, as it never moves.
        engine: A DeepSpeed engine.
        domains: The training domains, ``K`` of them.
        specific: The specific sets, in the order of a rule's targets.
        probe: How alignments are measured.
        loss: Mean loss of tokens through a module.
        seed: Addresses the probe streams.

    Raises:
        UnsupportedEngineError: If alignments are not known to be exact on the engine.
        ValueError: If that is nothing that a training loop is observed for, or it is for another
            number of specific sets than there are.
    """
    options: dict[str, Any] = {"probe": probe, "loss": loss, "seed": seed}
    match needs:
        case None | StepNeeds() | LossNeeds():
            return None
        case AlignmentNeeds():
            if needs.target == "specific":
                _check_number(specific, 1)
            target = specific[0] if needs.target == "specific" else None
            return make_measurement(engine, domains, target, needs=needs, **options)
        case TargetNeeds():
            _check_number(specific, needs.num_targets)
            return make_target_measurement(engine, domains, specific, needs=needs, **options)
        case _:
            raise ValueError(
                "scheduler: expected a rule that observes alignments, "
                f"losses of training, the step, or nothing, found one that observes {needs}"
            )


def _check_number(specific: Sequence[SequenceSet], expected: int) -> None:
    if len(specific) != expected:
        sets = "a specific set" if expected == 1 else f"{expected} specific sets"
        found = ", ".join(each.name for each in specific) or "None"
        raise ValueError(f"specific: expected {sets} to align with, found {found}")
