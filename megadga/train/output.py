"""A run's output folder: locked and written at the start, logged in, marked at the end."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import final

from megadga.config.run import RunConfig
from megadga.data.files import atomic_write
from megadga.errors import ConfigError, ResumeError
from megadga.mixers.updates import UpdateSteps
from megadga.report.domains import DomainInfo, write_domain_info
from megadga.run_folder import CONFIG_FILE, METRICS_FILE
from megadga.run_folder.checkpoints import CHECKPOINTS, find_checkpoint
from megadga.run_folder.domain_log import DOMAIN_LOG
from megadga.run_folder.lock import RunLock
from megadga.run_folder.markers import RunMarkers
from megadga.run_folder.rewinds import clear_rewinds
from megadga.train.components import checkpoint_plan, waiting_of
from megadga.train.domain_log import DomainLogFile
from megadga.train.metrics import MeanWeightsFile, MetricFanOut, MetricsFile
from megadga.train.ranks import Ranks
from megadga.train.storage import Storage
from megadga.train.thinning import ThinnedRecords


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


@final
@dataclass(frozen=True, eq=False)
class RunLogs:
    """What a run's records are logged in; nothing on other ranks than the first.

    Attributes:
        metrics: ``metrics.jsonl``; None: on the others.
        domain_log: ``by_domain.log``; None: on the others.
        sinks: Receives every record.
    """

    metrics: MetricsFile | None
    domain_log: DomainLogFile | None
    sinks: MetricFanOut


def open_logs(config: RunConfig, updates: UpdateSteps | None, ranks: Ranks) -> RunLogs:
    """Return what a run's records are logged in.

    Args:
        config: The run.
        updates: When its weights are updated; None: never.
        ranks: All ranks.
    """
    retries = waiting_of(config).pauses
    if ranks.rank > 0:
        return RunLogs(None, None, MetricFanOut((), retries=retries))
    metrics = MetricsFile(config.output / METRICS_FILE)
    domain_log = DomainLogFile(config.output / DOMAIN_LOG)
    sinks = (domain_log, _thinned_records(config, metrics, updates), _mean_weights_file(config))
    return RunLogs(metrics, domain_log, MetricFanOut(sinks, retries=retries))


def _thinned_records(
    config: RunConfig, metrics: MetricsFile, updates: UpdateSteps | None
) -> ThinnedRecords:
    """Return the metrics file behind what bounds its size."""
    steps, section = config.training.steps, config.evaluation
    return ThinnedRecords(
        metrics,
        every=config.metrics.by_domain_every,
        updates=updates,
        evaluation_interval=steps if section is None else section.interval,
        last_step=steps,
    )


def _mean_weights_file(config: RunConfig) -> MeanWeightsFile:
    """Return the file of the weights' mean over the run, for a run that follows."""
    return MeanWeightsFile(
        config.output / "mean_weights.yaml",
        due=checkpoint_plan(config).due,
        last_step=config.training.steps,
    )


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
