"""TensorBoard: event files in a folder."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, final

from megadga.prepare.extras import import_extra

_FLUSH_S = 10


@final
class TensorBoardMonitor:
    """Writes scalars, one event a step. It goes on where the run does: readers drop what is later.

    Args:
        folder: Of event files; each process adds one.
        step: Optimizer steps completed when the process starts.
    """

    name = "tensorboard"

    def __init__(self, folder: Path, *, step: int) -> None:
        board: Any = import_extra("torch.utils.tensorboard", extra="monitors")
        self._protocol: Any = import_extra("tensorboard.compat.proto.event_pb2", extra="monitors")
        self._summaries: Any = import_extra(
            "tensorboard.compat.proto.summary_pb2", extra="monitors"
        )
        self._writer = board.FileWriter(folder, flush_secs=_FLUSH_S)
        self.go_back(step)

    def write(self, step: int, values: Mapping[str, float]) -> None:
        """See ``Monitor``."""
        value = self._summaries.Summary.Value
        scalars = [value(tag=tag, simple_value=number) for tag, number in values.items()]
        self._writer.add_summary(self._summaries.Summary(value=scalars), step)

    def go_back(self, step: int) -> None:
        """See ``Monitor``: a start of a session, before which steps from its own on are void."""
        session = self._protocol.SessionLog
        event = self._protocol.Event(session_log=session(status=session.START))
        self._writer.add_event(event, step + 1)

    def flush(self) -> None:
        """See ``Monitor``."""
        self._writer.flush()

    def close(self) -> None:
        """See ``Monitor``."""
        self._writer.close()
