"""What a run starts from: its data and, if there is one, a checkpoint; agreed on by all ranks."""

import socket
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, final

from megadga.config.changes import find_changes, run_identity, with_allowed
from megadga.config.deepspeed import deepspeed_settings
from megadga.config.run import RunConfig, differences
from megadga.data.verify import DataFileWatcher, check_checksums
from megadga.errors import ConfigError
from megadga.report.domains import DomainInfo
from megadga.run_folder.checkpoints import CHECKPOINTS
from megadga.run_folder.domains import read_domains
from megadga.run_folder.lock import FILE_NAME, RunLock
from megadga.run_folder.requests import RequestFolder
from megadga.train.checkpoints import ResumePoint, check_intact, find_resume_point
from megadga.train.data import RunData
from megadga.train.described import describe_domains
from megadga.train.live import opened_in_force
from megadga.train.mixture import Mixture
from megadga.train.monitors.opening import check_packages
from megadga.train.opening import Opened
from megadga.train.output import lock_output
from megadga.train.paths import no_checkpoint
from megadga.train.ranks import Ranks, on_every_rank, on_first_rank
from megadga.train.revisions import Revision, check_unrevised, describe_revision, plan_revision


@dataclass(frozen=True)
class ResumeRequest:
    """What a user asks of a resume.

    Attributes:
        checkpoint: Name of the checkpoint to resume from; None: the latest, if there is one.
        allowed: Dotted keys that may differ from the checkpoint's, beyond those that always may.
        required: Whether there must be a checkpoint.
    """

    checkpoint: str | None = None
    allowed: Collection[str] = ()
    required: bool = False


@final
@dataclass(frozen=True, eq=False)
class RunStart:
    """What a run starts from, verified; equal on every rank.

    Attributes:
        given: The run, as it is configured.
        config: The run, with the section `data` in force.
        data: Its data.
        mixture: Its rule over their domains.
        settings: DeepSpeed's settings, completed for the number of ranks.
        point: The checkpoint; None: the run is new.
        allowed: Keys that the user allows to differ from the checkpoint's.
        identity: The run's identity; see ``CheckpointHeader``.
        revision: What has changed of domains and mixture since the checkpoint; None: there is no
            checkpoint, or none that says which domains it is of.
        files: Watches the data files, on rank 0.
        info: What the domains are.
    """

    given: RunConfig
    config: RunConfig
    data: RunData
    mixture: Mixture
    settings: dict[str, Any]
    point: ResumePoint | None
    allowed: Collection[str]
    identity: Mapping[str, Any]
    revision: Revision | None
    files: DataFileWatcher
    info: DomainInfo

    @property
    def is_new(self) -> bool:
        """Whether there is no checkpoint."""
        return self.point is None

    @property
    def completed(self) -> int:
        """Optimizer steps that the run has completed."""
        return 0 if self.point is None else self.point.header.step


def find_start(
    given: RunConfig,
    opened: Opened,
    wanted: ResumeRequest,
    *,
    lock: RunLock,
    ranks: Ranks,
    report: Callable[[str], None],
) -> RunStart:
    """Find and verify what a run starts from, before a model is built. Collective.

    If the run was started before, its folder is locked from here on. Requests with the steps after
    a checkpoint that the user names are discarded.

    Args:
        given: The run, as it is configured.
        opened: What was opened for it, equal on every rank.
        wanted: What the user asks of a resume.
        lock: The lock of the run's folder.
        ranks: All ranks.
        report: Called with a line for the user, on rank 0.

    Raises:
        ConfigError: If there is no checkpoint and must be one, monitors lack a package, or the
            global batch does not divide among the ranks.
        ResumeError: If the checkpoint is of another run, or damaged.
        ShardError: If data files have changed since the checkpoint.
        LockedError: If another process trains in the folder.
    """
    # Before the model is built, which takes minutes.
    point = _resume_point(opened, ranks, lock, wanted)
    if point is None and wanted.required:
        raise no_checkpoint(given)
    if point is not None:
        opened = opened_in_force(given, opened, point.path, ranks)
        check_same_everywhere(opened, ranks)
        if wanted.checkpoint is not None:
            _discard_requests(given, point, ranks)
    on_first_rank(ranks, lambda: check_packages(given))
    config, data, mixture = opened
    settings = deepspeed_settings(config, ranks.world_size)
    before = None if point is None else point.header.identity
    identity = with_allowed(_identity(config, data, ranks), before, wanted.allowed)
    revision = None if point is None else _revision(opened, point, ranks, report)
    files = on_first_rank(ranks, lambda: DataFileWatcher(data.files))
    if point is not None:
        _check_unchanged(data, files.changed_since(point.header.data), ranks, report)
    info = on_first_rank(ranks, lambda: describe_domains(config, data, is_new=point is None))
    return RunStart(
        given,
        config,
        data,
        mixture,
        settings=settings,
        point=point,
        allowed=wanted.allowed,
        identity=identity,
        revision=revision,
        files=files,
        info=info,
    )


