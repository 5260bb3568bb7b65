"""A run that is to go on from an earlier checkpoint, before its ranks are started. Knows no torch.

A launcher does this once: ranks that it starts again after a failure go on from their latest.
"""

from megadga.cluster.lock import RunLock
from megadga.cluster.markers import DONE
from megadga.config.models import RunConfig
from megadga.errors import ResumeError
from megadga.train.folder import CHECKPOINTS, find_checkpoint, mark_latest


def go_back(config: RunConfig, name: str) -> None:
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
