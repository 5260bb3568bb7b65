"""What hosts are asked about themselves, and what they answer. Knows no way to reach a host."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

ANSWER = "megadga.doctor: "
"""Begins each answer: a host's shell may have things of its own to say before."""


@dataclass(frozen=True)
class Request:
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
    ops: tuple[str, ...]
    environment: Mapping[str, str]

    def as_json(self) -> dict[str, Any]:
        """Return it as JSON has it."""
        return asdict(self)

    @staticmethod
    def of_json(values: Mapping[str, Any]) -> "Request":
        """Return what ``as_json`` was made of."""
        copied: dict[str, Any] = {**values, "ops": tuple(values["ops"])}
        return Request(**copied)


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
    ops_missing: tuple[str, ...]
    op_locks: tuple[str, ...]

    def as_json(self) -> dict[str, Any]:
        """Return it as JSON has it."""
        return asdict(self)

    @staticmethod
    def of_json(values: Mapping[str, Any]) -> "HostReport":
        """Return what ``as_json`` was made of."""
        copied: dict[str, Any] = {**values, "software": Software(**values["software"])}
        copied |= {name: tuple(values[name]) for name in ("ops_missing", "op_locks")}
        return HostReport(**copied)


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
        reports: One a host, in the order of ranks.
        unseen: Hosts whose file in the folder of checkpoints the first host does not see.
    """

    reports: tuple[HostReport | NoReport, ...]
    unseen: tuple[str, ...]
