"""Bounds the metrics file: values by domain are logged so often that they do not fill it."""

from collections.abc import Mapping
from typing import Any, final

from megadga.mixers.updates import UpdateSteps
from megadga.plugin import Metrics
from megadga.plugin.protocol import bounded
from megadga.plugin.records import BY_DOMAIN
from megadga.report.history import SUMMARY
from megadga.run_folder.domain_log import WINDOWS
from megadga.train.metrics import MetricSink

DOMAINS_PER_STEP = 16
"""Domains whose values an optimizer step may add to the file, on average: a few kilobytes."""


@final
class ThinnedRecords:
    """Forwards records, of which some without values by domain; a ``MetricSink``.

    An update or evaluation is forwarded whole if it is the first since a multiple of so many
    steps, or the last of the run. Another update becomes an ``update_summary``: its values that
    are not by domain. Another evaluation has no ``domains``. This depends on the step alone, so
    that a resumed run logs what the uninterrupted one does. What only the log by domain has is
    left out of all: epochs at evaluations, windows, and values of each domain where a basis says
    them (``bounded``).

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
            case "update":
                record = bounded(record)
                size = max(len(record.get(key, ())) for key in BY_DOMAIN)
                if self._updates is not None and not self._is_due(
                    step, self._updates.interval_at(step), size
                ):
                    return SUMMARY, _without(record, *BY_DOMAIN)
            case "evaluation":
                record = _without(record, "epochs")
                if not self._is_due(step, self._evaluation_interval, len(record["domains"])):
                    return kind, _without(record, "domains")
            case "event":
                record = _without(bounded(record), WINDOWS)
            case _:
                pass
        return kind, record

    def _is_due(self, step: int, interval: int, size: int) -> bool:
        """Return whether a record with ``size`` domains is logged whole; the last was one ago."""
        every = self._every or max(1, size // DOMAINS_PER_STEP)
        return step // every > (step - interval) // every or step + interval > self._last_step


def _without(record: Mapping[str, Any], *keys: str) -> dict[str, Any]:
    return {key: value for key, value in record.items() if key not in keys}
