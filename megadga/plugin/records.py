"""What a mixture plugin tells of an update, by name. Knows no engine and no file."""

from dataclasses import dataclass
from typing import Any, final

import numpy as np

from megadga.arrays import FloatArray
from megadga.mixing.averages import average_weights, keeps_average
from megadga.mixing.mixtures import Mixtures
from megadga.mixing.over_basis import basis_weights
from megadga.mixing.scheduler import (
    AlignmentNeeds,
    Alignments,
    DomainLosses,
    MixtureState,
    Needs,
    Observed,
)

MOST_DOMAINS = 4096
"""Domains whose numbers are told one by one where a basis says the same in fewer."""
MEAN_WEIGHTS = "mean_weights"
"""Where an update has the mean of its rule's weights over the run, if the rule keeps one."""


@final
@dataclass(frozen=True)
class UpdateRecords:
    """Numbers by name.

    Attributes:
        domains: Names of the domains, ``K`` of them.
        needs: What the rule asked for.
    """

    domains: tuple[str, ...]
    needs: Needs | None

    @property
    def measured(self) -> tuple[str, ...]:
        """Names of what is measured: the domains, or the basis distributions over them."""
        return self.domains if self._mixtures is None else self._mixtures.names

    def weights(self, mixture: MixtureState, epochs: FloatArray) -> dict[str, Any]:
        """Return what an update leaves behind, whatever it followed.

        Where there are basis distributions, and more than ``MOST_DOMAINS`` domains, the latter
        have no numbers.

        Args:
            mixture: After the update.
            epochs: How often each domain has been gone through, shape ``(K,)``.
        """
        record: dict[str, Any] = {}
        if self._mixtures is not None:
            of_rows, averaged = basis_weights(mixture.memory)
            record["basis_weights"] = _by_name(self.measured, of_rows)
            record["basis_averaged_weights"] = _by_name(self.measured, averaged)
        if self._mixtures is None or len(self.domains) <= MOST_DOMAINS:
            record["weights"] = _by_name(self.domains, mixture.weights)
            record["averaged_weights"] = _by_name(self.domains, mixture.averaged_weights)
            record["epochs"] = _by_name(self.domains, epochs)
        if keeps_average(mixture):
            record[MEAN_WEIGHTS] = _by_name(self.domains, average_weights(mixture))
        return record

    def alignments(self, alignments: Alignments) -> dict[str, Any]:
        """Return what was measured."""
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

    def skipped(self, observed: Observed, mixture: MixtureState) -> dict[str, Any]:
        """Return the event of an update that was left out, with the names that are to blame.

        Args:
            observed: What the rule was shown.
            mixture: After the update.
        """
        reason, finite = "left out by the rule", np.ones(len(self.measured), dtype=np.bool_)
        match observed:
            case Alignments():
                finite = np.isfinite(observed.dots)
                if observed.squared_norms is not None:
                    finite &= np.isfinite(observed.squared_norms)
                reason = "alignments are not finite"
                if observed.is_finite():
                    reason = "left out by the rule: min_signal, warmup or freeze_after"
            case DomainLosses():
                finite = np.isfinite(observed.losses)
                if not observed.is_finite():
                    reason = "losses are not finite"
            case _:
                pass
        blamed = [name for name, good in zip(self.measured, finite, strict=True) if not good]
        return {
            "event": "update_skipped",
            "reason": reason,
            "domains" if self._mixtures is None else "basis": blamed,
            "num_skipped": mixture.num_skipped,
        }

    @property
    def _target(self) -> str:
        of_domains = isinstance(self.needs, AlignmentNeeds) and self.needs.target == "domains"
        return "mean" if of_domains else "specific"

    @property
    def _mixtures(self) -> Mixtures | None:
        return self.needs.mixtures if isinstance(self.needs, AlignmentNeeds) else None


def _by_name(names: tuple[str, ...], values: FloatArray) -> dict[str, float]:
    return dict(zip(names, values.tolist(), strict=True))