def check_same_everywhere(opened: Opened, ranks: Ranks) -> None:
    """Check that every rank has read the same configuration and shards. Collective.

    Every rank plans batches, evaluations and checkpoints by itself: with different inputs, ranks
    would train on different data or deadlock.
    """
    config, data, _ = opened
    own = {"config": config.model_dump(mode="json"), "shards": data.identity}
    first: Mapping[str, Any] = ranks.object_of_first_rank(own)

    def compare() -> None:
        if differing := differences(first, own):
            who = f"rank {ranks.rank} on {socket.gethostname()}"
            raise ConfigError(f"{who}: differs from rank 0: {differing[0]}")

    on_every_rank(ranks, compare)


def agreed_identity(opened: Opened, *, ranks: Ranks, before: Mapping[str, Any]) -> dict[str, Any]:
    """Return the run's identity with other data, equal on every rank. Collective."""
    check_same_everywhere(opened, ranks)
    config, data, _ = opened
    return with_allowed(_identity(config, data, ranks), before, ())


def _resume_point(
    opened: Opened, ranks: Ranks, lock: RunLock, wanted: ResumeRequest
) -> ResumePoint | None:
    """Return the checkpoint to resume from, after verifying it. Collective.

    If there is one, the folder belongs to this run and is locked from here on. It is, too, if the
    run was started before: its last owner may still be saving.
    """
    config, data, _ = opened
    folder = config.output / CHECKPOINTS
    identity = _identity(config, data, ranks)

    def find() -> ResumePoint | None:
        return find_resume_point(
            folder,
            identity=identity,
            ranks=ranks,
            wanted=wanted.checkpoint,
            allowed=wanted.allowed,
        )

    if find() is None and not on_first_rank(ranks, (config.output / FILE_NAME).exists):
        return None
    on_first_rank(ranks, lambda: lock_output(config, lock))
    point = find()  # again: the previous owner of the lock may have written newer ones
    if point is not None:
        check_intact(point, ranks)
    return point


def _discard_requests(config: RunConfig, point: ResumePoint, ranks: Ranks) -> None:
    """Discard requests with the steps after a checkpoint that a user names. Collective."""
    folder, step = RequestFolder(config.output), point.header.step
    on_first_rank(ranks, lambda: folder.abandon_after(step))


def _identity(config: RunConfig, data: RunData, ranks: Ranks) -> dict[str, Any]:
    return run_identity(config, shards=data.identity, ranks=ranks.world_size)


def _revision(
    opened: Opened, point: ResumePoint, ranks: Ranks, report: Callable[[str], None]
) -> Revision | None:
    """Return what has changed since a checkpoint; None: it has no record of its domains.

    Collective.
    """
    config, data, mixture = opened
    identity = point.header.identity
    record = on_first_rank(ranks, lambda: read_domains(point.path))
    if record is None:
        check_unrevised(find_changes(identity, _identity(config, data, ranks)), point.path)
        return None
    revision = plan_revision(config, data, mixture.scheduler, record, identity)
    if ranks.rank == 0 and not revision.is_none:
        report("\n".join(describe_revision(revision)))
    return revision


def _check_unchanged(
    data: RunData, names: Sequence[str], ranks: Ranks, report: Callable[[str], None]
) -> None:
    """Verify the checksums of data files whose size or time has changed. Collective."""
    if names and ranks.rank == 0:
        size = sum(data.files[name].path.stat().st_size for name in names)
        report(
            f"{len(names)} shard files have changed sizes or times since the checkpoint was "
            f"written: verifying their checksums, {size / 1e9:.2f} GB"
        )
    own = [data.files[name] for name in names[ranks.rank :: ranks.world_size]]
    on_every_rank(ranks, lambda: check_checksums(own))
