"""What every launcher does around its plan: refuse early, show, run. Knows no kind of cluster."""

import os
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Protocol

from megadga.cluster.going_back import go_back
from megadga.cluster.hostfile import Host, first_hosts, read_hostfile
from megadga.cluster.launching.options import Request
from megadga.cluster.launching.plan import USER_ERROR, Plan, run, show
from megadga.cluster.markers import Outcome, finished_step
from megadga.cluster.operators import remove_abandoned_locks
from megadga.cluster.stopping import STOPPED
from megadga.cluster.supervision import Patience
from megadga.config.deepspeed import accumulation_steps
from megadga.config.loading import load_config
from megadga.config.models import RunConfig
from megadga.errors import ConfigError, MegadgaError


class Preflight(Protocol):
    """Looks at machines before a run starts on them."""

    def __call__(self, hosts: Sequence[Host], *, output: Path, port: int) -> list[str]:
        """Return a line for everything that would make a run fail there.

        Args:
            hosts: With as many slots as ranks will be there; rank 0 on the first.
            output: The run's folder, absolute; it need not exist yet.
            port: Where rank 0 will listen.
        """
        ...


def unchecked(hosts: Sequence[Host], *, output: Path, port: int) -> list[str]:
    """Look at nothing. A ``Preflight``."""
    del hosts, output, port
    return []


def launch(
    request: Request, make_plan: Callable[[RunConfig], Plan], *, preflight: Preflight = unchecked
) -> int:
    """Run what a launcher plans; return its exit code.

    The configuration is read, and held against the number of ranks, before anything starts. A run
    that is finished is not started.

    Args:
        request: What the user asked for.
        make_plan: Turns the run into what to start.
        preflight: Asked about the hosts of a hostfile.
    """
    return told(lambda: _launch(request, make_plan, preflight))


def told(act: Callable[[], int]) -> int:
    """Return an exit code; what the user can mend is told a line each, and is code 2."""
    try:
        return act()
    except MegadgaError as error:
        print(error, file=sys.stderr)
        return USER_ERROR


def is_finished(config: RunConfig, request: Request) -> bool:
    """Return whether a run is finished, and say so if it is; one that goes back is not."""
    if request.resume_from is not None:
        return False
    step = finished_step(config)
    if step is not None:
        print(f"{config.output}: finished after step {step}; nothing is left to train")
    return step is not None


def check_ranks(config: RunConfig, ranks: int) -> None:
    """Refuse a run whose batch does not divide among its ranks.

    Raises:
        ConfigError: If it does not.
    """
    accumulation_steps(config, ranks)


def patience_of(request: Request, *, end_s: float) -> Patience:
    """Return how long processes get.

    Args:
        request: Says how long a run may take, and saving.
        end_s: What ending takes when it goes well.
    """
    limit_s = None if request.time_s is None else float(request.time_s - request.save_s)
    return Patience(stop_s=float(request.save_s), end_s=end_s, limit_s=limit_s)


def requested_hosts(request: Request) -> tuple[Host, ...]:
    """Return the machines of a request, with as many slots as ranks will be there.

    Raises:
        ConfigError: If there is no hostfile for several nodes, or it does not suffice.
    """
    if request.hostfile is None:
        raise ConfigError(
            f"--hostfile: expected a file that lists {request.nodes} hosts, found none"
        )
    return first_hosts(
        request.hostfile,
        read_hostfile(request.hostfile),
        nodes=request.nodes,
        accelerators_per_node=request.accelerators_per_node,
    )


def _launch(request: Request, make_plan: Callable[[RunConfig], Plan], preflight: Preflight) -> int:
    config = load_config(request.config, request.overrides)
    if is_finished(config, request):
        return 0
    plan = make_plan(config)
    check_ranks(config, plan.ranks)
    if request.dry_run:
        print(show(plan, os.environ))
        return 0
    if request.hostfile is not None and plan.port is not None:
        failures = preflight(plan.hosts, output=config.output.absolute(), port=plan.port)
        if failures:
            raise ConfigError("\n".join(failures))
    if request.resume_from is not None:
        go_back(config, request.resume_from)
    if plan.stop_file is not None:
        make_output(config)
    outcome = Outcome(config)
    started = time.time()
    code = run(
        plan,
        output=config.output,
        ended_well=outcome.ended_well,
        tell=lambda line: print(line, file=sys.stderr, flush=True),
    )
    for lock in remove_abandoned_locks(os.environ, since=started):
        print(f"removed {lock}, which a rank that was ended has left", file=sys.stderr)
    # Launchers in between have ideas of their own about exit codes; the run's folder has none.
    return STOPPED if outcome.stopped() else code


def make_output(config: RunConfig) -> None:
    """Create the run's folder, which all machines see: checkpoints need that, too."""
    try:
        config.output.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise config.mistake(
            "output", expected="a folder that can be written", found=error.strerror or str(error)
        ) from None
