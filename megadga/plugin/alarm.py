"""Tells when a mixture collapses onto few domains. Knows its weights, not what moves them."""

from collections.abc import Callable, Mapping
from typing import Any, final

from megadga.arrays import FloatArray
from megadga.mixing.guards import effective_domains, entropy_alarm
from megadga.plugin.protocol import Metrics


@final
class CollapseAlarm:
    """A plugin that logs an event when the weights fall below a number of effective domains.

    Once when they fall, not at every step that they stay there.

    Args:
        weights: Returns the mixture that batches are sampled from, shape ``(K,)``.
        min_effective: Least number of `effective_domains` that is no cause for alarm.
    """

    name = "collapse_alarm"

    def __init__(self, weights: Callable[[], FloatArray], *, min_effective: float) -> None:
        self._weights = weights
        self._min_effective = min_effective
        self._low = self._is_low()

    def after_step(self, step: int) -> Metrics:  # noqa: ARG002  (the weights say it all)
        """Return an ``event`` if the weights have fallen since the last call. Not collective."""
        was_low, self._low = self._low, self._is_low()
        if was_low or not self._low:
            return {}
        event = {
            "event": "few_effective_domains",
            "effective_domains": effective_domains(self._weights()),
            "min_effective_domains": self._min_effective,
        }
        return {"event": event}

    def state_dict(self) -> dict[str, Any]:
        """Return whether the fall has been told."""
        return {"low": self._low}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue from ``state``."""
        self._low = bool(state["low"])

    def _is_low(self) -> bool:
        return entropy_alarm(self._weights(), min_effective=self._min_effective)
