"""What one host reports about itself: software, devices, memory, ports."""

import errno
import hashlib
import json
import os
import platform
import socket
import sys
from collections.abc import Generator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import IO, Any

import megadga
from megadga.console import run_program
from megadga.launch.hosts import count_devices
from megadga.launch.operators import LOADING_S, SHARED_MEMORY, lasting_locks, missing_ops
from megadga.launch.ranks import interface_towards

ANSWER = "megadga.doctor: "
"""Prefix of each answer, as a host's shell may print other lines first."""


@dataclass(frozen=True)
class HostQuery:
    """A query to one host.

    Attributes:
        folder: An existing folder, in which checkpoints will be written.
        mark: Name of a file that the host keeps there during the query.
        master: Name or address of the host of rank 0.
        port: The port that rank 0 will listen on, if this is its host; else None.
        ops: Names of DeepSpeed's compiled operators that the run needs.
        environment: Environment variables of its ranks.
    """

    folder: str
    mark: str
    master: str
    port: int | None
    ops: Sequence[str]
    environment: Mapping[str, str]


@dataclass(frozen=True)
class Software:
    """Software that must be equal on all hosts.

    Attributes:
        versions: Versions of Python and of the main packages, by name.
        code: SHA-256 of megadga's own files, hexadecimal.
    """

    versions: Mapping[str, str]
    code: str


@dataclass(frozen=True)
class HostReport:
    """Report of one host.

    Attributes:
        host: Name of the host, as in the query.
        software: Its software.
        devices: Number of accelerators, or of cores if it has none.
        kind: ``accelerators`` or ``cores``.
        folder_error: Why the folder of checkpoints is not writable; empty: it is.
        port_error: Why rank 0 cannot listen on its port; empty: it can, or is on another host.
        master_address: Address of rank 0's host; empty: its name does not resolve.
        interface: Network interface towards rank 0's host; empty: there is none.
        ops_missing: Operators that are not compiled yet.
        op_locks: Paths of locks on operators, but for those that are taken while one is loaded.
    """

    host: str
    software: Software
    devices: int
    kind: str
    folder_error: str
    port_error: str
    master_address: str
    interface: str
    ops_missing: Sequence[str]
    op_locks: Sequence[str]

    @staticmethod
    def from_json(values: Mapping[str, Any]) -> "HostReport":
        """Restore a report from the JSON form of ``asdict``."""
        software: Any = Software(**values["software"])
        return HostReport(**{**values, "software": software})


@dataclass(frozen=True)
class NoReport:
    """A host that did not answer.

    Attributes:
        host: Name of the host.
        code: Exit code of the connection; None: it timed out.
        message: Last line of its error output; may be empty.
    """

    host: str
    code: int | None
    message: str


@dataclass(frozen=True)
class ClusterReport:
    """Reports of all hosts.

    Attributes:
        reports: One per host, in rank order.
        unseen: Hosts whose file in the folder of checkpoints the first host cannot read.
    """

    reports: tuple[HostReport | NoReport, ...]
    unseen: tuple[str, ...]


_PACKAGES = ("torch", "deepspeed", "numpy")


_NOT_INSTALLED = "not installed"


def own_software() -> Software:
    """Return the software of this process."""
    versions = {name: _version(name) for name in _PACKAGES}
    code = hash_code(Path(megadga.__file__).parent)
    return Software({"Python": platform.python_version(), **versions}, code)


def hash_code(folder: Path) -> str:
    """Return a hash of the names and contents of a package's Python files."""
    digest = hashlib.sha256()
    for path in sorted(folder.rglob("*.py")):
        content = path.read_bytes()
        digest.update(f"{path.relative_to(folder).as_posix()}\0{len(content)}\0".encode())
        digest.update(content)
    return digest.hexdigest()


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return _NOT_INSTALLED


def port_error(port: int) -> str:
    """Return why a port of this machine cannot be listened on; empty: it can."""
    with socket.socket() as listening:
        # As in torch: ports of recently closed connections are available.
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            listening.bind(("", port))
            listening.listen()
        except OSError as error:
            in_use = error.errno == errno.EADDRINUSE
            return "is in use" if in_use else str(error.strerror).lower()
    return ""


def address_of(name: str) -> str:
    """Return the address of a host name; empty: it does not resolve."""
    try:
        return str(socket.getaddrinfo(name, None, type=socket.SOCK_STREAM)[0][4][0])
    except OSError:
        return ""


_OPS_OF_KIND = {"cores": (SHARED_MEMORY,), "accelerators": ()}
"""Operators that every run needs, by kind of device."""


def answer(host: str, queries: IO[str], answers: IO[str]) -> None:
    """Answer queries until the input closes.

    Args:
        host: Name of this host in the query.
        queries: Incoming lines: a `HostQuery`, then lists of files to look for.
        answers: Outgoing lines.
    """
    request = HostQuery(**json.loads(queries.readline()))
    os.environ.update(request.environment)
    folder = Path(request.folder)
    with _temporary_file(folder / request.mark) as error:
        _write(answers, asdict(report(host, request, folder_error=error)))
        for line in queries:
            _write(answers, [name for name in json.loads(line) if _readable(folder / name)])


def report(host: str, request: HostQuery, *, folder_error: str) -> HostReport:
    """Return the report of this host."""
    devices, kind = count_devices()
    ops = (*request.ops, *_OPS_OF_KIND[kind])
    return HostReport(
        host=host,
        software=own_software(),
        devices=devices,
        kind=kind,
        folder_error=folder_error,
        port_error="" if request.port is None else port_error(request.port),
        master_address=address_of(request.master),
        interface=interface_towards(request.master) or "",
        ops_missing=missing_ops(ops, os.environ),
        op_locks=lasting_locks(ops, os.environ, over_s=LOADING_S),
    )


@contextmanager
def _temporary_file(path: Path) -> Generator[str]:
    """Create a file and remove it at the end; yield why that failed, or an empty string."""
    try:
        path.write_text(path.name, encoding="utf-8")
    except OSError as error:
        yield str(error.strerror).lower()
        return
    try:
        yield ""
    finally:
        with suppress(OSError):
            path.unlink()


def _readable(path: Path) -> bool:
    # Opened by name: directory listings on network file systems may be stale.
    try:
        return path.read_text(encoding="utf-8") == path.name
    except OSError:
        return False


def _write(answers: IO[str], value: object) -> None:
    answers.write(f"{ANSWER}{json.dumps(value)}\n")
    answers.flush()


if __name__ == "__main__":
    run_program(lambda: answer(sys.argv[1], sys.stdin, sys.stdout))
