"""How a run ended, as files: ``DONE``, or ``REQUEUE`` for one that stopped and saved."""

import hashlib
import json
import os
import socket
from contextlib import suppress
from typing import final

from megadga.config.run import RunConfig, without_mutable_keys
from megadga.data.files import atomic_write, parse_strictly
from megadga.errors import MegadgaError, ResumeError
from megadga.run_folder.checkpoints import CHECKPOINTS, find_checkpoint, mark_latest
from megadga.run_folder.lock import RunLock

DONE = "DONE"


REQUEUE = "REQUEUE"


class RunFinishedError(MegadgaError):
    """Nothing is left to train: no failure, and no reason to start again.

    Args:
        step: The step at which the run finished.
    """

    def __init__(self, step: int) -> None:
        super().__init__(f"finished after step {step}")
        self.step = step


def finished_step(config: RunConfig) -> int | None:
    """Return the step at which this run finished; None: it has not.

    A folder where another run finished, or this one with fewer steps than it has now, or whose
    marker is damaged, says nothing: whether training may go on from there is for its checkpoint
    to tell.
    """
    try:
        done = parse_strictly((config.output / DONE).read_bytes())
    except (OSError, ValueError):
        return None
    match done:
        case {"run": str(run), "step": int(step)} if not isinstance(step, bool):
            finished = run == _fingerprint(config) and step >= config.training.steps
            return step if finished else None
        case _:
            return None


@final
class RunOutcome:
    """Reads how a run has ended since this was made, from any machine.

    Args:
        config: The run. Its folder need not exist yet.
    """

    def __init__(self, config: RunConfig) -> None:
        self._config = config
        self._requeued_before = self._requeued_at()

    def stopped(self) -> bool:
        """Return whether the run was asked to stop, and has saved."""
        self._look_again()
        return self._requeued_at() not in (None, self._requeued_before)

    def ended_normally(self) -> bool:
        """Return whether the run has stopped or is finished."""
        return self.stopped() or finished_step(self._config) is not None

    def _requeued_at(self) -> int | None:
        try:
            return (self._config.output / REQUEUE).stat().st_mtime_ns
        except OSError:
            return None

    def _look_again(self) -> None:
        """Have this machine forget which files it believes not to be in the folder.

        On a network's file system it goes on believing for a minute, unless it changes the folder.
        """
        with suppress(OSError):
            probe = self._config.output / f".look-{socket.gethostname()}-{os.getpid()}"
            probe.touch()
            probe.unlink()


@final
class RunMarkers:
    """Writes the markers of one run.

    Args:
        config: The run.
        writes: False on all ranks but one.
    """

    def __init__(self, config: RunConfig, *, writes: bool) -> None:
        self._folder = config.output
        self._run = _fingerprint(config)
        self._writes = writes

    def start(self) -> None:
        """Say that the run goes on: neither marker holds any longer."""
        if self._writes:
            (self._folder / REQUEUE).unlink(missing_ok=True)
            (self._folder / DONE).unlink(missing_ok=True)

    def end(self, step: int, *, finished: bool) -> None:
        """Say how the run ended, after optimizer step ``step``."""
        if self._writes:
            path = self._folder / (DONE if finished else REQUEUE)
            with atomic_write(path) as file:
                file.write(f"{json.dumps({'step': step, 'run': self._run})}\n".encode())


def _fingerprint(config: RunConfig) -> str:
    text = json.dumps(without_mutable_keys(config.identity()), sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()


def rewind_run(config: RunConfig, name: str) -> None:
    """Make a checkpoint the one that a run continues from, whether or not the run is finished.

    Whether it is whole, and this run's, is seen by the ranks.

    Args:
        config: The run.
        name: The checkpoint's, as ``step-00000500``.

    Raises:
        ResumeError: If there is none of that name, or the folder cannot be written.
        LockedError: If a process trains there.
    """
    checkpoint = find_checkpoint(config.output / CHECKPOINTS, wanted=name)
    assert checkpoint is not None
    lock = RunLock(config.output)
    try:
        lock.acquire()
        mark_latest(checkpoint)
        (config.output / DONE).unlink(missing_ok=True)
    except OSError as error:
        found = error.strerror or str(error)
        raise ResumeError(
            f"{config.output}: expected a folder that can be written, found {found}"
        ) from None
    finally:
        lock.release()
