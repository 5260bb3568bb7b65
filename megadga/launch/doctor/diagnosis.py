"""`megadga doctor`: queries all hosts, checks their reports, runs a small all-reduce."""

import ipaddress
import json
import os
import subprocess
import sys
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path

from megadga.config.run import RunConfig
from megadga.errors import ConfigError
from megadga.launch.doctor.connection import (
    Reach,
    find_hosts,
    python_script,
    query_hosts,
    reach_command,
)
from megadga.launch.doctor.gather import (
    ClusterReport,
    HostReport,
    NoReport,
    Software,
    own_software,
)
from megadga.launch.doctor.local_ranks import LocalRanks
from megadga.launch.hosts import Host, Node, forwarded
from megadga.launch.operators import needed_ops
from megadga.launch.ranks import master_port

_SSH_FAILED = 255


@dataclass(frozen=True)
class Finding:
    """A problem of a host.

    Attributes:
        host: Name of the host.
        what: What was expected and what was found.
        remedy: How to fix it.
        failed: Whether training would fail or be wrong; else it is a note.
    """

    host: str
    what: str
    remedy: str
    failed: bool = True

    def __str__(self) -> str:
        return f"{self.host}: {self.what}; {self.remedy}"


@dataclass(frozen=True)
class Requirements:
    """Requirements on the hosts.

    Attributes:
        hosts: The hosts in rank order, each with the number of its ranks.
        software: Software of the launcher.
        folder: Folder of checkpoints, shared by all hosts.
        port: The port that rank 0 will listen on.
        interpreter: Absolute path of Python on every host.
        reach: How the hosts are reached.
    """

    hosts: tuple[Host, ...]
    software: Software
    folder: Path
    port: int
    interpreter: str
    reach: Reach


def findings(cluster: ClusterReport, required: Requirements) -> list[Finding]:
    """Return all findings, in the order of hosts."""
    found: list[Finding] = []
    for host, report in zip(required.hosts, cluster.reports, strict=True):
        if isinstance(report, NoReport):
            found.append(_no_report(report, required))
            continue
        found.extend(_software(report, required))
        found.extend(_capacity(report, host.slots))
        found.extend(_folder(report, cluster, required))
        found.extend(_network(report, required))
        found.extend(_operators(report))
    return found


def _no_report(report: NoReport, required: Requirements) -> Finding:
    said = f": {report.message}" if report.message else ""
    if report.code is None:
        return Finding(report.host, f"expected an answer, found none in time{said}", "is it up?")
    if report.code == _SSH_FAILED and required.reach == "ssh":
        what = f"expected to get in by ssh, found no way{said}"
        remedy = f"`ssh -o BatchMode=yes {report.host} true` must work without a password"
        return Finding(report.host, what, remedy)
    what = f"expected megadga under {required.interpreter}, found exit code {report.code}{said}"
    return Finding(report.host, what, "install the same environment at the same path there")


def _software(report: HostReport, required: Requirements) -> Iterator[Finding]:
    ours, theirs = required.software, report.software
    for name, version in ours.versions.items():
        if (found := theirs.versions[name]) != version:
            what = f"expected {name} {version} as here, found {found}"
            yield Finding(report.host, what, "install the same environment there")
    if theirs.code != ours.code:
        what = f"expected megadga's code {ours.code[:12]} as here, found {theirs.code[:12]}"
        yield Finding(report.host, what, "bring the same version of megadga there")


def _capacity(report: HostReport, slots: int) -> Iterator[Finding]:
    if slots > report.devices:
        what = f"expected {slots} {report.kind} for {slots} ranks, found {report.devices}"
        remedy = "lower slots= in the hostfile, or --accelerators-per-node"
        yield Finding(report.host, what, remedy)


