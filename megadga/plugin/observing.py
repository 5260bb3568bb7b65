"""What a rule's updates observe: alignments, losses of training, or the step. Knows no rule."""

from collections.abc import Mapping
from typing import Any, Protocol, final

import numpy as np
import torch

from megadga.alignment.protocols import Measurement, TrainedBatch
from megadga.alignment.targets import TargetAligner
from megadga.arrays import FloatArray, IntArray
from megadga.mixing.scheduler import DomainLosses, Observed, StepNumber


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
