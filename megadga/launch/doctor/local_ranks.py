"""One host's ranks of a small all-reduce: ``python -m megadga.launch.doctor.local_ranks``.

What they are to be comes in as JSON. Rank 0's line goes out; the first complaint goes to standard
error. Imports no torch: only the ranks do.
"""

import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from typing import IO, Any

from megadga.console import run_program
from megadga.launch.ranks import interface_variables

_POLL_S = 0.05


_MODULE = "megadga.launch.doctor.allreduce"


@dataclass(frozen=True)
class LocalRanks:
    """The ranks of one host.

    Attributes:
        first: The number of its first rank, from 0.
        count: How many it runs, at least 1.
        size: How many there are on all hosts.
        alone: Whether this is the only host.
        master: Name or address of rank 0's host.
        port: Where rank 0 listens.
        deadline_s: Seconds that they wait for each other, above 0.
        environment: Variables to have besides this process's own.
    """

    first: int
    count: int
    size: int
    alone: bool
    master: str
    port: int
    deadline_s: float
    environment: Mapping[str, str]

    def as_json(self) -> dict[str, Any]:
        """Return it as JSON has it."""
        return asdict(self)

    def variables(self, index: int) -> dict[str, str]:
        """Return what torch reads, of the host's rank number ``index``."""
        return {
            "RANK": str(self.first + index),
            "LOCAL_RANK": str(index),
            "WORLD_SIZE": str(self.size),
            "MASTER_ADDR": self.master,
            "MASTER_PORT": str(self.port),
            "OMP_NUM_THREADS": "1",
        }


def run(ranks: LocalRanks) -> str:
    """Run them to their end; return the first complaint, or an empty string.

    Once one has failed, the others are ended.
    """
    environment = {**os.environ, **ranks.environment}
    environment |= interface_variables(environment, master_address=ranks.master, alone=ranks.alone)
    command = [sys.executable, "-m", _MODULE, str(ranks.deadline_s)]
    with ExitStack() as stack:
        logs: list[IO[str]] = []
        processes: list[subprocess.Popen[bytes]] = []
        for index in range(ranks.count):
            logs.append(stack.enter_context(tempfile.TemporaryFile("w+", encoding="utf-8")))
            process = subprocess.Popen(  # noqa: S603  (this interpreter)
                command, env=environment | ranks.variables(index), stderr=logs[-1]
            )
            stack.callback(_end, process)
            processes.append(process)
        while any(process.poll() is None for process in processes):
            if any(process.poll() for process in processes):
                break
            time.sleep(_POLL_S)
        for index, process in enumerate(processes):
            if code := process.poll():
                return _complaint(ranks.first + index, code, logs[index])
    return ""


def _end(process: subprocess.Popen[bytes]) -> None:
    process.kill()
    process.wait()


def _complaint(rank: int, code: int, log: IO[str]) -> str:
    log.seek(0)
    lines = [line.strip() for line in log if line.strip()]
    return f"rank {rank} ended with {code}: {lines[-1] if lines else 'it said nothing'}"


def main() -> int:
    """Run what standard input asks for."""
    complaint = run(LocalRanks(**json.load(sys.stdin)))
    if complaint:
        print(complaint, file=sys.stderr)
    return int(bool(complaint))


if __name__ == "__main__":
    run_program(main)