def _folder(
    report: HostReport, cluster: ClusterReport, required: Requirements
) -> Iterator[Finding]:
    if report.folder_error:
        what = f"expected to write in {required.folder}, found: {report.folder_error}"
        yield Finding(report.host, what, "put the run's output where every host can write")
    elif report.host in cluster.unseen:
        what = f"expected {required.folder} to be shared, found that {required.hosts[0].name} "
        what += "does not see what is written there"
        yield Finding(report.host, what, "put the run's output on a file system that is shared")


def _network(report: HostReport, required: Requirements) -> Iterator[Finding]:
    first = required.hosts[0].name
    if report.port_error:
        what = f"expected port {required.port} to be free, found that it {report.port_error}"
        yield Finding(report.host, what, "end what listens there, or set MASTER_PORT to another")
    if not report.master_address:
        what = f"expected to know the address of {first}, found none"
        yield Finding(report.host, what, "mend its /etc/hosts or name service")
    elif report.host != first and _is_loopback(report.master_address):
        what = f"expected {first} to be another machine, found {report.master_address}"
        yield Finding(report.host, what, "mend its /etc/hosts, where the name means loopback")
    elif not report.interface:
        what = f"expected an interface towards {first}, found none that is up"
        yield Finding(report.host, what, "mend its network, or set GLOO_SOCKET_IFNAME")


def _operators(report: HostReport) -> Iterator[Finding]:
    for name in report.ops_missing:
        what = f"DeepSpeed's operator {name} is not compiled yet, and will be at first use"
        remedy = "it takes a minute or two, once; TORCH_EXTENSIONS_DIR says where it is kept"
        yield Finding(report.host, what, remedy, failed=False)

    for path in report.op_locks:
        what = f"expected no lock on an operator, found {path}, for which ranks would wait"
        yield Finding(report.host, what, "remove it, unless something is being compiled now")


def _is_loopback(address: str) -> bool:
    return ipaddress.ip_address(address.partition("%")[0]).is_loopback


_ALLREDUCE_MODULE = "megadga.launch.doctor.local_ranks"


_START_S = 120.0
"""Seconds for importing torch from a slow file system, in addition to the time-out."""


_REMEDY = (
    "look for a firewall between hosts, or an interface that does not lead to the others "
    "(GLOO_SOCKET_IFNAME, NCCL_SOCKET_IFNAME); NCCL_DEBUG=INFO says more"
)


def run_all_reduce(
    hosts: Sequence[Host], reach: Reach, *, port: int, deadline_s: float
) -> str | list[Finding]:
    """Run a small all-reduce over all ranks.

    Args:
        hosts: The hosts in rank order, each with the number of its ranks.
        reach: How their shells are reached.
        port: The port that rank 0 listens on.
        deadline_s: Time-out of collectives in seconds, above 0.

    Returns:
        A line with the bus bandwidth, or a finding per host that failed.
    """
    slots = hosts[0].slots  # as many on every host

    def start(index: int) -> str | Finding:
        node = Node(index, len(hosts), hosts[0].name, port)
        ranks = LocalRanks(node, slots, deadline_s, forwarded(os.environ))
        return _run(hosts[index].name, reach, ranks)

    with ThreadPoolExecutor(len(hosts)) as pool:
        results = list(pool.map(start, range(len(hosts))))
    if failures := [each for each in results if isinstance(each, Finding)]:
        return failures
    bytes_per_s = float(str(results[0]).split()[-1])
    size = slots * len(hosts)
    return f"all-reduce of {size} ranks: {bytes_per_s / 1e9:.3f} GB/s bus bandwidth"


