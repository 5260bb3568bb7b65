"""One rank of the check: ``python -m gpu_checks.worker SETTING EVENTS BACKEND STAGE=LIMIT ...``.

Writes a line of JSON to EVENTS when a stage begins, for each row that it measures and when it
ends. A stage that fails ends the process: what it leaves behind is nothing to measure on.
"""

import json
import math
import os
import sys
import time
import traceback
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import deepspeed
import torch
import torch.distributed as dist

from megadga.console import run_program

from .constants import constants
from .environment import environment
from .exactness import exactness, two_ranks
from .no_trace import no_trace
from .profiling import profiling
from .resuming import resuming
from .setting import Deadline, Setting, StageFunction
from .speed import speed
from .training import training

FUNCTIONS: Mapping[str, StageFunction] = {
    "environment": environment,
    "exactness": exactness,
    "two_ranks": two_ranks,
    "no_trace": no_trace,
    "resuming": resuming,
    "speed": speed,
    "constants": constants,
    "profiling": profiling,
    "training": training,
}


class Events:
    """What the first rank has to say; others say nothing.

    Args:
        path: Appended to.
    """

    def __init__(self, path: Path) -> None:
        self._path = path

    def write(self, event: str, **values: Any) -> None:
        """Append one line, at once."""
        if os.environ["RANK"] == "0":
            with self._path.open("a") as file:
                file.write(json.dumps({"event": event, **_finite(values)}) + "\n")


def _finite(value: Any) -> Any:
    """Return a value that JSON has words for: what is not finite as text."""
    match value:
        case float() if not math.isfinite(value):
            return str(value)
        case dict():
            return {str(key): _finite(each) for key, each in value.items()}  # pyright: ignore[reportUnknownVariableType, reportUnknownArgumentType]
        case list() | tuple():
            return [_finite(each) for each in value]  # pyright: ignore[reportUnknownVariableType]
        case _:
            return value


def main(setting_text: str, events_path: str, backend: str, *limits: str) -> None:
    """Run stages one after another until one fails."""
    warnings.filterwarnings("ignore")
    setting, events = Setting.from_json(setting_text), Events(Path(events_path))
    if setting.device == "cuda":
        torch.cuda.set_device(0)  # two ranks share it
    deepspeed.init_distributed(dist_backend=backend, verbose=False)
    for name, limit_s in (limit.split("=") for limit in limits):
        events.write("begin", stage=name)
        deadline = Deadline(time.monotonic() + float(limit_s))
        try:
            for row in FUNCTIONS[name](setting, deadline):
                events.write("row", stage=name, row=row)
        except BaseException:
            events.write("end", stage=name, error=traceback.format_exc(limit=-8))
            raise
        events.write("end", stage=name, error=None)
    dist.barrier()
    dist.destroy_process_group()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(0)  # what libraries do at the end takes seconds, and everything is written


if __name__ == "__main__":
    run_program(lambda: main(*sys.argv[1:]))
