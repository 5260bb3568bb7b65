"""The whole diagnosis, the cheap part first; and that part alone, for launchers."""

import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

from megadga.cluster.hostfile import Host
from megadga.doctor.asking import ask_hosts
from megadga.doctor.checks import Finding, Wanted, findings
from megadga.doctor.places import Place
from megadga.doctor.reach import Ssh
from megadga.doctor.reducing import Bandwidth, reduce_on
from megadga.doctor.software import own_software


def preflight(
    hosts: Sequence[Host],
    *,
    output: Path,
    port: int,
) -> list[str]:
    """Return what would keep a run from starting or working on hosts, before any rank starts.

    Each host is asked once, over ssh, and all at the same time: seconds, without torch where
    there are no accelerators.

    Args:
        hosts: In the order of ranks, at least one, each once, with its number of ranks as slots.
        output: The run's folder, which need not exist yet.
        port: Where rank 0 will listen.

    Returns:
        A line a failure, which begins with the host's name and ends with the remedy.
    """
    place = Place(tuple(hosts), Ssh())
    found = look_at(place, output=output, port=port, ops=())
    return [str(finding) for finding in found if finding.failed]


def look_at(place: Place, *, output: Path, port: int, ops: Sequence[str]) -> list[Finding]:
    """Ask the hosts, and judge their answers.

    Args:
        place: The hosts.
        output: The run's folder, which need not exist yet.
        port: Where rank 0 will listen.
        ops: DeepSpeed's compiled operators that the run needs.
    """
    folder = _existing(output)
    names = [host.name for host in place.hosts]
    answers = ask_hosts(names, place.reach, folder=folder, port=port, ops=ops)
    wanted = Wanted(
        hosts=place.hosts,
        software=own_software(),
        folder=folder,
        port=port,
        interpreter=sys.executable,
        reach=place.reach.name,
    )
    return findings(answers, wanted)


def diagnose(
    place: Place, *, output: Path, port: int, ops: Sequence[str], deadline_s: float | None
) -> Iterator[Finding | Bandwidth]:
    """Yield what is found, as it is found.

    All ranks are tried together only when nothing has failed until then.

    Args:
        place: The hosts.
        output: The run's folder, which need not exist yet.
        port: Where rank 0 will listen.
        ops: DeepSpeed's compiled operators that the run needs.
        deadline_s: Seconds that ranks wait for each other, above 0; None: they are not tried.
    """
    found = look_at(place, output=output, port=port, ops=ops)
    yield from found
    if deadline_s is not None and not any(finding.failed for finding in found):
        reduced = reduce_on(place.hosts, place.reach, port=port, deadline_s=deadline_s)
        yield from [reduced] if isinstance(reduced, Bandwidth) else reduced


def _existing(folder: Path) -> Path:
    """Return the folder, or else the nearest one above it: nothing is made for a diagnosis."""
    return next(each for each in (folder, *folder.absolute().parents) if each.is_dir()).absolute()