def _run(host: str, reach: Reach, ranks: LocalRanks) -> str | Finding:
    script = python_script(Path.cwd(), os.environ.get("PYTHONPATH", ""), ["-m", _ALLREDUCE_MODULE])
    try:
        done = subprocess.run(  # noqa: S603  (the user's own hosts)
            reach_command(reach, host, script),
            input=json.dumps(asdict(ranks)),
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
    last = lines[-1] if lines else "it said nothing"
    # The first failing rank reports the cause; the others report time-outs.
    said = next(
        (line for line in lines if line.startswith("rank ")),
        f"rank of {host} ended with {done.returncode}: {last}",
    )
    what = f"expected an all-reduce within {ranks.deadline_s:g} s, found: {said}"
    return Finding(host, what, _REMEDY)


def preflight(
    hosts: Sequence[Host],
    *,
    output: Path,
    port: int,
) -> list[str]:
    """Check hosts over ssh before any rank starts; return what would prevent the run.

    Takes seconds: all hosts are queried at the same time, without torch where there are no
    accelerators.

    Args:
        hosts: The hosts in rank order, at least one, each once, with the number of its ranks.
        output: The run's folder, which need not exist yet.
        port: The port that rank 0 will listen on.

    Returns:
        A line per failure: the host's name, the problem and the remedy.
    """
    found = check_hosts(hosts, "ssh", output=output, port=port, ops=())
    return [str(finding) for finding in found if finding.failed]


def check_hosts(
    hosts: Sequence[Host], reach: Reach, *, output: Path, port: int, ops: Sequence[str]
) -> list[Finding]:
    """Query hosts and return the problems found.

    Args:
        hosts: The hosts in rank order, each once, with the number of its ranks.
        reach: How their shells are reached.
        output: The run's folder, which need not exist yet.
        port: The port that rank 0 will listen on.
        ops: DeepSpeed's compiled operators that the run needs.
    """
    folder = _existing(output)
    cluster = query_hosts([host.name for host in hosts], reach, folder=folder, port=port, ops=ops)
    required = Requirements(
        hosts=tuple(hosts),
        software=own_software(),
        folder=folder,
        port=port,
        interpreter=sys.executable,
        reach=reach,
    )
    return findings(cluster, required)


def _existing(folder: Path) -> Path:
    """Return the folder or its nearest existing parent; a check creates nothing."""
    return next(each for each in (folder, *folder.absolute().parents) if each.is_dir()).absolute()


def run_doctor(
    config: RunConfig | None,
    *,
    hostfile: Path | None,
    nodes: int | None,
    accelerators_per_node: int | None,
    deadline_s: float,
    all_reduce: bool = True,
) -> bool:
    """Check all hosts and print a line per finding; return whether something failed.

    Args:
        config: The run whose output folder all hosts must share; None: the working directory.
        hostfile: See ``find_hosts``.
        nodes: See ``find_hosts``.
        accelerators_per_node: See ``find_hosts``.
        deadline_s: Time-out of collectives in seconds, above 0.
        all_reduce: Run the all-reduce if no check has failed.

    Raises:
        ConfigError: If the hosts do not exist, or ``MASTER_PORT`` is no port.
    """
    hosts, reach = find_hosts(
        hostfile, os.environ, nodes=nodes, accelerators_per_node=accelerators_per_node
    )
    print(f"{len(hosts)} hosts, {sum(host.slots for host in hosts)} ranks, by {reach}", flush=True)
    port = _port()
    output = Path() if config is None else config.output
    ops = () if config is None else needed_ops(config.deepspeed)
    failed = _print_findings(check_hosts(hosts, reach, output=output, port=port, ops=ops))
    if all_reduce and not failed:
        reduced = run_all_reduce(hosts, reach, port=port, deadline_s=deadline_s)
        if isinstance(reduced, str):
            print(f"ok  {reduced}")
        else:
            failed = _print_findings(reduced)
    return failed


def _print_findings(found: Sequence[Finding]) -> bool:
    """Print a line per finding; return whether something failed."""
    for finding in found:
        print(f"{'FAILED' if finding.failed else 'note'}  {finding}")
    return any(finding.failed for finding in found)


def _port() -> int:
    if (port := master_port(os.environ)) == 0:
        raise ConfigError("MASTER_PORT: expected a port in [1, 65535], found '0'")
    return port
