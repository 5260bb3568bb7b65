"""All ranks of a machine, one process an accelerator or as many CPU processes as asked for.

torchrun would do it with 30 s to save, whatever a run needs. ``python -m megadga.launch.local`` is
one machine of several, all of which something else starts: what a pod of Kubernetes runs.
"""

import os
import socket
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from megadga.config.run import RunConfig
from megadga.console import run_program
from megadga.launch.hosts import Host, count_accelerators
from megadga.launch.plan import (
    Plan,
    Request,
    common_parser,
    count,
    hosts_or_here,
    launch,
    patience_of,
    to_request,
    whole,
)
from megadga.launch.ranks import EXPECTED_RANKS
from megadga.launch.supervision import Command

_END_S = 10.0
"""What ending the ranks of a machine takes."""


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


def main(arguments: Sequence[str]) -> int:
    """Run ``launch/local``; return the exit code."""
    parser = common_parser(
        "launch/local",
        "Train on this machine: a rank an accelerator, or N ranks on the CPU.",
        nodes=False,
    )
    request = to_request(parser, parser.parse_args(arguments))

    def plan(_: RunConfig) -> Plan:
        hosts = hosts_or_here(request)
        return _plan(request, Node(0, 1, "127.0.0.1", _free_port()), hosts)

    return launch(request, plan)


def main_of_node(arguments: Sequence[str]) -> int:
    """Run the ranks of one machine of several; return the exit code."""
    parser = common_parser(
        "node", "Run the ranks of one machine of several.", restarts=False, sees_output=False
    )
    parser.add_argument("--node-rank", type=whole, required=True, metavar="N", help="from 0")
    parser.add_argument("--master-address", required=True, metavar="HOST", help="of node 0")
    parser.add_argument("--master-port", type=count, required=True, metavar="PORT")
    options = parser.parse_args(arguments)
    request = to_request(parser, options)

    def plan(_: RunConfig) -> Plan:
        ranks = request.accelerators_per_node or count_accelerators()
        node = Node(options.node_rank, request.nodes, options.master_address, options.master_port)
        # Nobody knows the others' names here, only how many they are.
        hosts = tuple(Host(f"node-{index}", ranks) for index in range(request.nodes))
        return _plan(request, node, hosts)

    return launch(request, plan)


def _plan(request: Request, node: Node, hosts: tuple[Host, ...]) -> Plan:
    ranks, folder = hosts[0].slots, Path.cwd()
    return Plan(
        rank_commands(request.train(), node, ranks=ranks, environment=os.environ, folder=folder),
        hosts,
        patience=patience_of(request, end_s=_END_S),
        max_restarts=request.max_restarts,
    )


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


if __name__ == "__main__":
    run_program(lambda: main_of_node(sys.argv[1:]))
