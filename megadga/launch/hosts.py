"""Hosts: hostfiles, accelerators, jobs and ranks on them, and the variables that they are sent."""

import json
import os
import random
import re
import subprocess
import sys
import time
from collections.abc import Callable, Generator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Self

from megadga.errors import ConfigError
from megadga.launch.ranks import EXPECTED_RANKS
from megadga.launch.supervision import STOP_FILE, Command

_LINE = re.compile(r"(?P<name>\S+)\s+slots=(?P<slots>\d+)", re.ASCII)


_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*|[0-9A-Fa-f]*:[0-9A-Fa-f:.]+", re.ASCII)


_EXPECTED = "expected 'NAME slots=N' with a host's name or address and N of at least 1"


@dataclass(frozen=True)
class Host:
    """One machine.

    Attributes:
        name: Its name or address, as ssh takes it.
        slots: Ranks that it can run, at least 1: its accelerators.
    """

    name: str
    slots: int


def read_hostfile(path: Path) -> tuple[Host, ...]:
    """Read a hostfile as DeepSpeed and Open MPI have it: a line ``NAME slots=N`` a host.

    Lines that are empty or begin with ``#`` are passed over.

    Raises:
        ConfigError: If the file cannot be read, lists no host or one twice, or a line is not
            one of these; the message names the file and the line.
    """
    try:
        text = path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        found = error.strerror if isinstance(error, OSError) else "bytes that are not UTF-8"
        raise ConfigError(f"{path}: expected a readable hostfile, found: {found}") from None
    first_lines: dict[str, int] = {}
    hosts: list[Host] = []
    for number, host in _hosts(path, text):
        if (first := first_lines.setdefault(host.name, number)) != number:
            raise ConfigError(
                f"{path}:{number}: expected every host once, found {host.name!r} again, "
                f"first in line {first}"
            )
        hosts.append(host)
    if not hosts:
        raise ConfigError(f"{path}: expected at least one host, found none")
    return tuple(hosts)


def first_hosts(
    path: Path, hosts: Sequence[Host], *, nodes: int, accelerators_per_node: int | None
) -> tuple[Host, ...]:
    """Return the first ``nodes`` hosts, each with the slots that are used of it.

    Args:
        path: The hostfile, for messages.
        hosts: All hosts of it.
        nodes: How many to use, at least 1.
        accelerators_per_node: Ranks on each, at least 1; None: all slots, as many on every host.

    Raises:
        ConfigError: If there are not as many hosts, or one has too few slots or other slots.
    """
    if len(hosts) < nodes:
        raise ConfigError(f"{path}: expected at least {nodes} hosts, found {len(hosts)}")
    used = tuple(hosts[:nodes])
    wanted = used[0].slots if accelerators_per_node is None else accelerators_per_node
    for host in used:
        if host.slots < wanted or (accelerators_per_node is None and host.slots != wanted):
            bound = "" if accelerators_per_node is None else " or more"
            raise ConfigError(
                f"{path}: expected slots={wanted}{bound} at {host.name!r}, found {host.slots}"
            )
    return tuple(Host(host.name, wanted) for host in used)


def _hosts(path: Path, text: str) -> Generator[tuple[int, Host]]:
    for number, line in enumerate(text.splitlines(), start=1):
        content = line.strip()
        if not content or content.startswith("#"):
            continue
        match = _LINE.fullmatch(content)
        if match is None or not _NAME.fullmatch(match["name"]) or int(match["slots"]) < 1:
            raise ConfigError(f"{path}:{number}: {_EXPECTED}, found {content!r}")
        yield number, Host(match["name"], int(match["slots"]))


_PREFIXES = (
    "GLOO_",
    "NCCL_",
    "UCX_",
    "TORCH_",
    "TORCHINDUCTOR_",
    "OMP_",
    "HF_",
    "WANDB_",
    "MEGADGA_",
)


_NAMES = frozenset(
    {
        "PYTHONPATH",
        "PATH",
        "LD_LIBRARY_PATH",
        "CUDA_HOME",
        "CUDA_DEVICE_MAX_CONNECTIONS",
        "TOKENIZERS_PARALLELISM",
    }
)


_SECRET = ("KEY", "TOKEN", "SECRET", "PASSWORD", "CREDENTIAL")


def forwarded(environment: Mapping[str, str]) -> dict[str, str]:
    """Return the variables that travel to other machines, by name.

    Those whose name speaks of a secret never do: put secrets where the machines find them
    themselves, as ``hf auth login`` does.
    """
    return {
        name: environment[name]
        for name in sorted(environment)
        if (name in _NAMES or name.startswith(_PREFIXES)) and not _is_secret(name)
    }


