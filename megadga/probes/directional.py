"""The directional probe: derivatives along the specific gradient, one per sequence.

With ``v`` the specific gradient, ``a_i = <grad l(x_i), v>`` is the derivative of
``l(theta + t v; x_i)`` in ``t``. All domains share micro-batches that are spread over the ranks,
no gradient of a domain is formed or reduced, and the cost depends on the number of sequences
alone.
"""

from collections.abc import Mapping
from typing import Any, final

import numpy as np

from megadga.mixers.base import Alignments
from megadga.probes.check import ProbeCheck
from megadga.probes.directions import DirectionSource
from megadga.probes.passes import ProbePasses
from megadga.probes.sequences import PackedSequences, ProbeSequenceSampler, TrainedBatch
from megadga.probes.sharded import squared_norms
from megadga.probes.statistics import domain_alignments


@final
class DirectionalMeasurement:
    """Measures alignments with one pass over all domains' sequences.

    Args:
        passes: Forward and backward passes on an engine.
        source: Finds each update's direction.
        check: Has looked at the module.
        draws: The sequences that are measured.
        norms: Whether ``|g_i|`` is measured too: a whole gradient of every domain, reduced over
            the ranks, which costs more than all the rest.
    """

    def __init__(
        self,
        passes: ProbePasses,
        source: DirectionSource,
        check: ProbeCheck,
        draws: ProbeSequenceSampler,
        *,
        norms: bool,
    ) -> None:
        self._passes = passes
        self._source = source
        self._check = check
        self._draws = draws
        self._norms = norms

    def prepare(self, update: int, batch: TrainedBatch) -> None:
        """Do nothing: the step that is trained does not matter."""

    def measure(self, update: int) -> Alignments:
        """Measure every domain; see ``Measurement``."""
        self._passes.refresh()
        self._check.refresh()
        domains = self._draws.all_measured(update)
        target, packed = PackedSequences([self._draws.target(update)]), PackedSequences(domains)
        toward = self._source.direction(update, target)
        found = self._passes.derivatives(packed, toward.direction)
        sampled = domain_alignments(
            found.along, found.num_targets, packed.sets_of_rows, len(domains)
        )
        errors = sampled.standard_errors
        return Alignments(
            dots=sampled.means,
            specific_squared_norm=toward.squared_norm,
            squared_norms=squared_norms(self._passes, domains) if self._norms else None,
            standard_errors=errors if np.isfinite(errors).all() else None,
            counts=sampled.counts,
            direction_energy=toward.energy,
            preconditioned=toward.preconditioned,
        )

    def close(self) -> None:
        """Do nothing: the model is held only while it is measured."""

    def state_dict(self) -> dict[str, Any]:
        """Return what the next direction depends on."""
        return self._source.state_dict()

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue from ``state``."""
        self._source.load_state_dict(state)
