"""A command on another machine that ends when whoever started it over ssh is gone, or cut off."""

import os
import select
import signal
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import final

from megadga.console import run_program
from megadga.launch.supervision import PULSE_S, Command, Timeouts, supervise

_TIMEOUTS = Timeouts(stop_s=35.0, end_s=10.0)
"""An agent of torchrun gives its ranks 30 s to end."""


_CUT_OFF_S = 5.0
"""For the agent to end, where ranks cannot save: they do not reach the others."""


SILENCE_S = 4 * PULSE_S
"""After which the connection counts as lost: sshd would hold it for hours."""


_AT_ONCE = 4096


def run_watched(arguments: Sequence[str], *, silence_s: float = SILENCE_S) -> int:
    """Run a command until it ends or nobody watches it any more; return its exit code.

    Args:
        arguments: The command.
        silence_s: Seconds without a line after which nobody does.
    """
    command = Command(tuple(arguments), os.environ, Path.cwd())
    watch = _Watch(sys.stdin.fileno(), silence_s)
    return supervise(
        [command], ask_to_stop=_terminate, timeouts=_TIMEOUTS, wished=watch.stop_s
    ).code


@final
class _Watch:
    """Follows the lines that come in.

    Args:
        descriptor: Of the input.
        silence_s: See ``run_watched``.
    """

    def __init__(self, descriptor: int, silence_s: float) -> None:
        self._descriptor, self._silence_s = descriptor, silence_s
        self._last = time.monotonic()

    def stop_s(self) -> float | None:
        """Return the seconds to stop in, if the input is over or silent; None: it is not."""
        now = time.monotonic()
        if select.select([self._descriptor], [], [], 0.0)[0]:
            if not os.read(self._descriptor, _AT_ONCE):
                return _TIMEOUTS.stop_s
            self._last = now
        return _CUT_OFF_S if now - self._last > self._silence_s else None


def _terminate(processes: Sequence[int]) -> None:
    for process in processes:
        os.kill(process, signal.SIGTERM)


if __name__ == "__main__":
    run_program(lambda: run_watched(sys.argv[1:]))
