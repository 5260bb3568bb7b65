"""The metrics of a run on all of its ranks."""

from contextlib import suppress
from typing import final

from megadga.plugin import Metrics
from megadga.train.advising import Advisor
from megadga.train.metrics import MetricFanOut
from megadga.train.ranks import CollectiveFlag
from megadga.train.storage import Storage
from megadga.train.waiting import PauseInterruptedError


@final
class CollectiveMetrics:
    """The metrics of a run, whose ranks wait together until rank 0 can write them.

    Args:
        sinks: Those of this rank.
        storage: The run's file system.
        advisor: Judges the run by its records, on rank 0; None elsewhere.
    """

    def __init__(
        self, sinks: MetricFanOut, storage: Storage, advisor: Advisor | None = None
    ) -> None:
        self.waiting = CollectiveFlag(lambda: sinks.waiting)
        """Whether records wait to be written; to be updated in every step."""
        self._sinks = sinks
        self._storage = storage
        self._advisor = advisor

    def log(self, step: int, metrics: Metrics) -> None:
        """Log the records of optimizer step ``step``, and what is found by them."""
        found = [] if self._advisor is None else self._advisor.observe(step, metrics)
        self._sinks.log(step, metrics)
        for event in found:
            self._sinks.log(step, {"event": event})

    def settle(self) -> None:
        """Wait until all records are written; costs nothing if they are. Collective.

        Raises:
            MegadgaError: If that takes longer than the run waits; on every rank.
        """
        if self.waiting.raised():
            with suppress(PauseInterruptedError):
                self._storage.first("metrics", self._sinks.check)
