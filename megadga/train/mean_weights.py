"""The mean of a run's weights, as the mixture of a static run. Knows no rule and no engine."""

from collections.abc import Callable
from pathlib import Path
from typing import final

from megadga.config.source import dump_line
from megadga.plugin import Metrics
from megadga.plugin.records import MEAN_WEIGHTS
from megadga.shards.files import written_whole


@final
class MeanWeightsFile:
    """Keeps ``mean_weights.yaml`` up to date for rules that keep a mean; a ``MetricSink``.

    The file is one line, ``{type: static, weights: {domain: weight}}``: what follows ``mixing:``
    in the file of a run at those weights, or ``mixing=`` in an override. It is written at the
    steps that a checkpoint ends, and at the last one.

    Args:
        path: The file; its folder exists.
        due: Whether optimizer step ``step`` (from 1) ends with a checkpoint.
        last_step: Optimizer steps of the whole run.
    """

    def __init__(self, path: Path, *, due: Callable[[int], bool], last_step: int) -> None:
        self._path = path
        self._due = due
        self._last_step = last_step
        self._weights: dict[str, float] | None = None

    def log(self, step: int, metrics: Metrics) -> None:
        """Take the records of optimizer step ``step``."""
        update = metrics.get("update", {})
        self._weights = update.get(MEAN_WEIGHTS, self._weights)
        # Without an update since this process started, the file is what it has to be.
        if self._weights is not None and (self._due(step) or step == self._last_step):
            line = dump_line({"type": "static", "weights": self._weights})
            with written_whole(self._path) as file:
                file.write(line.encode())
