"""The reference probe: every domain's gradient, reduce-scattered into shards and multiplied there.

Exact for any module and every ZeRO stage. Its cost grows with the number of domains: one forward
and backward pass and one reduce-scatter of a whole gradient for each.
"""

from collections.abc import Mapping, Sequence
from typing import Any, final

import numpy as np

from megadga.arrays import FloatArray
from megadga.mixers.base import Alignments
from megadga.probes.directions import Preconditioning, specific_gradient
from megadga.probes.passes import ProbePasses
from megadga.probes.sequences import (
    PackedSequences,
    ProbeSequences,
    ProbeSequenceSampler,
    TrainedBatch,
)


@final
class ShardedMeasurement:
    """Measures alignments through ``torch.autograd.grad`` on ``engine.module``.

    Args:
        passes: Forward and backward passes on an engine.
        preconditioning: Whether the specific gradient is divided by AdamW's denominators.
        draws: The sequences that are measured.
    """

    def __init__(
        self, passes: ProbePasses, preconditioning: Preconditioning, draws: ProbeSequenceSampler
    ) -> None:
        self._passes = passes
        self._preconditioning = preconditioning
        self._draws = draws

    def prepare(self, update: int, batch: TrainedBatch) -> None:
        """Do nothing: the step that is trained does not matter."""

    def measure(self, update: int) -> Alignments:
        """Measure every domain; see ``Measurement``. Memory: two shards and one bucket."""
        self._passes.refresh()
        domains = self._draws.all_measured(update)
        num_domains = len(domains)
        numbers = np.empty(2 * num_domains)
        target = PackedSequences([self._draws.target(update)])
        found = specific_gradient(self._passes, target, self._preconditioning)
        for i, drawn in enumerate(domains):
            gradient = self._passes.gradient(PackedSequences([drawn]))
            numbers[i] = gradient.dot(found.shard)
            numbers[num_domains + i] = gradient.dot(gradient)
        total = self._passes.collective.agreed_sum(numbers)
        return Alignments(
            dots=total[:num_domains],
            squared_norms=total[num_domains:],
            specific_squared_norm=found.squared_norm,
            preconditioned=found.preconditioned,
        )

    def close(self) -> None:
        """Do nothing: the model is held only while it is measured."""

    def state_dict(self) -> dict[str, Any]:
        """Return nothing: measurements are independent."""
        return {}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Do nothing: there is no state."""


def squared_norms(passes: ProbePasses, domains: Sequence[ProbeSequences]) -> FloatArray:
    """Return ``|g_i|^2`` of every domain, shape ``(K,)``, a gradient for each. Collective."""
    numbers = np.empty(len(domains))
    for i, drawn in enumerate(domains):
        gradient = passes.gradient(PackedSequences([drawn]))
        numbers[i] = gradient.dot(gradient)
    return passes.collective.agreed_sum(numbers)
