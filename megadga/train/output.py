"""A run's output folder: locked and written at the start, logged in, marked at the end."""

from collections.abc import Callable
from typing import final

from megadga.config.run import RunConfig
from megadga.data.files import atomic_write
from megadga.errors import ConfigError, ResumeError
from megadga.report.domains import DomainInfo, write_domain_info
from megadga.run_folder import CONFIG_FILE, METRICS_FILE
from megadga.run_folder.checkpoints import CHECKPOINTS, find_checkpoint
from megadga.run_folder.domain_log import DOMAIN_LOG
from megadga.run_folder.lock import RunLock
from megadga.run_folder.markers import RunMarkers
from megadga.run_folder.rewinds import clear_rewinds
from megadga.train.domain_log import DomainLogFile
from megadga.train.metrics import MetricsFile
from megadga.train.ranks import Ranks
from megadga.train.storage import Storage


def open_output(config: RunConfig, lock: RunLock, info: DomainInfo, *, is_new: bool) -> None:
    """Create and lock the run's folder, write its configuration and domains; on rank 0.

    Args:
        config: The run, as it was given.
        lock: The folder's.
        info: What the run's domains are.
        is_new: Whether the run starts here, from no checkpoint.

    Raises:
        ConfigError: If the folder cannot be written, or another process trains in it.
        ResumeError: If a new run's folder has got a checkpoint meanwhile.
    """
    try:
        config.output.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise _unwritable(config, error) from None
    lock_output(config, lock)
    if is_new and find_checkpoint(config.output / CHECKPOINTS) is not None:
        raise ResumeError(
            f"{config.output}: expected no checkpoint, as at the start of this run, found one: "
            "another process has trained here; start again to continue"
        )
    try:
        if is_new:
            clear_rewinds(config.output)
        with atomic_write(config.output / CONFIG_FILE) as file:
            file.write(config.to_yaml().encode())
        write_domain_info(config.output, info)
    except OSError as error:
        raise _unwritable(config, error) from None


def lock_output(config: RunConfig, lock: RunLock) -> None:
    """Lock the run's folder; on rank 0.

    Raises:
        ConfigError: If the folder cannot be written, or another process trains in it.
    """
    try:
        lock.acquire()
    except OSError as error:
        raise _unwritable(config, error) from None


def _unwritable(config: RunConfig, error: OSError) -> ConfigError:
    found = error.strerror or str(error)
    return config.invalid("output", expected="a folder that can be written", found=found)


def log_files(
    config: RunConfig, ranks: Ranks
) -> tuple[MetricsFile, DomainLogFile] | tuple[None, None]:
    """Return the files that a run is logged in; of rank 0."""
    if ranks.rank > 0:
        return None, None
    return MetricsFile(config.output / METRICS_FILE), DomainLogFile(config.output / DOMAIN_LOG)


@final
class CollectiveMarkers:
    """Writes markers on rank 0, and raises on every rank if that fails.

    Args:
        markers: The run's markers.
        storage: The run's file system.
        before_end: Called on rank 0 before the end marker is written; its exceptions end the run
            on every rank, without a marker.
    """

    def __init__(
        self, markers: RunMarkers, storage: Storage, *, before_end: Callable[[], None]
    ) -> None:
        self._markers = markers
        self._storage = storage
        self._before_end = before_end

    def start(self) -> None:
        """See ``RunMarkers``. Collective."""
        self._storage.first("markers", self._markers.start)

    def end(self, step: int, *, finished: bool) -> None:
        """See ``RunMarkers``. Collective."""

        def end() -> None:
            self._before_end()
            self._markers.end(step, finished=finished)

        self._storage.first("markers and metrics", end)
