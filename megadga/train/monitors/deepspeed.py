"""The monitors that DeepSpeed's own JSON asks for: they get the run's numbers, too."""

from collections.abc import Mapping
from typing import Any, final


@final
class DeepSpeedMonitor:
    """Writes to an engine's monitors, over samples as DeepSpeed does.

    What they cannot do, they do not do here either: steps that are trained again appear twice, and
    a resumed process begins another run in services.

    Args:
        master: ``engine.monitor``, a ``MonitorMaster``.
        global_batch_size: Samples of an optimizer step.
    """

    name = "deepspeed"

    def __init__(self, master: Any, *, global_batch_size: int) -> None:
        self._master = master
        self._batch = global_batch_size

    def write(self, step: int, values: Mapping[str, float]) -> None:
        """See ``Monitor``."""
        samples = step * self._batch
        self._master.write_events([(name, value, samples) for name, value in values.items()])

    def go_back(self, step: int) -> None:
        """See ``Monitor``: there is no such thing."""

    def flush(self) -> None:
        """See ``Monitor``: each write does it."""

    def close(self) -> None:
        """See ``Monitor``: they belong to the engine."""
