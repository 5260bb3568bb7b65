"""What a mixture plugin tells of an update. Knows no engine."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, final

import numpy as np

from megadga.arrays import FloatArray
from megadga.mixing.over_basis import basis_weights
from megadga.mixing.scheduler import AlignmentNeeds, Alignments, MixtureState

MOST_DOMAINS = 4096
"""Domains whose numbers are told one by one where a basis says the same in fewer."""


@final
@dataclass(frozen=True)
class UpdateRecords:
    """Numbers by name.

    Attributes:
        domains: Names of the domains, ``K`` of them.
        needs: What was measured.
    """

    domains: tuple[str, ...]
    needs: AlignmentNeeds

    @property
    def measured(self) -> tuple[str, ...]:
        """Names of what is measured: the domains, or the basis distributions over them."""
        mixtures = self.needs.mixtures
        return self.domains if mixtures is None else mixtures.names

    def updated(
        self, alignments: Alignments, mixture: MixtureState, epochs: FloatArray
    ) -> dict[str, Any]:
        """Return an update: what was measured, and the weights after it.

        Where there are basis distributions, and more than ``MOST_DOMAINS`` domains, the latter
        have no numbers.
        """
        record: dict[str, Any] = {
            "alignments": _by_name(self.measured, alignments.dots),
            "specific_gradient_norm": float(np.sqrt(alignments.specific_squared_norm)),
        }
        if self.needs.mixtures is not None:
            record |= self._of_basis(mixture.memory)
        if self.needs.mixtures is None or len(self.domains) <= MOST_DOMAINS:
            record["weights"] = _by_name(self.domains, mixture.weights)
            record["averaged_weights"] = _by_name(self.domains, mixture.averaged_weights)
            record["epochs"] = _by_name(self.domains, epochs)
        if alignments.standard_errors is not None:
            record["standard_errors"] = _by_name(self.measured, alignments.standard_errors)
        if alignments.squared_norms is not None:
            norms = np.sqrt(alignments.squared_norms)
            record["gradient_norms"] = _by_name(self.measured, norms)
        if self.needs.preconditioned:
            record["preconditioned"] = alignments.preconditioned
        if alignments.direction_energy < 1.0:
            record["direction_energy"] = alignments.direction_energy
        return record

    def skipped(self, alignments: Alignments, mixture: MixtureState) -> dict[str, Any]:
        """Return the event of an update that was left out, with the names that are to blame."""
        finite = np.isfinite(alignments.dots)
        if alignments.squared_norms is not None:
            finite &= np.isfinite(alignments.squared_norms)
        reason = "alignments are not finite"
        if alignments.is_finite():
            reason = "left out by the rule: min_signal, warmup or freeze_after"
        blamed = [name for name, good in zip(self.measured, finite, strict=True) if not good]
        return {
            "event": "update_skipped",
            "reason": reason,
            "domains" if self.needs.mixtures is None else "basis": blamed,
            "num_skipped": mixture.num_skipped,
        }

    def _of_basis(self, memory: Mapping[str, FloatArray]) -> dict[str, Any]:
        weights, averaged = basis_weights(memory)
        return {
            "basis_weights": _by_name(self.measured, weights),
            "basis_averaged_weights": _by_name(self.measured, averaged),
        }


def _by_name(names: tuple[str, ...], values: FloatArray) -> dict[str, float]:
    return dict(zip(names, values.tolist(), strict=True))
