"""Measures updates on the batches that are trained anyway. Knows no engine, weights or files."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, final

import numpy as np
import torch

from megadga.alignment.drawing import ProbeDraws
from megadga.alignment.estimates import Estimates, renewed, unmeasured
from megadga.alignment.protocols import TrainedBatch, TrainingProbe, Watch
from megadga.alignment.statistics import domain_alignments
from megadga.arrays import IntArray
from megadga.mixing.scheduler import Alignments


@final
class InFlightAligner:
    """Keeps an estimate of every domain's alignment, and renews what a batch shows.

    Domains that a batch did not draw keep their last estimate with a growing standard error, and
    are measured apart at the first update and every so many.

    Args:
        probe: Watches the training step.
        draws: The sequences that directions and domains apart are measured on; of domains, as a
            batch's sequence is of one domain and of no mixture.
        refresh_every: Updates between those at which domains that were not drawn are measured.
    """

    def __init__(self, probe: TrainingProbe, draws: ProbeDraws, *, refresh_every: int) -> None:
        self._probe = probe
        self._draws = draws
        self._refresh_every = refresh_every
        self._estimates = unmeasured(draws.num_measured)
        self._prepared: _Prepared | None = None

    def prepare(self, update: int, batch: TrainedBatch) -> None:
        """Find the direction, measure what is due apart, and watch the step. Collective."""
        absent = np.bincount(batch.domains, minlength=self._draws.num_measured) == 0
        due = absent & (self._estimates.counts == 0)
        if update % self._refresh_every == 0:
            due = absent
        apart = np.flatnonzero(due)
        watch = self._probe.start(
            update,
            self._draws.target(update),
            [self._draws.measured(update, int(index)) for index in apart],
        )
        self._prepared = _Prepared(batch, watch, apart)

    def measure(self, update: int) -> Alignments:  # noqa: ARG002  (the one that was prepared)
        """Return the estimates with what the trained batch has shown. Collective.

        Estimates that are not finite are returned, but not kept.
        """
        assert self._prepared is not None
        batch, watch, domains = self._prepared.batch, self._prepared.watch, self._prepared.apart
        self._prepared = None
        along = np.concatenate([self._probe.finish(batch), watch.apart.along])
        num_targets = np.concatenate(
            [np.full(batch.domains.size, batch.sequence_length), watch.apart.num_targets]
        )
        owners = np.concatenate([batch.domains, domains[watch.apart.sets]])
        sampled = domain_alignments(along, num_targets, owners, self._draws.num_measured)
        estimates = renewed(self._estimates, sampled)
        if np.isfinite(estimates.dots).all():
            self._estimates = estimates
        return Alignments(
            dots=estimates.dots,
            specific_squared_norm=watch.specific_squared_norm,
            standard_errors=estimates.current_errors(),
            direction_energy=watch.direction_energy,
            preconditioned=watch.preconditioned,
        )

    def close(self) -> None:
        """Stop watching a step that was prepared and never trained."""
        self._probe.close()
        self._prepared = None

    def state_dict(self) -> dict[str, Any]:
        """Return what the next measurement depends on; equal on every rank."""
        arrays = self._estimates.state()
        return {
            "probe": self._probe.state_dict(),
            "estimates": {name: torch.from_numpy(array) for name, array in arrays.items()},
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue from ``state``."""
        self._probe.load_state_dict(state["probe"])
        arrays = {name: tensor.numpy() for name, tensor in state["estimates"].items()}
        self._estimates = Estimates.from_state(arrays)


@dataclass(frozen=True, eq=False)
class _Prepared:
    """An update whose step is being trained."""

    batch: TrainedBatch
    watch: Watch
    apart: IntArray
