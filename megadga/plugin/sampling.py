"""Logs the sampler's state now and then, so that the batch of any step can be planned again."""

from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, final

from megadga.errors import ConfigError
from megadga.plugin.mixture import MixturePlugin
from megadga.plugin.protocol import Metrics
from megadga.report.sampling import (
    SAMPLER,
    BatchLayout,
    SamplerRecord,
    read_sampling,
    record_interval,
    sampler_values,
)


@final
class SamplerRecords:
    """A plugin that logs the cursors and averaged weights, exactly, every some steps.

    It comes after the mixture, whose state after its update is logged.

    Args:
        mixture: The run's.
        layout: Of its batches.
    """

    name = "sampler_records"

    def __init__(self, mixture: MixturePlugin, layout: BatchLayout) -> None:
        self._mixture = mixture
        self._layout = layout
        self._interval = record_interval(len(mixture.names), layout.global_batch_size)

    def after_step(self, step: int) -> Metrics:
        """Return a ``sampler`` record if one is due. Not collective."""
        return self.record() if step % self._interval == 0 else {}

    def first(self, metrics: Path) -> Metrics:
        """Return the record of the state that a process starts from, if it is needed.

        After a resume with the same layout it is not: the steps before determine it.

        Args:
            metrics: The run's ``metrics.jsonl``, up to that state.
        """
        with suppress(ConfigError):  # there is none yet
            if read_sampling(metrics, None).sampler.layout == self._layout:
                return {}
        return self.record()

    def record(self) -> Metrics:
        """Return the ``sampler`` record of the present state."""
        mixture = self._mixture
        record = SamplerRecord(
            mixture.step, mixture.cursors, mixture.rule_weights, mixture.frozen, self._layout
        )
        return {SAMPLER: sampler_values(record)}

    def state_dict(self) -> dict[str, Any]:
        """Return nothing: all that is logged is the mixture's state."""
        return {}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Do nothing: there is no state."""
