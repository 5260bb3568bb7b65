"""The hosts that ranks are started on, as a hostfile lists them. Knows no launcher."""

import re
from collections.abc import Generator, Sequence
from dataclasses import dataclass
from pathlib import Path

from megadga.errors import ConfigError

_LINE = re.compile(r"(?P<name>\S+)\s+slots=(?P<slots>\d+)", re.ASCII)
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*|[0-9A-Fa-f]*:[0-9A-Fa-f:.]+", re.ASCII)
_EXPECTED = "expected 'NAME slots=N' with a host's name or address and N of at least 1"


@dataclass(frozen=True)
class Host:
    """One machine.

    Attributes:
        name: Its name or address, as ssh takes it.
        slots: Ranks that it can run, at least 1: its accelerators.
    """

    name: str
    slots: int


def read_hostfile(path: Path) -> tuple[Host, ...]:
    """Read a hostfile as DeepSpeed and Open MPI have it: a line ``NAME slots=N`` a host.

    Lines that are empty or begin with ``#`` are passed over.

    Raises:
        ConfigError: If the file cannot be read, lists no host or one twice, or a line is not
            one of these; the message names the file and the line.
    """
    try:
        text = path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        found = error.strerror if isinstance(error, OSError) else "bytes that are not UTF-8"
        raise ConfigError(f"{path}: expected a readable hostfile, found: {found}") from None
    first_lines: dict[str, int] = {}
    hosts: list[Host] = []
    for number, host in _hosts(path, text):
        if (first := first_lines.setdefault(host.name, number)) != number:
            raise ConfigError(
                f"{path}:{number}: expected every host once, found {host.name!r} again, "
                f"first in line {first}"
            )
        hosts.append(host)
    if not hosts:
        raise ConfigError(f"{path}: expected at least one host, found none")
    return tuple(hosts)


def first_hosts(
    path: Path, hosts: Sequence[Host], *, nodes: int, accelerators_per_node: int | None
) -> tuple[Host, ...]:
    """Return the first ``nodes`` hosts, each with the slots that are used of it.

    Args:
        path: The hostfile, for messages.
        hosts: All hosts of it.
        nodes: How many to use, at least 1.
        accelerators_per_node: Ranks on each, at least 1; None: all slots, as many on every host.

    Raises:
        ConfigError: If there are not as many hosts, or one has too few slots or other slots.
    """
    if len(hosts) < nodes:
        raise ConfigError(f"{path}: expected at least {nodes} hosts, found {len(hosts)}")
    used = tuple(hosts[:nodes])
    wanted = used[0].slots if accelerators_per_node is None else accelerators_per_node
    for host in used:
        if host.slots < wanted or (accelerators_per_node is None and host.slots != wanted):
            bound = "" if accelerators_per_node is None else " or more"
            raise ConfigError(
                f"{path}: expected slots={wanted}{bound} at {host.name!r}, found {host.slots}"
            )
    return tuple(Host(host.name, wanted) for host in used)


def _hosts(path: Path, text: str) -> Generator[tuple[int, Host]]:
    for number, line in enumerate(text.splitlines(), start=1):
        content = line.strip()
        if not content or content.startswith("#"):
            continue
        match = _LINE.fullmatch(content)
        if match is None or not _NAME.fullmatch(match["name"]) or int(match["slots"]) < 1:
            raise ConfigError(f"{path}:{number}: {_EXPECTED}, found {content!r}")
        yield number, Host(match["name"], int(match["slots"]))