def _is_secret(name: str) -> bool:
    return name != "TOKENIZERS_PARALLELISM" and any(word in name.upper() for word in _SECRET)


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
    """A command to run on another machine.

    Attributes:
        command: Program and arguments.
        environment: Additional variables.
        folder: Working directory, the same on every machine.
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
class LaunchContext:
    """Environment and locations of a launch.

    Attributes:
        environment: The launcher's variables.
        folder: Its working directory.
        output: The run's folder, absolute, on the shared file system.
        name: Unique name of this launch.
        port: Port for rank 0.
    """

    environment: Mapping[str, str] = field(repr=False)
    folder: Path
    output: Path
    name: str
    port: int

    @classmethod
    def here(cls, output: Path) -> Self:
        """Return the context of this process for a run's folder, with a new name and port."""
        name = f"{time.strftime('%Y%m%dT%H%M%S', time.gmtime())}-{os.getpid()}"
        return cls(os.environ, Path.cwd(), output.absolute(), name, _pick_port())

    @property
    def stop_file(self) -> Path:
        """The file that requests the ranks to stop."""
        return self.output / f".stop-{self.name}"

    def variables(self, ranks: int) -> dict[str, str]:
        """Return the variables for ranks on other machines."""
        return {
            **forwarded(self.environment),
            EXPECTED_RANKS: str(ranks),
            STOP_FILE: str(self.stop_file),
        }


LOCALHOST = "localhost"


_DEVICE_NODES = ("nvidia[0-9]*", "kfd", "dri/renderD*", "accel/accel*", "xpu*", "davinci[0-9]*")
"""What there is of in /dev where torch may find accelerators."""


_COUNT = (
    "import torch; print(torch.accelerator.is_available() and torch.accelerator.device_count())"
)


def count_devices() -> tuple[int, str]:
    """Return for how many ranks this machine has room, and of what: accelerators or else cores.

    Torch is asked, in a process of its own, only where it may find accelerators: that takes
    seconds.
    """
    if any(next(Path("/dev").glob(pattern), None) for pattern in _DEVICE_NODES):
        asked = subprocess.run(  # noqa: S603  (our own words, and no shell)
            (sys.executable, "-c", _COUNT), capture_output=True, text=True, check=False
        )
        found = asked.stdout.strip()
        if found.isdecimal() and int(found) > 0:
            return int(found), "accelerators"
    return len(os.sched_getaffinity(0)), "cores"


def count_accelerators() -> int:
    """Return how many accelerators this machine offers.

    Raises:
        ConfigError: If there is none: CPU ranks must be asked for.
    """
    found, kind = count_devices()
    if kind != "accelerators":
        raise ConfigError(
            "--accelerators-per-node: expected an accelerator on this machine or the number of "
            "CPU processes to start, found neither"
        )
    return found


@dataclass(frozen=True)
class Node:
    """One machine's place among those of a run.

    Attributes:
        rank: Its number, in [0, ``nodes``).
        nodes: How many there are.
        master_address: The address of the first.
        master_port: A free port there.
    """

    rank: int
    nodes: int
    master_address: str
    master_port: int


def rank_commands(
    arguments: tuple[str, ...],
    node: Node,
    *,
    ranks: int,
    environment: Mapping[str, str],
    folder: Path,
) -> tuple[Command, ...]:
    """Return the processes of one machine.

    Args:
        arguments: The command of each.
        node: Which machine this is.
        ranks: Processes on each machine, at least 1.
        environment: What each starts with.
        folder: Where each starts.
    """
    return tuple(
        Command(
            arguments,
            {
                **environment,
                "RANK": str(node.rank * ranks + local_rank),
                "LOCAL_RANK": str(local_rank),
                "WORLD_SIZE": str(node.nodes * ranks),
                "LOCAL_SIZE": str(ranks),
                "MASTER_ADDR": node.master_address,
                "MASTER_PORT": str(node.master_port),
                EXPECTED_RANKS: str(node.nodes * ranks),
            },
            folder,
        )
        for local_rank in range(ranks)
    )


def touch(path: Path) -> Callable[[Sequence[int]], None]:
    """Return a function that requests ranks on any machine to stop, by creating a file."""

    def ask(_: Sequence[int]) -> None:
        path.touch()

    return ask


def unreachable(hosts: Sequence[Host]) -> tuple[str, ...]:
    """Return the names of the hosts that ssh cannot reach, tried in parallel."""
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
    """Return a random port, which is probably free on another machine.

    Below 32768, where Linux's ephemeral ports begin.
    """
    return random.SystemRandom().randrange(20_000, 32_768)
