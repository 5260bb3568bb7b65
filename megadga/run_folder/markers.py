"""Marker files for the end of a run: ``DONE``, or ``REQUEUE`` if it was stopped and saved."""

import hashlib
import json
import os
import socket
from contextlib import suppress
from typing import final

from megadga.config.run import RunConfig, without_mutable_keys
from megadga.data.files import atomic_write, parse_strictly
from megadga.errors import MegadgaError, ResumeError
from megadga.run_folder.checkpoints import CHECKPOINTS, find_checkpoint, mark_latest, step_of
from megadga.run_folder.lock import RunLock
from megadga.run_folder.requests import RequestFolder

DONE = "DONE"


REQUEUE = "REQUEUE"


class RunFinishedError(MegadgaError):
    """The run is already finished; not a failure.

    Args:
        step: The step after which it finished.
    """

    def __init__(self, step: int) -> None:
        super().__init__(f"finished after step {step}")
        self.step = step


def finished_step(config: RunConfig) -> int | None:
    """Return the step after which this run finished, None if it has not.

    The marker of another run, of this run with fewer steps than configured now, or a damaged one
    is ignored; whether training may continue is decided from the checkpoint.
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
    """Reads from any machine how a run has ended since this object was created.

    Args:
        config: The run. Its folder need not exist yet.
    """

    def __init__(self, config: RunConfig) -> None:
        self._config = config
        self._requeued_before = self._requeued_at()

    def stopped(self) -> bool:
        """Return whether the run was asked to stop and has saved."""
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
        """Invalidate this machine's cached listing of the folder by changing the folder.

        Network file systems cache missing entries for up to a minute.
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
        writes: True on exactly one rank.
    """

    def __init__(self, config: RunConfig, *, writes: bool) -> None:
        self._folder = config.output
        self._run = _fingerprint(config)
        self._writes = writes

    def start(self) -> None:
        """Remove both markers, as the run continues."""
        if self._writes:
            (self._folder / REQUEUE).unlink(missing_ok=True)
            (self._folder / DONE).unlink(missing_ok=True)

    def end(self, step: int, *, finished: bool) -> None:
        """Write the marker for the end of the run after optimizer step ``step``."""
        if self._writes:
            path = self._folder / (DONE if finished else REQUEUE)
            with atomic_write(path) as file:
                file.write(f"{json.dumps({'step': step, 'run': self._run})}\n".encode())


def _fingerprint(config: RunConfig) -> str:
    text = json.dumps(without_mutable_keys(config.identity()), sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()


def rewind_run(config: RunConfig, name: str) -> None:
    """Make a run resume from a given checkpoint, even if the run is finished.

    The ranks verify later that it is intact and belongs to this run. Requests that were applied
    after it are discarded with the steps.

    Args:
        config: The run.
        name: The checkpoint's name, as ``step-00000500``.

    Raises:
        ResumeError: If there is no such checkpoint, or the folder cannot be written.
        LockedError: If a process is training there.
    """
    checkpoint = find_checkpoint(config.output / CHECKPOINTS, wanted=name)
    assert checkpoint is not None
    lock = RunLock(config.output)
    try:
        lock.acquire()
        mark_latest(checkpoint)
        RequestFolder(config.output).abandon_after(step_of(checkpoint))
        (config.output / DONE).unlink(missing_ok=True)
    except OSError as error:
        found = error.strerror or str(error)
        raise ResumeError(
            f"{config.output}: expected a folder that can be written, found {found}"
        ) from None
    finally:
        lock.release()
