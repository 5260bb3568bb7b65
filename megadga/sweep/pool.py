"""Trains runs in processes of their own, several at a time, and stops all of them when asked."""

import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol, final

from megadga.launch.supervision import die_with_parent

_POLL_S = 0.1
KEEP_MEMORY = {"MALLOC_MMAP_THRESHOLD_": "4294967296", "MALLOC_TRIM_THRESHOLD_": "4294967296"}
"""glibc gives large blocks back to the system and asks for them again at every step otherwise."""


@final
@dataclass(frozen=True)
class Job:
    """A program to run.

    Attributes:
        name: For messages.
        arguments: Those of the Python interpreter, such as ``-m`` and a module.
        log: File that takes its output, after what is there; its folder is made.
    """

    name: str
    arguments: tuple[str, ...]
    log: Path


@final
@dataclass(frozen=True)
class JobEnded:
    """What became of a job.

    Attributes:
        job: Which.
        code: Its exit code; 128 + N for signal N.
        seconds: How long it took.
    """

    job: Job
    code: int
    seconds: float


@final
@dataclass(frozen=True)
class Slots:
    """Places for jobs on this machine.

    Attributes:
        environments: Variables of a job in each place, besides this process's own; at least one.
    """

    environments: tuple[Mapping[str, str], ...]

    @staticmethod
    def on_cores(number: int, environment: Mapping[str, str]) -> "Slots":
        """Return so many places, each with its part of this process's cores.

        Args:
            number: At least 1.
            environment: This process's: what it says of threads and memory stays.
        """
        threads = max(1, len(os.sched_getaffinity(0)) // number)
        own = {**KEEP_MEMORY, "OMP_NUM_THREADS": str(threads)}
        return Slots(({k: v for k, v in own.items() if k not in environment},) * number)

    @staticmethod
    def on_accelerators(number: int, visible: str | None) -> "Slots":
        """Return a place on each accelerator.

        Args:
            number: How many there are.
            visible: This process's ``CUDA_VISIBLE_DEVICES``; None: it has none.
        """
        devices = visible.split(",") if visible else list(map(str, range(number)))
        return Slots(tuple({"CUDA_VISIBLE_DEVICES": each} for each in devices[:number]))


class Process(Protocol):
    """A job that was started; ``subprocess.Popen`` is one."""

    def poll(self) -> int | None:
        """Return the exit code, negative for a signal; None: it runs."""
        ...

    def terminate(self) -> None:
        """Send SIGTERM, unless it has ended."""
        ...

    def wait(self) -> int:
        """Wait for its end, and return the exit code."""
        ...


Start = Callable[[Job, Mapping[str, str]], Process]
"""Starts a job with all of its variables."""


def start_process(job: Job, environment: Mapping[str, str]) -> Process:
    """Start a job in a session of its own, which a terminal's Ctrl-C does not reach."""
    job.log.parent.mkdir(parents=True, exist_ok=True)
    parent = os.getpid()
    with job.log.open("ab") as log:
        return subprocess.Popen(  # noqa: S603  (no shell)
            (sys.executable, *job.arguments),
            env=dict(environment),
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            start_new_session=True,
            preexec_fn=lambda: die_with_parent(parent),  # noqa: PLW1509  (no threads here)
        )


def run_jobs(
    jobs: Sequence[Job],
    slots: Slots,
    *,
    stop_requested: Callable[[], bool],
    environment: Mapping[str, str],
    start: Start = start_process,
) -> Iterator[JobEnded]:
    """Run jobs, as many at a time as there are places, and yield each as it ends.

    When a stop is requested, no other starts, those that run get SIGTERM (a run then saves), and
    what they end with is yielded. None is left when the iteration ends in whatever way; if this
    process is killed, they get SIGTERM.

    Args:
        jobs: In the order in which they start.
        slots: Where.
        stop_requested: Asked between polls.
        environment: All variables of the jobs, but for those of their places.
        start: Starts a job.
    """
    waiting = list(reversed(jobs))
    free = list(reversed(slots.environments))
    running: list[_Running] = []
    asked = False
    try:
        while running or (waiting and not asked):
            while waiting and free and not asked:
                job, slot = waiting.pop(), free.pop()
                process = start(job, {**environment, **slot})
                running.append(_Running(job, slot, process, time.monotonic()))
            time.sleep(_POLL_S)
            if not asked and stop_requested():
                asked = True
                for each in running:
                    each.process.terminate()
            for each in [each for each in running if each.process.poll() is not None]:
                running.remove(each)
                free.append(each.slot)
                yield each.ended()
    finally:
        for each in running:
            each.process.terminate()
        for each in running:
            each.process.wait()


@final
@dataclass(frozen=True)
class _Running:
    job: Job
    slot: Mapping[str, str]
    process: Process
    since: float

    def ended(self) -> JobEnded:
        code = self.process.wait()
        return JobEnded(self.job, 128 - code if code < 0 else code, time.monotonic() - self.since)
