"""How a rank on another machine gets its command and its variables. Knows no kind of cluster.

A launcher's own way to hand them on goes through shells, which split and expand them, and through
command lines, which ``ps`` shows to everybody. So they travel as JSON, in a private file or over
standard input, and a line of Python with nothing to quote in it takes them from there.
"""

import json
import os
import random
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Self

from megadga.cluster.forwarding import forwarded
from megadga.cluster.hostfile import Host
from megadga.cluster.ranks import EXPECTED_RANKS
from megadga.cluster.stopping import STOP_FILE

_CONNECT_S = 5
SSH_OPTIONS = (
    *("-o", "BatchMode=yes"),
    *("-o", "ConnectTimeout=15"),
    # A cut link must end the run, not hang it: noticed after 30 s.
    *("-o", "ServerAliveInterval=10"),
    *("-o", "ServerAliveCountMax=3"),
)

_RUN_JOB = (
    "os.environ.pop('PYTHONPATH', None); os.environ.update(job['environment']); "
    "os.chdir(job['folder']); os.execvp(job['command'][0], job['command'])"
)
JOB_FROM_FILE = (
    "import base64, json, os, sys; "
    f"job = json.load(open(base64.urlsafe_b64decode(sys.argv[1]))); {_RUN_JOB}"
)
"""A program whose argument is the path of a job, in URL-safe base64."""
JOB_FROM_INPUT = f"import json, os, sys; job = json.loads(sys.stdin.readline()); {_RUN_JOB}"
"""A program that reads a job from the first line of its input, which it leaves open."""


@dataclass(frozen=True)
class Job:
    """What a process on another machine becomes.

    Attributes:
        command: Program and arguments.
        environment: Variables that it gets besides those that it finds there.
        folder: Where it starts; the same on every machine.
    """

    command: tuple[str, ...]
    environment: Mapping[str, str] = field(repr=False)
    folder: Path

    def to_json(self) -> str:
        """Return it as one line."""
        values = {
            "command": self.command,
            "environment": dict(self.environment),
            "folder": str(self.folder),
        }
        return json.dumps(values) + "\n"


@dataclass(frozen=True)
class Place:
    """Where and how a launcher was started.

    Attributes:
        environment: Its variables.
        folder: Its working directory.
        output: The run's folder, absolute; all machines see it.
        name: Of this launch, and of no other.
        port: Where rank 0 is to listen on its machine.
    """

    environment: Mapping[str, str] = field(repr=False)
    folder: Path
    output: Path
    name: str
    port: int

    @classmethod
    def here(cls, output: Path) -> Self:
        """Return that of this process, for a run's folder, with a name and a port of its own."""
        name = f"{time.strftime('%Y%m%dT%H%M%S', time.gmtime())}-{os.getpid()}"
        return cls(os.environ, Path.cwd(), output.absolute(), name, _pick_port())

    @property
    def stop_file(self) -> Path:
        """The file that asks the ranks to stop."""
        return self.output / f".stop-{self.name}"

    def variables(self, ranks: int) -> dict[str, str]:
        """Return what ranks on other machines are told."""
        return {
            **forwarded(self.environment),
            EXPECTED_RANKS: str(ranks),
            STOP_FILE: str(self.stop_file),
        }


def touch(path: Path) -> Callable[[Sequence[int]], None]:
    """Return what asks ranks on any machine to stop: signals do not travel, files do."""

    def ask(_: Sequence[int]) -> None:
        path.touch()

    return ask


def unreachable(hosts: Sequence[Host]) -> tuple[str, ...]:
    """Return the names of the hosts that ssh does not get into, asking all at the same time."""
    asking = [
        subprocess.Popen(  # noqa: S603  (no shell)
            ("ssh", "-o", f"ConnectTimeout={_CONNECT_S}", *SSH_OPTIONS, "--", host.name, "true"),  # noqa: S607
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        for host in hosts
    ]
    codes = [process.wait() for process in asking]
    return tuple(host.name for host, code in zip(hosts, codes, strict=True) if code)


def _pick_port() -> int:
    """Return a port that is probably free on another machine: two launches rarely get the same.

    From 32768 on Linux gives ports to whoever does not care.
    """
    return random.SystemRandom().randrange(20_000, 32_768)
