"""``megadga doctor``: finds the hosts, prints what is found about them."""

import os
from pathlib import Path

from megadga.cluster.operators import needed_ops
from megadga.cluster.ranks import DEFAULT_PORT
from megadga.config.models import RunConfig
from megadga.doctor.checks import Finding
from megadga.doctor.diagnosis import diagnose
from megadga.doctor.places import find_place
from megadga.errors import ConfigError


def run_doctor(
    config: RunConfig | None,
    *,
    hostfile: Path | None,
    nodes: int | None,
    accelerators_per_node: int | None,
    deadline_s: float,
    all_reduce: bool = True,
) -> bool:
    """Print a line for each finding, with its remedy; return whether something failed.

    Args:
        config: The run, whose output all hosts must share; None: they must share this folder.
        hostfile: See ``find_place``.
        nodes: See ``find_place``.
        accelerators_per_node: See ``find_place``.
        deadline_s: Seconds that ranks wait for each other, above 0.
        all_reduce: Try all ranks together, if nothing has failed until then.

    Raises:
        ConfigError: If there are no such hosts, or ``MASTER_PORT`` is no port.
    """
    place = find_place(
        hostfile, os.environ, nodes=nodes, accelerators_per_node=accelerators_per_node
    )
    ranks = sum(host.slots for host in place.hosts)
    print(f"{len(place.hosts)} hosts, {ranks} ranks, by {place.reach.name}", flush=True)
    failed = False
    for found in diagnose(
        place,
        output=Path() if config is None else config.output,
        port=_port(),
        ops=() if config is None else needed_ops(config.deepspeed),
        deadline_s=deadline_s if all_reduce else None,
    ):
        grave = isinstance(found, Finding) and found.failed
        failed |= grave
        print(f"{'FAILED' if grave else 'note' if isinstance(found, Finding) else 'ok'}  {found}")
    return failed


def _port() -> int:
    text = os.environ.get("MASTER_PORT", str(DEFAULT_PORT))
    if not (text.isascii() and text.isdecimal() and 0 < int(text) <= 65535):
        raise ConfigError(f"MASTER_PORT: expected a port in [1, 65535], found {text!r}")
    return int(text)
