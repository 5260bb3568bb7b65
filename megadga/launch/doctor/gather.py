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
from megadga.launch.operators import SHARED_MEMORY, missing_ops, op_locks
from megadga.launch.ranks import interface_towards

ANSWER = "megadga.doctor: "
"""Begins each answer: a host's shell may have things of its own to say before."""


@dataclass(frozen=True)
class HostQuery:
    """What one host is asked.

    Attributes:
        folder: An existing one, where checkpoints will be kept.
        mark: Name of the file that it leaves there while it is asked.
        master: Name or address of the host of rank 0.
        port: The one that rank 0 will listen on, if this is its host; else None.
        ops: Names of DeepSpeed's compiled operators that the run needs.
        environment: Variables that its ranks will have.
    """

    folder: str
    mark: str
    master: str
    port: int | None
    ops: Sequence[str]
    environment: Mapping[str, str]


@dataclass(frozen=True)
class Software:
    """What must be the same everywhere.

    Attributes:
        versions: Of Python and of the packages that training rests on, by name.
        code: SHA-256 of megadga's own files, hexadecimal.
    """

    versions: Mapping[str, str]
    code: str


@dataclass(frozen=True)
class HostReport:
    """What one host says of itself.

    Attributes:
        host: Its name, as it was asked for.
        software: What it runs.
        devices: Ranks that it has room for: its accelerators, or else its cores.
        kind: Which of these: ``accelerators`` or ``cores``.
        folder_error: Why the folder of checkpoints cannot be written; empty: it can.
        port_error: Why rank 0 could not listen; empty: it could, or is elsewhere.
        master_address: What rank 0's host is called here, as numbers; empty: its name is unknown.
        interface: Which leads to rank 0's host; empty: none does.
        ops_missing: Operators that are not compiled yet.
        op_locks: Paths of locks on operators.
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
        """Return what ``asdict`` made this of, after JSON."""
        software: Any = Software(**values["software"])
        return HostReport(**{**values, "software": software})


@dataclass(frozen=True)
class NoReport:
    """A host that did not answer.

    Attributes:
        host: Its name.
        code: Exit code of what was to ask it; None: it was still waiting when time was up.
        said: The last line of its complaint; may be empty.
    """

    host: str
    code: int | None
    said: str


@dataclass(frozen=True)
class Answers:
    """What all hosts together answered.

    Attributes:
        reports: One per host, in the order of ranks.
        unseen: Hosts whose file in the folder of checkpoints the first host does not see.
    """

    reports: tuple[HostReport | NoReport, ...]
    unseen: tuple[str, ...]


_PACKAGES = ("torch", "deepspeed", "numpy")


_NOT_INSTALLED = "not installed"


def own_software() -> Software:
    """Return the versions and the code that this process finds."""
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
    """Return why nothing could listen on a port of this machine; empty: it could."""
    with socket.socket() as listening:
        # As torch does: a connection that is only just closed is in nobody's way.
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            listening.bind(("", port))
            listening.listen()
        except OSError as error:
            in_use = error.errno == errno.EADDRINUSE
            return "is in use" if in_use else str(error.strerror).lower()
    return ""


def address_of(name: str) -> str:
    """Return what a host's name stands for here; empty: nothing."""
    try:
        return str(socket.getaddrinfo(name, None, type=socket.SOCK_STREAM)[0][4][0])
    except OSError:
        return ""


_OPS_OF_KIND = {"cores": (SHARED_MEMORY,), "accelerators": ()}
"""Operators that every run needs, by what it trains on."""


def answer(host: str, asked: IO[str], answers: IO[str]) -> None:
    """Hold the conversation.

    Args:
        host: What this host is called by those who ask.
        asked: Lines that come in.
        answers: Takes lines that go out.
    """
    request = HostQuery(**json.loads(asked.readline()))
    os.environ.update(request.environment)
    folder = Path(request.folder)
    with _left_in(folder / request.mark) as error:
        _say(answers, asdict(report(host, request, folder_error=error)))
        for line in asked:
            _say(answers, [name for name in json.loads(line) if _readable(folder / name)])


def report(host: str, request: HostQuery, *, folder_error: str) -> HostReport:
    """Say what is asked of this host."""
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
        op_locks=op_locks(ops, os.environ),
    )


@contextmanager
def _left_in(path: Path) -> Generator[str]:
    """Have a file for a while; yield why there is none, or an empty string."""
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
    # By its own name: the listing of a folder on a network may be half a minute old.
    try:
        return path.read_text(encoding="utf-8") == path.name
    except OSError:
        return False


def _say(answers: IO[str], value: object) -> None:
    answers.write(f"{ANSWER}{json.dumps(value)}\n")
    answers.flush()


if __name__ == "__main__":
    run_program(lambda: answer(sys.argv[1], sys.stdin, sys.stdout))
