"""A command on another machine that ends when whoever started it over ssh is gone.

Knows that its standard input stays open as long as that is there.
"""

import os
import select
import signal
import sys
from collections.abc import Sequence
from pathlib import Path

from megadga.cluster.supervision import Command, Patience, supervise

_PATIENCE = Patience(stop_s=35.0, end_s=10.0)
"""An agent of torchrun gives its ranks 30 s to end."""


def run_watched(arguments: Sequence[str]) -> int:
    """Run a command until it ends or standard input does; return its exit code."""
    command = Command(tuple(arguments), os.environ, Path.cwd())
    return supervise(
        [command], ask_to_stop=_terminate, patience=_PATIENCE, wished=_input_is_over
    ).code


def _terminate(processes: Sequence[int]) -> None:
    for process in processes:
        os.kill(process, signal.SIGTERM)


def _input_is_over() -> bool:
    """Nothing is ever written to it any more: if it can be read, it is at its end."""
    return bool(select.select([sys.stdin.fileno()], [], [], 0.0)[0])


if __name__ == "__main__":
    sys.exit(run_watched(sys.argv[1:]))
