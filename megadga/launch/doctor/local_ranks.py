"""One host's ranks of a small all-reduce: ``python -m megadga.launch.doctor.local_ranks``.

Reads their parameters as JSON from standard input; prints rank 0's line. Only the ranks import
torch.
"""

import json
import os
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from megadga.console import run_program
from megadga.launch.hosts import Node, rank_commands
from megadga.launch.ranks import interface_variables
from megadga.launch.supervision import Timeouts, supervise

_MODULE = "megadga.launch.doctor.allreduce"


@dataclass(frozen=True)
class LocalRanks:
    """The ranks of one host.

    Attributes:
        node: This host's place in the run.
        count: Number of ranks per host, at least 1.
        deadline_s: Time-out of collectives in seconds, above 0.
        environment: Additional environment variables.
    """

    node: Node
    count: int
    deadline_s: float
    environment: Mapping[str, str]

    @staticmethod
    def from_json(values: Mapping[str, Any]) -> "LocalRanks":
        """Restore the parameters from the JSON form of ``asdict``."""
        node: Any = Node(**values["node"])
        return LocalRanks(**{**values, "node": node})


def run(ranks: LocalRanks) -> int:
    """Run the ranks and return the exit code; if one fails, the others are terminated."""
    node = ranks.node
    environment = {**os.environ, **ranks.environment, "OMP_NUM_THREADS": "1"}
    environment |= interface_variables(
        environment, master_address=node.master_address, alone=node.nodes == 1
    )
    commands = rank_commands(
        (sys.executable, "-m", _MODULE, str(ranks.deadline_s)),
        node,
        ranks=ranks.count,
        environment=environment,
        folder=Path.cwd(),
    )
    return supervise(commands, timeouts=Timeouts(stop_s=0.0, straggle_s=0.0, end_s=0.0)).code


if __name__ == "__main__":
    run_program(lambda: run(LocalRanks.from_json(json.load(sys.stdin))))
