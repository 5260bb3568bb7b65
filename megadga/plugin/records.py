"""What a run logs of its mixture, by domain name. Knows no engine and no file."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from megadga.arrays import FloatArray
from megadga.mixing.scheduler import (
    AlignmentNeeds,
    Alignments,
    DomainLosses,
    MixtureState,
    Needs,
    Observed,
)
from megadga.plugin.overhead import ObservedOverhead


def by_name(names: Sequence[str], values: FloatArray) -> dict[str, float]:
    """Return values of shape ``(K,)`` under the names of their domains."""
    return dict(zip(names, values.tolist(), strict=True))


def weights_record(
    names: Sequence[str], mixture: MixtureState, epochs: FloatArray
) -> dict[str, Any]:
    """Return what an update leaves behind, whatever it followed.

    Args:
        names: The domains', ``K`` of them.
        mixture: After the update.
        epochs: How often each domain has been gone through, shape ``(K,)``.
    """
    return {
        "weights": by_name(names, mixture.weights),
        "averaged_weights": by_name(names, mixture.averaged_weights),
        "epochs": by_name(names, epochs),
    }


def alignments_record(
    names: Sequence[str],
    alignments: Alignments,
    needs: Needs | None,
    *,
    predicted_overhead: float,
    overhead: ObservedOverhead,
) -> dict[str, Any]:
    """Return what was measured of the domains' gradients, and what it cost.

    Args:
        names: The domains', ``K`` of them.
        alignments: What was measured.
        needs: What the rule asked for.
        predicted_overhead: Sequences read for an update as a share of training's.
        overhead: What measuring took since the last update.
    """
    record: dict[str, Any] = {
        "alignments": by_name(names, alignments.dots),
        "specific_gradient_norm": float(np.sqrt(alignments.specific_squared_norm)),
        "predicted_overhead": predicted_overhead,
        "observed_overhead": overhead.share,
        "probe_s": overhead.probe_s,
    }
    if alignments.standard_errors is not None:
        record["standard_errors"] = by_name(names, alignments.standard_errors)
    if alignments.squared_norms is not None:
        record["gradient_norms"] = by_name(names, np.sqrt(alignments.squared_norms))
    if isinstance(needs, AlignmentNeeds) and needs.preconditioned:
        record["preconditioned"] = alignments.preconditioned
    if alignments.direction_energy < 1.0:
        record["direction_energy"] = alignments.direction_energy
    return record


def skipped_record(names: Sequence[str], observed: Observed, num_skipped: int) -> dict[str, Any]:
    """Return the event of an update that was left out.

    Args:
        names: The domains', ``K`` of them.
        observed: What the rule was shown.
        num_skipped: Updates that were left out, with this one.
    """
    reason, finite = "left out by the rule", np.ones(len(names), dtype=np.bool_)
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
    return {
        "event": "update_skipped",
        "reason": reason,
        "domains": [name for name, good in zip(names, finite, strict=True) if not good],
        "num_skipped": num_skipped,
    }
