"""Observations for scheduler updates: accumulated training losses or measured alignments."""

from collections.abc import Mapping, Sequence
from typing import Any, final

import numpy as np
import torch

from megadga.arrays import FloatArray, IntArray
from megadga.data.domain import SequenceSet
from megadga.data.resampling import WindowNorms
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
    """Accumulates reported training losses between updates.

    Args:
        num_domains: ``K``.
        reference: Whether a reference model's losses are accumulated as well.
        output_norms: Whether norms of the loss's gradient at the output are.
    """

    def __init__(
        self, num_domains: int, *, reference: bool = False, output_norms: bool = False
    ) -> None:
        self._num_domains = num_domains
        self._reference = reference
        self._norms = output_norms
        self._reset()

    def add(
        self,
        domains: IntArray,
        losses: FloatArray,
        reference_losses: FloatArray | None = None,
        num_targets: IntArray | None = None,
        output_norms: FloatArray | None = None,
    ) -> None:
        """Add the losses of sequences.

        Args:
            domains: Domain of each, in ``[0, K)``, shape ``(N,)``.
            losses: Mean loss of each, nats per token, shape ``(N,)``.
            reference_losses: A reference model's losses, same shape; ignored if not accumulated.
            num_targets: Targets of each, by which means are weighted, same shape; None: as many of
                each.
            output_norms: Norms of the loss's gradient at the output, same shape; ignored if not
                accumulated.

        Raises:
            ValueError: If the shapes differ, a domain index is out of range, or required reference
                losses or norms are missing.
        """
        if domains.ndim != 1 or domains.shape != losses.shape:
            raise ValueError(
                "observe_losses: expected domains and losses of one shape (N,), found "
                f"{domains.shape} and {losses.shape}"
            )
        if num_targets is not None and num_targets.shape != domains.shape:
            raise ValueError(
                f"observe_losses: expected num_targets of shape {domains.shape}, "
                f"found {num_targets.shape}"
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
            self._reference_sums += self._summed(domains, reference_losses, num_targets)
        if self._norms:
            if output_norms is None or output_norms.shape != domains.shape:
                found = None if output_norms is None else output_norms.shape
                raise ValueError(
                    "observe_losses: expected norms of the loss's gradient at the output, of "
                    f"shape {domains.shape}, found {found}"
                )
            self._norm_sums += self._summed(domains, output_norms, num_targets)
        self._sums += self._summed(domains, losses, num_targets)
        counts = np.bincount(domains, num_targets, minlength=self._num_domains)
        self._counts += counts.astype(np.int64)

    def take(self, step: int) -> DomainLosses:
        """Return the mean losses since the last update and reset. Not collective.

        Args:
            step: Optimizer steps completed so far.

        Raises:
            ValueError: If no losses were reported.
        """
        if not self._counts.any():
            raise ValueError(
                "observe_losses: expected the losses of the steps since the last update, "
                "before after_step, found none"
            )
        drawn = np.maximum(self._counts, 1)
        reference = self._reference_sums / drawn if self._reference else None
        norms = self._norm_sums / drawn if self._norms else None
        observed = DomainLosses(self._sums / drawn, self._counts, step, reference, norms)
        self._reset()
        return observed

    def state_dict(self) -> dict[str, Any]:
        """Return the accumulated sums."""
        state = {
            "loss_sums": torch.from_numpy(self._sums.copy()),
            "loss_counts": torch.from_numpy(self._counts.copy()),
        }
        if self._reference:
            state["reference_loss_sums"] = torch.from_numpy(self._reference_sums.copy())
        if self._norms:
            state["norm_sums"] = torch.from_numpy(self._norm_sums.copy())
        return state

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore ``state``."""
        self._sums = state["loss_sums"].numpy().copy()
        self._counts = state["loss_counts"].numpy().copy()
        if self._reference:
            self._reference_sums = state["reference_loss_sums"].numpy().copy()
        if self._norms:
            self._norm_sums = state["norm_sums"].numpy().copy()

    def _summed(
        self, domains: IntArray, losses: FloatArray, num_targets: IntArray | None
    ) -> FloatArray:
        weighted = losses if num_targets is None else losses * num_targets
        return np.bincount(domains, weighted, minlength=self._num_domains).astype(np.float64)

    def _reset(self) -> None:
        self._sums = np.zeros(self._num_domains)
        self._reference_sums = np.zeros(self._num_domains)
        self._norm_sums = np.zeros(self._num_domains)
        self._counts = np.zeros(self._num_domains, dtype=np.int64)


@final
class ObservedWindows:
    """Norms of windows by which batches are drawn, and those that were observed since.

    Batches are planned ahead until the next update of the weights, so what they are drawn by stays
    until then.

    Args:
        sizes: Windows of each domain, shape ``(K,)``.

    Attributes:
        norms: What batches are drawn by.
    """

    def __init__(self, sizes: IntArray) -> None:
        self.norms = WindowNorms.unknown(sizes)
        self._places = np.empty(0, dtype=np.int64)
        self._observed = np.empty(0)

    def add(self, domains: IntArray, windows: IntArray, norms: FloatArray) -> None:
        """Add the norms of a step's windows, all of shape ``(B,)``."""
        self._places = np.append(self._places, self.norms.places(domains, windows))
        self._observed = np.append(self._observed, norms)

    def renew(self) -> WindowNorms:
        """Return the norms that batches are drawn by from now on."""
        self.norms = self.norms.observed(self._places, self._observed)
        self._places, self._observed = np.empty(0, dtype=np.int64), np.empty(0)
        return self.norms

    def state_dict(self) -> dict[str, Any]:
        """Return all norms."""
        return {
            "norms": torch.from_numpy(self.norms.values.copy()),
            "places": torch.from_numpy(self._places.copy()),
            "observed": torch.from_numpy(self._observed.copy()),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore ``state``."""
        self.norms = WindowNorms(self.norms.sizes, state["norms"].numpy().copy())
        self._places = state["places"].numpy().copy()
        self._observed = state["observed"].numpy().copy()


def as_target_sets(
    specific: SequenceSet | Sequence[SequenceSet] | None,
) -> tuple[SequenceSet, ...]:
    """Return the specific sets as a tuple.

    Raises:
        ValueError: If two have the same name.
    """
    if specific is None:
        return ()
    targets = tuple(specific) if isinstance(specific, Sequence) else (specific,)
    names = [target.name for target in targets]
    if len(set(names)) < len(names):
        raise ValueError(f"specific: expected different names, found {', '.join(names)}")
    return targets


def build_measurement(
    needs: Needs | None,
    engine: Engine,
    domains: Sequence[SequenceSet],
    specific: Sequence[SequenceSet],
    *,
    probe: Probe,
    loss: Loss,
    seed: int,
    numbers: IntArray | None = None,
) -> Measurement | TargetMeasurement | None:
    """Return the measurement of the alignments that a scheduler needs; None if it needs none.

    Collective.

    Args:
        needs: What the rule observes; None: nothing, as it never moves.
        engine: A DeepSpeed engine.
        domains: The training domains, ``K`` of them.
        specific: The specific sets, in the order of a rule's targets.
        probe: How alignments are measured.
        loss: Mean loss of tokens through a module.
        seed: Addresses the probe streams.
        numbers: What addresses those of the domains and, last, of the specific set, shape
            ``(K + 1,)``; None: their index.

    Raises:
        UnsupportedEngineError: If alignments are not known to be exact on the engine.
        ValueError: If that is nothing that a training loop is observed for, or it is for another
            number of specific sets than there are.
    """
    options: dict[str, Any] = {"probe": probe, "loss": loss, "seed": seed, "numbers": numbers}
    match needs:
        case None | StepNeeds() | LossNeeds():
            return None
        case AlignmentNeeds():
            if needs.target == "specific":
                _check_num_sets(specific, 1)
            target = specific[0] if needs.target == "specific" else None
            return make_measurement(engine, domains, target, needs=needs, **options)
        case TargetNeeds():
            _check_num_sets(specific, needs.num_targets)
            return make_target_measurement(engine, domains, specific, needs=needs, **options)
        case _:
            raise ValueError(
                "scheduler: expected a rule that observes alignments, "
                f"losses of training, the step, or nothing, found one that observes {needs}"
            )


def _check_num_sets(specific: Sequence[SequenceSet], expected: int) -> None:
    if len(specific) != expected:
        sets = "a specific set" if expected == 1 else f"{expected} specific sets"
        found = ", ".join(each.name for each in specific) or "None"
        raise ValueError(f"specific: expected {sets} to align with, found {found}")
