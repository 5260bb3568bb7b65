"""What people have in their shell when they start something on a cluster, and hostfiles."""

from collections.abc import Sequence
from pathlib import Path

from tests.cluster.hosts import Host
from tests.support.ranks import rank_environment


def shell_environment(**variables: str) -> dict[str, str]:
    """Return this process's environment, without what belongs to ranks, as root's may be."""
    as_root = {"OMPI_ALLOW_RUN_AS_ROOT": "1", "OMPI_ALLOW_RUN_AS_ROOT_CONFIRM": "1"}
    return rank_environment(**as_root, **variables)


def write_hostfile(path: Path, hosts: Sequence[Host | str], *, slots: int = 2) -> Path:
    """Write a hostfile of hosts or names with as many slots each."""
    names = [host.name if isinstance(host, Host) else host for host in hosts]
    path.write_text("".join(f"{name} slots={slots}\n" for name in names))
    return path
