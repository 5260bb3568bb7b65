"""Bounds the metrics file: values by domain are logged so often that they do not fill it."""

from collections.abc import Mapping
from typing import Any, final

import numpy as np

from megadga.mixers.safeguards import effective_domains
from megadga.mixers.updates import UpdateSteps
from megadga.plugin import Metrics
from megadga.plugin.records import BY_DOMAIN
from megadga.report.history import SUMMARY
from megadga.train.metrics import MetricSink

DOMAINS_PER_STEP = 16
"""Domains whose values an optimizer step may add to the file, on average: a few kilobytes."""


@final
class ThinnedRecords:
    """Forwards records, of which some without values by domain; a ``MetricSink``.

    An update or evaluation is forwarded whole if it is the first since a multiple of so many
    steps, or the last of the run. Another update becomes an ``update_summary``: its values that
    are not by domain, and ``effective_domains``. Another evaluation has no ``domains``. This
    depends on the step alone, so that a resumed run logs what the uninterrupted one does.

    Args:
        sink: Receives the records.
        every: Steps between whole records, at least 1; None: as ``DOMAINS_PER_STEP`` says.
        updates: The steps after which there are updates; None: there are none.
        evaluation_interval: Optimizer steps between evaluations, at least 1.
        last_step: Total optimizer steps of the run.
    """

    def __init__(
        self,
        sink: MetricSink,
        *,
        every: int | None,
        updates: UpdateSteps | None,
        evaluation_interval: int,
        last_step: int,
    ) -> None:
        self._sink = sink
        self._every = every
        self._updates = updates
        self._evaluation_interval = evaluation_interval
        self._last_step = last_step

    def log(self, step: int, metrics: Metrics) -> None:
        """Log the records of optimizer step ``step``."""
        self._sink.log(
            step, dict(self._thinned(step, kind, record) for kind, record in metrics.items())
        )

    def _thinned(self, step: int, kind: str, record: dict[str, Any]) -> tuple[str, dict[str, Any]]:
        match kind:
            case "update" if self._updates is not None:
                size = max(len(record.get(key, ())) for key in BY_DOMAIN)
                if not self._is_due(step, self._updates.interval_at(step), size):
                    return SUMMARY, _summary(record)
            case "evaluation":
                if not self._is_due(step, self._evaluation_interval, len(record["domains"])):
                    return kind, {key: record[key] for key in record if key != "domains"}
            case _:
                pass
        return kind, record

    def _is_due(self, step: int, interval: int, size: int) -> bool:
        """Return whether a record with ``size`` domains is logged whole; the last was one ago."""
        every = self._every or max(1, size // DOMAINS_PER_STEP)
        return step // every > (step - interval) // every or step + interval > self._last_step


def _summary(update: Mapping[str, Any]) -> dict[str, Any]:
    summary = {key: value for key, value in update.items() if key not in BY_DOMAIN}
    weights = update.get("averaged_weights") or update["basis_averaged_weights"]
    return {**summary, "effective_domains": effective_domains(np.array([*weights.values()]))}
