"""The directional probe: derivatives along the specific gradient, one per sequence.

With ``v`` the specific gradient, ``a_i = <grad l(x_i), v>`` is the derivative of
``l(theta + t v; x_i)`` in ``t``. All domains share micro-batches that are spread over the ranks,
no gradient of a domain is formed or reduced, and the cost depends on the number of sequences
alone.
"""

from collections.abc import Mapping, Sequence
from typing import Any, final

import numpy as np

from megadga.mixers.base import Alignments
from megadga.probes.check import ProbeCheck
from megadga.probes.directions import DirectionSource
from megadga.probes.passes import ProbePasses
from megadga.probes.sequences import PackedSequences, ProbeSequences
from megadga.probes.sharded import squared_norms
from megadga.probes.statistics import domain_alignments


@final
class DirectionalProbe:
    """Measures alignments with one pass over all domains' sequences.

    Args:
        passes: Forward and backward passes on an engine.
        source: Finds each update's direction.
        check: Has looked at the module.
        norms: Whether ``|g_i|`` is measured too: a whole gradient of every domain, reduced over
            the ranks, which costs more than all the rest.
    """

    def __init__(
        self, passes: ProbePasses, source: DirectionSource, check: ProbeCheck, *, norms: bool
    ) -> None:
        self._passes = passes
        self._source = source
        self._norms = norms
        self._check = check

    def measure(
        self, update: int, specific: ProbeSequences, domains: Sequence[ProbeSequences]
    ) -> Alignments:
        """Measure every domain; see ``GradientProbe``."""
        self._passes.refresh()
        self._check.refresh()
        target, packed = PackedSequences([specific]), PackedSequences(domains)
        aim = self._source.aim(update, target)
        found = self._passes.derivatives(packed, aim.direction)
        sampled = domain_alignments(
            found.along, found.num_targets, packed.sets_of_rows, len(domains)
        )
        errors = sampled.standard_errors
        return Alignments(
            dots=sampled.means,
            specific_squared_norm=aim.squared_norm,
            squared_norms=squared_norms(self._passes, domains) if self._norms else None,
            standard_errors=errors if np.isfinite(errors).all() else None,
            direction_energy=aim.energy,
            preconditioned=aim.preconditioned,
        )

    def state_dict(self) -> dict[str, Any]:
        """Return what the next direction depends on."""
        return self._source.state_dict()

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue from ``state``."""
        self._source.load_state_dict(state)
