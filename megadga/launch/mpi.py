"""Open MPI's mpirun, on this machine or on the hosts of a hostfile.

mpirun starts the ranks and nothing else: they find each other as torch's ranks do, so that it does
not matter for which MPI anything was built.
"""

import os
import shutil
import sys
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

from megadga.config.run import RunConfig
from megadga.console import run_program
from megadga.errors import ConfigError
from megadga.launch.doctor.diagnosis import preflight
from megadga.launch.hosts import LOCALHOST, Host, LaunchContext, unreachable
from megadga.launch.options import LaunchRequest, common_parser, to_request
from megadga.launch.plan import Plan, hosts_or_here, launch, timeouts_for
from megadga.launch.supervision import Command

_KEEP_ALIVE = {
    f"{prefix}_MCA_oob_tcp_keepalive_{name}": value
    for prefix in ("PRTE", "OMPI")  # from Open MPI 5 on, and before
    for name, value in (("time", "10"), ("intvl", "5"), ("probes", "3"))
}
"""A lost host must end the run, not hang it: noticed after 25 s; after 8 minutes otherwise."""


def mpi_plan(
    request: LaunchRequest, hosts: Sequence[Host], place: LaunchContext, *, mpirun: str, cores: int
) -> Plan:
    """Return what starts a rank for every slot of every host.

    Args:
        request: The user's options.
        hosts: The machines, with as many slots each as ranks are wanted there.
        place: Where the launcher was started.
        mpirun: The program, by its path.
        cores: Cores of this machine: more ranks than that must be allowed.
    """
    ranks = sum(host.slots for host in hosts)
    forwarded = {
        **place.variables(ranks),
        "MASTER_ADDR": "127.0.0.1" if hosts[0].name == LOCALHOST else hosts[0].name,
        "MASTER_PORT": str(place.port),
    }
    arguments = (
        *(mpirun, "-n", str(ranks)),
        *("--host", ",".join(f"{host.name}:{host.slots}" for host in hosts)),
        # Otherwise each rank, with all its threads, is held on one core.
        *("--bind-to", "none"),
        *(("--oversubscribe",) if max(host.slots for host in hosts) > cores else ()),
        *("--wdir", str(place.folder)),
        # By name alone: mpirun forwards the values itself, and `ps` shows none of them.
        *(part for name in forwarded for part in ("-x", name)),
        *request.train(),
    )
    return Plan(
        (Command(arguments, {**_KEEP_ALIVE, **place.environment, **forwarded}, place.folder),),
        tuple(hosts),
        timeouts=timeouts_for(request, end_s=15.0),
        max_restarts=request.max_restarts,
        port=place.port,
        stop_file=place.stop_file,
        lost=tuple if request.hostfile is None else partial(unreachable, hosts),
    )


def main(
    arguments: Sequence[str],
    *,
    prog: str = "megadga launch mpi",
    preflight: Callable[..., Sequence[str]] = preflight,
) -> int:
    """Run ``megadga launch mpi``; return the exit code.

    Args:
        arguments: The command line's.
        prog: What the program is called in messages.
        preflight: See ``launch``.
    """
    parser = common_parser(
        prog,
        "Train with Open MPI's mpirun: on the hosts of a hostfile, or else on this machine.",
        hosts=True,
    )
    request = to_request(parser, parser.parse_args(arguments))

    def plan(config: RunConfig) -> Plan:
        return mpi_plan(
            request,
            hosts_or_here(request),
            LaunchContext.here(config.output),
            mpirun=_find_mpirun(),
            cores=len(os.sched_getaffinity(0)),
        )

    return launch(request, plan, preflight=preflight)


def _find_mpirun() -> str:
    """Return the path of mpirun: the one of the search path, or that of this environment."""
    found = shutil.which("mpirun") or shutil.which("mpirun", path=str(Path(sys.executable).parent))
    if found is None:
        raise ConfigError("mpirun: expected Open MPI on the search path, found none")
    return found


if __name__ == "__main__":  # as the launcher's pod of an MPIJob does, whose workers may be late
    run_program(lambda: main(sys.argv[1:], preflight=lambda *_, **__: ()))
