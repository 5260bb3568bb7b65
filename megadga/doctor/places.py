"""Which hosts a diagnosis is of, and how they are reached: a hostfile, an allocation, or here."""

import subprocess
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from megadga.cluster.hostfile import Host, first_hosts, read_hostfile
from megadga.doctor.machine import count_devices
from megadga.doctor.reach import Here, Reach, Srun, Ssh
from megadga.errors import ConfigError


@dataclass(frozen=True)
class Place:
    """Hosts, and the way to them.

    Attributes:
        hosts: In the order of ranks, each with the ranks that it is to run.
        reach: How their shells are reached.
    """

    hosts: tuple[Host, ...]
    reach: Reach


def find_place(
    hostfile: Path | None,
    environment: Mapping[str, str],
    *,
    nodes: int | None,
    accelerators_per_node: int | None,
) -> Place:
    """Return the hosts that are meant.

    Args:
        hostfile: Lists them; None: those of the SLURM allocation, or else this machine alone.
        environment: Says whether there is an allocation.
        nodes: How many of them, at least 1; None: all.
        accelerators_per_node: Ranks on each, at least 1; None: what the hostfile or SLURM says,
            or else as many as there are accelerators or cores here.

    Raises:
        ConfigError: If the hostfile, SLURM or this machine has not what is asked for.
    """
    if hostfile is not None:
        listed = read_hostfile(hostfile)
        hosts = first_hosts(
            hostfile,
            listed,
            nodes=nodes or len(listed),
            accelerators_per_node=accelerators_per_node,
        )
        return Place(hosts, Ssh())
    if "SLURM_JOB_NODELIST" in environment:
        names = _allocated(environment["SLURM_JOB_NODELIST"])
        slots = accelerators_per_node or _allocated_slots(environment)
        if nodes is not None and nodes > len(names):
            raise ConfigError(f"--nodes: expected at most {len(names)} in this job, found {nodes}")
        return Place(tuple(Host(name, slots) for name in names[:nodes]), Srun())
    if nodes is not None and nodes > 1:
        raise ConfigError(f"--nodes: expected a --hostfile or a SLURM job for {nodes} hosts")
    return Place((Host("localhost", accelerators_per_node or count_devices()[0]),), Here())


def _allocated(nodelist: str) -> list[str]:
    command = ["scontrol", "show", "hostnames", nodelist]
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=True)  # noqa: S603
    except (OSError, subprocess.CalledProcessError) as error:
        raise ConfigError(
            f"SLURM_JOB_NODELIST: expected scontrol to tell the hosts of {nodelist!r}, "
            f"found {error}"
        ) from None
    return done.stdout.split()


def _allocated_slots(environment: Mapping[str, str]) -> int:
    for name in ("SLURM_GPUS_ON_NODE", "SLURM_NTASKS_PER_NODE"):
        if environment.get(name, "").isdecimal():
            return int(environment[name])
    return 1
