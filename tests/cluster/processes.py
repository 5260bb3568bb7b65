"""What the machine's /proc says of processes. Knows no hosts."""

from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

PROC = Path("/proc")


@dataclass(frozen=True)
class Process:
    """A process that is not a zombie.

    Attributes:
        pid: As the machine numbers it.
        parent: The same of its parent.
        group: The same of its process group.
        command: Its arguments, joined by blanks.
    """

    pid: int
    parent: int
    group: int
    command: str


def all_processes() -> Iterator[Process]:
    """Every process of the machine."""
    for folder in PROC.iterdir():
        if folder.name.isdecimal():
            with suppress(OSError):  # it has ended meanwhile
                state, parent, group = _status(folder)
                words = (folder / "cmdline").read_bytes().rstrip(b"\0").split(b"\0")
                command = b" ".join(words).decode(errors="replace")
                if state not in "ZX":
                    yield Process(int(folder.name), parent, group, command)


def pid_namespace(pid: int) -> str:
    """What the kernel calls a process's PID namespace; empty once it has ended."""
    with suppress(OSError):
        return str((PROC / str(pid) / "ns" / "pid").readlink())
    return ""


def processes_in(namespace: str) -> list[Process]:
    """Those in a PID namespace."""
    return [each for each in all_processes() if pid_namespace(each.pid) == namespace]


def _status(folder: Path) -> tuple[str, int, int]:
    # The name, in parentheses, may hold anything.
    state, parent, group, *_ = (folder / "stat").read_text().rpartition(")")[2].split()
    return state, int(parent), int(group)
