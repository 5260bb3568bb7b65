"""One machine of several, all of which something else starts: what a pod of Kubernetes runs.

``python -m megadga.launch.node``.
"""

import os
import sys
from collections.abc import Sequence
from pathlib import Path

from megadga.config.run import RunConfig
from megadga.console import run_program
from megadga.launch.hosts import Host
from megadga.launch.local import Node, count_accelerators, rank_commands, signal_ranks
from megadga.launch.plan import (
    Plan,
    common_parser,
    count,
    launch,
    non_negative_int,
    timeouts_for,
    to_request,
)

END_S = 10.0
"""What ending the ranks of a machine takes."""


def main(arguments: Sequence[str]) -> int:
    """Run the ranks of this machine; return the exit code."""
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
        return Plan(
            rank_commands(request, node, ranks=ranks, environment=os.environ, folder=Path.cwd()),
            # Nobody knows the others' names here, only how many they are.
            tuple(Host(f"node-{index}", ranks) for index in range(request.nodes)),
            ask_to_stop=signal_ranks,
            timeouts=timeouts_for(request, end_s=END_S),
        )

    return launch(request, plan)


if __name__ == "__main__":
    run_program(lambda: main(sys.argv[1:]))
