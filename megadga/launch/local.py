"""All ranks on this machine, one process per accelerator or as many CPU processes as asked for.

torchrun would do it with 30 s to save, whatever a run needs. ``python -m megadga.launch.local`` is
one machine of several, all of which something else starts: what a pod of Kubernetes runs.
"""

import os
import socket
import sys
from collections.abc import Sequence
from pathlib import Path

from megadga.config.run import RunConfig
from megadga.console import count, non_negative_int, run_program
from megadga.launch.hosts import Host, Node, count_accelerators, rank_commands
from megadga.launch.options import LaunchRequest, common_parser, to_request
from megadga.launch.plan import Plan, hosts_or_here, launch, timeouts_for

_END_S = 10.0
"""What ending the ranks of a machine takes."""


def main(arguments: Sequence[str], *, prog: str = "megadga launch local") -> int:
    """Run ``megadga launch local``; return the exit code."""
    parser = common_parser(
        prog,
        "Train on this machine: a rank per accelerator, or N ranks on the CPU.",
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
    parser.add_argument(
        "--node-rank", type=non_negative_int, required=True, metavar="N", help="from 0"
    )
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


def _plan(request: LaunchRequest, node: Node, hosts: tuple[Host, ...]) -> Plan:
    ranks, folder = hosts[0].slots, Path.cwd()
    return Plan(
        rank_commands(request.train(), node, ranks=ranks, environment=os.environ, folder=folder),
        hosts,
        timeouts=timeouts_for(request, end_s=_END_S),
        max_restarts=request.max_restarts,
    )


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


if __name__ == "__main__":
    run_program(lambda: main_of_node(sys.argv[1:]))
