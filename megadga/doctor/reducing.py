"""Runs a small all-reduce of all ranks on all hosts, and says how it went."""

import json
import os
import subprocess
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from megadga.cluster.forwarding import forwarded
from megadga.cluster.hostfile import Host
from megadga.doctor.checks import Finding
from megadga.doctor.local_ranks import LocalRanks
from megadga.doctor.reach import Reach, python_script

_MODULE = "megadga.doctor.local_ranks"
_START_S = 120.0
"""That importing torch on a slow file system may take, besides the deadline."""
_REMEDY = (
    "look for a firewall between hosts, or an interface that does not lead to the others "
    "(GLOO_SOCKET_IFNAME, NCCL_SOCKET_IFNAME); NCCL_DEBUG=INFO says more"
)


@dataclass(frozen=True)
class Bandwidth:
    """What an all-reduce of all ranks achieved.

    Attributes:
        ranks: How many there were.
        bytes_per_s: Bus bandwidth.
    """

    ranks: int
    bytes_per_s: float

    def __str__(self) -> str:
        return f"all-reduce of {self.ranks} ranks: {self.bytes_per_s / 1e9:.3f} GB/s bus bandwidth"


def reduce_on(
    hosts: Sequence[Host], reach: Reach, *, port: int, deadline_s: float
) -> Bandwidth | list[Finding]:
    """Sum numbers over all ranks.

    Args:
        hosts: In the order of ranks, each with its number of them.
        reach: How their shells are reached.
        port: Where rank 0 listens.
        deadline_s: Seconds that ranks wait for each other, above 0.

    Returns:
        The bandwidth, or what went wrong on each host where something did.
    """
    size = sum(host.slots for host in hosts)
    environment = forwarded(os.environ)
    firsts = [sum(host.slots for host in hosts[:index]) for index in range(len(hosts))]

    def start(host: Host, first: int) -> str | Finding:
        ranks = LocalRanks(
            first=first,
            count=host.slots,
            size=size,
            alone=len(hosts) == 1,
            master=hosts[0].name,
            port=port,
            deadline_s=deadline_s,
            environment=environment,
        )
        return _run(host.name, reach, ranks)

    with ThreadPoolExecutor(len(hosts)) as pool:
        said = list(pool.map(start, hosts, firsts))
    if failures := [each for each in said if isinstance(each, Finding)]:
        return failures
    return Bandwidth(size, float(str(said[0]).split()[-1]))


def _run(host: str, reach: Reach, ranks: LocalRanks) -> str | Finding:
    script = python_script(Path.cwd(), os.environ.get("PYTHONPATH", ""), ["-m", _MODULE])
    try:
        done = subprocess.run(  # noqa: S603  (the user's own hosts)
            reach.command(host, script),
            input=json.dumps(ranks.as_json()),
            capture_output=True,
            text=True,
            check=False,
            timeout=_START_S + 3 * ranks.deadline_s,
        )
    except subprocess.TimeoutExpired:
        return Finding(host, "expected the all-reduce to end, found no sign of the host", _REMEDY)
    if done.returncode == 0:
        return done.stdout
    lines = [line for line in done.stderr.splitlines() if line.strip()]
    said = lines[-1] if lines else f"exit code {done.returncode}"
    what = f"expected an all-reduce within {ranks.deadline_s:g} s, found: {said}"
    return Finding(host, what, _REMEDY)
