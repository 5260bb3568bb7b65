"""What is wrong with hosts, judged from what they said of themselves. Asks nothing."""

import ipaddress
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from megadga.cluster.hostfile import Host
from megadga.doctor.reports import Answers, HostReport, NoReport, Software

_SSH_FAILED = 255


@dataclass(frozen=True)
class Finding:
    """Something that the user should know.

    Attributes:
        host: Where.
        what: What was expected, and what was found.
        remedy: What to do about it.
        failed: Whether training would fail, or be wrong.
    """

    host: str
    what: str
    remedy: str
    failed: bool = True

    def __str__(self) -> str:
        return f"{self.host}: {self.what}; {self.remedy}"


@dataclass(frozen=True)
class Wanted:
    """What the hosts should be like.

    Attributes:
        hosts: In the order of ranks, each with the ranks that it is to run.
        software: That of the launcher.
        folder: Where checkpoints go, as every host should see it.
        port: On which the first will listen.
        interpreter: Absolute path of Python, the same on every host.
        reach: What hosts are reached with.
    """

    hosts: tuple[Host, ...]
    software: Software
    folder: Path
    port: int
    interpreter: str
    reach: str


def findings(answers: Answers, wanted: Wanted) -> list[Finding]:
    """Return everything that is to be said, in the order of hosts."""
    found: list[Finding] = []
    for host, report in zip(wanted.hosts, answers.reports, strict=True):
        if isinstance(report, NoReport):
            found.append(_silence(report, wanted))
            continue
        found.extend(_software(report, wanted))
        found.extend(_room(report, host.slots))
        found.extend(_folder(report, answers, wanted))
        found.extend(_network(report, wanted))
        found.extend(_operators(report))
    return found


def _silence(report: NoReport, wanted: Wanted) -> Finding:
    said = f": {report.said}" if report.said else ""
    if report.code is None:
        return Finding(report.host, f"expected an answer, found none in time{said}", "is it up?")
    if report.code == _SSH_FAILED and wanted.reach == "ssh":
        what = f"expected to get in by ssh, found no way{said}"
        remedy = f"`ssh -o BatchMode=yes {report.host} true` must work without a password"
        return Finding(report.host, what, remedy)
    what = f"expected megadga under {wanted.interpreter}, found exit code {report.code}{said}"
    return Finding(report.host, what, "install the same environment at the same path there")


def _software(report: HostReport, wanted: Wanted) -> Iterator[Finding]:
    ours, theirs = wanted.software, report.software
    for name, version in ours.versions.items():
        if (found := theirs.versions[name]) != version:
            what = f"expected {name} {version} as here, found {found}"
            yield Finding(report.host, what, "install the same environment there")
    if theirs.code != ours.code:
        what = f"expected megadga's code {ours.code[:12]} as here, found {theirs.code[:12]}"
        yield Finding(report.host, what, "bring the same version of megadga there")


def _room(report: HostReport, slots: int) -> Iterator[Finding]:
    if slots > report.devices:
        what = f"expected {slots} {report.kind} for {slots} ranks, found {report.devices}"
        remedy = "lower slots= in the hostfile, or --accelerators-per-node"
        yield Finding(report.host, what, remedy)


def _folder(report: HostReport, answers: Answers, wanted: Wanted) -> Iterator[Finding]:
    if report.folder_error:
        what = f"expected to write in {wanted.folder}, found: {report.folder_error}"
        yield Finding(report.host, what, "put the run's output where every host can write")
    elif report.host in answers.unseen:
        what = f"expected {wanted.folder} to be shared, found that {wanted.hosts[0].name} "
        what += "does not see what is written there"
        yield Finding(report.host, what, "put the run's output on a file system that is shared")


def _network(report: HostReport, wanted: Wanted) -> Iterator[Finding]:
    first = wanted.hosts[0].name
    if report.port_error:
        what = f"expected port {wanted.port} to be free, found that it {report.port_error}"
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
