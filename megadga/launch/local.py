"""All ranks on this machine, one process an accelerator or as many CPU processes as asked for."""

import os
import signal
import socket
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from megadga.config.run import RunConfig
from megadga.errors import ConfigError
from megadga.launch.hosts import Host
from megadga.launch.plan import Plan, Request, common_parser, launch, patience_of, to_request
from megadga.launch.ranks import EXPECTED_RANKS
from megadga.launch.supervision import Command

_COUNT = (
    "import torch; print(torch.accelerator.is_available() and torch.accelerator.device_count())"
)


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
    request: Request, node: Node, *, ranks: int, environment: Mapping[str, str], folder: Path
) -> tuple[Command, ...]:
    """Return the processes of one machine.

    Args:
        request: What the user asked for.
        node: Which machine this is.
        ranks: Processes on each machine, at least 1.
        environment: What each starts with.
        folder: Where each starts.
    """
    return tuple(
        Command(
            request.train(),
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


def signal_ranks(processes: Sequence[int]) -> None:
    """Ask the processes of this machine to stop: they have handlers, and agree with the rest."""
    for process in processes:
        os.kill(process, signal.SIGTERM)


def count_accelerators() -> int:
    """Return how many accelerators this machine offers, asking torch in a process of its own.

    Raises:
        ConfigError: If there is none: CPU ranks must be asked for.
    """
    asked = subprocess.run(  # noqa: S603  (our own words, and no shell)
        (sys.executable, "-c", _COUNT), capture_output=True, text=True, check=False
    )
    found = asked.stdout.strip()
    if asked.returncode or not found.isdecimal() or int(found) < 1:
        raise ConfigError(
            "--accelerators-per-node: expected an accelerator on this machine or the number of "
            "CPU processes to start, found neither"
        )
    return int(found)


def main(arguments: Sequence[str], *, prog: str = "megadga launch local") -> int:
    """Run ``megadga launch local``; return the exit code."""
    parser = common_parser(
        prog,
        "Train on this machine: a rank an accelerator, or N ranks on the CPU.",
        nodes=False,
    )
    request = to_request(parser, parser.parse_args(arguments))

    def plan(_: RunConfig) -> Plan:
        ranks = request.accelerators_per_node or count_accelerators()
        node = Node(rank=0, nodes=1, master_address="127.0.0.1", master_port=_free_port())
        return Plan(
            rank_commands(request, node, ranks=ranks, environment=os.environ, folder=Path.cwd()),
            (Host("localhost", ranks),),
            ask_to_stop=signal_ranks,
            patience=patience_of(request, end_s=10.0),
            max_restarts=request.max_restarts,
        )

    return launch(request, plan)


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port
