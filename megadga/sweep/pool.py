"""Trains runs in processes of their own, several at a time, and stops all of them when asked."""

import os
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import final

from megadga.launch.supervision import StopSignal, die_with_parent

_POLL_S = 0.1
KEEP_MEMORY = {"MALLOC_MMAP_THRESHOLD_": "4294967296", "MALLOC_TRIM_THRESHOLD_": "4294967296"}
"""glibc gives large blocks back to the system and asks for them again at every step otherwise."""


@final
@dataclass(frozen=True)
class Job:
    """A program to run.

    Attributes:
        name: For messages.
        arguments: Those of the Python interpreter.
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
    def on_cores(number: int) -> "Slots":
        """Return so many places, each with its part of this process's cores."""
        threads = max(1, len(os.sched_getaffinity(0)) // number)
        return Slots(({**KEEP_MEMORY, "OMP_NUM_THREADS": str(threads)},) * number)

    @staticmethod
    def on_accelerators(number: int, visible: str | None) -> "Slots":
        """Return a place on each accelerator.

        Args:
            number: How many there are.
            visible: This process's ``CUDA_VISIBLE_DEVICES``; None: it has none.
        """
        devices = visible.split(",") if visible else list(map(str, range(number)))
        return Slots(tuple({"CUDA_VISIBLE_DEVICES": each} for each in devices[:number]))


def run_jobs(
    jobs: Sequence[Job],
    slots: Slots,
    *,
    stop: StopSignal,
    environment: Mapping[str, str],
) -> Iterator[JobEnded]:
    """Run jobs, as many at a time as there are places, and yield each as it ends.

    When a stop is requested, no other starts, those that run get SIGTERM (a run then saves), and
    what they end with is yielded. None is left when the iteration ends in whatever way; if this
    process is killed, they get SIGTERM.

    Args:
        jobs: In the order in which they start.
        slots: Where.
        stop: Asked between polls; entered by the caller.
        environment: All variables of the jobs, but for those of their places.
    """
    waiting = list(reversed(jobs))
    free = list(reversed(slots.environments))
    running: list[_Running] = []
    asked = False
    try:
        while running or (waiting and not asked):
            while waiting and free and not asked:
                running.append(_start(waiting.pop(), free.pop(), environment))
            time.sleep(_POLL_S)
            if not asked and stop.requested():
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
    process: subprocess.Popen[bytes]
    since: float

    def ended(self) -> JobEnded:
        code = self.process.returncode
        return JobEnded(self.job, 128 - code if code < 0 else code, time.monotonic() - self.since)


def _start(job: Job, slot: Mapping[str, str], environment: Mapping[str, str]) -> _Running:
    """Start a job in a session of its own, which a terminal's Ctrl-C does not reach."""
    job.log.parent.mkdir(parents=True, exist_ok=True)
    parent = os.getpid()
    with job.log.open("ab") as log:
        process = subprocess.Popen(  # noqa: S603  (no shell)
            (sys.executable, *job.arguments),
            env={**environment, **slot},
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            start_new_session=True,
            preexec_fn=lambda: die_with_parent(parent),  # noqa: PLW1509  (no threads here)
        )
    return _Running(job, slot, process, time.monotonic())
