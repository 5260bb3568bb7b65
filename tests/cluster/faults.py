"""Runs without end on two hosts, for something to happen to, and what is left of them."""

import os
import signal
import sys
import time
from collections.abc import Generator, Iterable
from contextlib import contextmanager

from tests.cluster.hosts import Host
from tests.cluster.jobs import Job
from tests.cluster.processes import Process
from tests.cluster.runs import Trial

START_S = 300.0
"""That compilers and other runs may delay a start by."""
DEADLINE_S = 60.0
ENDLESS = "--set=training.steps=1000000"


@contextmanager
def endless(
    trial: Trial, launcher: str, host: Host, *options: str, after_step: int = 12
) -> Generator[Job]:
    """Launch a run from a host, and have it train for a while."""
    command = trial.over_two_hosts(launcher, ENDLESS, *options)
    environment = trial.environment(MEGADGA_DEADLINE_S=str(DEADLINE_S / 2))
    with host.start(*command, env=environment, cwd=trial.folder) as job:
        job.wait_until(lambda: trial.step() >= after_step, START_S, f"step {after_step}")
        yield job


def resume(trial: Trial, launcher: str, host: Host) -> str:
    """Launch a run again, to train a few steps more; return what it said."""
    steps = trial.step() + 3
    command = trial.over_two_hosts(launcher, f"--set=training.steps={steps}")
    done = host.run(*command, env=trial.environment(), cwd=trial.folder, timeout_s=START_S)
    assert done.code == 0, done.text
    assert trial.step() == steps
    assert trial.markers() == {"DONE"}
    return done.text


def ranks_on(host: Host) -> list[Process]:
    """Return the ranks that train on a host, without what has started them."""
    rank = f"{sys.executable} -u -m megadga.cli train "
    return [p for p in host.processes() if p.command.startswith(rank)]


def leftovers(hosts: Iterable[Host]) -> list[str]:
    """Return what still runs on hosts and has to do with a run."""
    words = ("megadga", "deepspeed", "torch.distributed", "mpirun", "prted", "pdsh")
    return [
        f"{host.name}: {process.command[:200]}"
        for host in hosts
        for process in host.processes()
        if any(word in process.command for word in words)
    ]


def assert_nothing_left(hosts: Iterable[Host], *, within_s: float) -> None:
    """Wait until nothing of a run is left on hosts."""
    hosts = tuple(hosts)
    ends = time.monotonic() + within_s
    while found := leftovers(hosts):
        assert time.monotonic() < ends, f"left after {within_s:.0f} s: {found}"
        time.sleep(0.5)


def kill_a_rank(host: Host) -> None:
    """Kill one of a host's ranks, as the kernel does when memory runs out."""
    os.kill(ranks_on(host)[-1].pid, signal.SIGKILL)
