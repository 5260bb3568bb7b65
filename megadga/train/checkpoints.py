"""Checkpoints of a run: schedule, writing, pruning, and resuming."""

import shutil
import tempfile
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from pickle import PickleError
from typing import Any, Protocol, final

from megadga.config.changes import ResumeChanges, check_allowed, find_changes
from megadga.data.files import flush
from megadga.errors import ResumeError
from megadga.plugin import Plugin
from megadga.probes.saving import PendingFile, pending_file
from megadga.run_folder.checkpoints import (
    CheckpointHeader,
    SavedFile,
    checkpoint_path,
    find_checkpoint,
    find_damage,
    latest_checkpoint,
    mark_best,
    mark_latest,
    read_resume_header,
    remove,
    resume_advice,
    write_header,
)
from megadga.run_folder.retention import Retention, best_checkpoints, prune
from megadga.train.best import recorded_losses
from megadga.train.domain_log import DomainLogFile
from megadga.train.metrics import MetricsFile
from megadga.train.ranks import CollectiveFlag, Ranks, on_every_rank, on_first_rank
from megadga.train.storage import Storage, Task
from megadga.train.waiting import PauseInterruptedError
from megadga.train.writing import CheckpointWriter

Loader = Callable[[Mapping[str, Any]], None]
"""Continues from the state of a plugin."""


Describe = Callable[[], Mapping[str, bytes]]
"""Returns files of a checkpoint by their names in its folder."""


class CheckpointEngine(Protocol):
    """Gives and loads the states of a ``deepspeed.DeepSpeedEngine``."""

    def collect_checkpoint(
        self, tag: str, client_state: dict[str, Any], *, scratch: Path, copies: bool
    ) -> Sequence[PendingFile]:
        """Return this rank's files of a checkpoint; see ``collect_files``. Collective."""
        ...

    def load_checkpoint(
        self, load_dir: str, tag: str, changes: ResumeChanges
    ) -> tuple[str | None, Any]:
        """Load ``load_dir/tag``; return its path, or None, and the client state. Collective.

        What ``changes`` say that the run has changed is as it is in this run.
        """
        ...


@dataclass(frozen=True)
class CheckpointPlan:
    """When checkpoints are written, and which are kept.

    Attributes:
        interval: Optimizer steps between checkpoints, at least 1; None: none are written.
        last_step: The last step, always followed by a checkpoint.
        retention: The checkpoints to keep.
        asynchronous: Whether training goes on while they are written.
    """

    interval: int | None
    last_step: int
    retention: Retention
    asynchronous: bool = False

    def due(self, step: int) -> bool:
        """Return whether a checkpoint is written after optimizer step ``step`` (from 1)."""
        if self.interval is None:
            return False
        return step % self.interval == 0 or step == self.last_step


@dataclass(frozen=True)
class ResumePoint:
    """A checkpoint to resume from.

    Attributes:
        path: Its folder.
        header: Its header.
    """

    path: Path
    header: CheckpointHeader


def find_resume_point(
    folder: Path,
    *,
    identity: Mapping[str, Any],
    ranks: Ranks,
    wanted: str | None = None,
    allowed: Collection[str] = (),
) -> ResumePoint | None:
    """Return the checkpoint to resume from, None if there is none. Collective.

    Rank 0 decides for all. Only the header is read.

    Args:
        folder: The run's checkpoint folder; need not exist.
        identity: The run's identity; see ``CheckpointHeader``.
        ranks: All ranks.
        wanted: Name of the checkpoint requested by the user; None: the one named in ``latest``.
        allowed: Keys that the user allows to change.

    Raises:
        ResumeError: If it is missing or of another run, its header is damaged, or ``latest`` is
            missing although checkpoints exist. If ``allowed`` has keys that need not be allowed.
    """

    def find() -> ResumePoint | None:
        path = find_checkpoint(folder, wanted=wanted)
        if path is None:
            check_allowed(allowed, None, identity)
            return None
        return ResumePoint(path, read_resume_header(path, identity=identity, allowed=allowed))

    return on_first_rank(ranks, find)


def check_intact(point: ResumePoint, ranks: Ranks) -> None:
    """Verify the checksums of a checkpoint's files, divided among the ranks. Collective.

    Raises:
        ResumeError: If a file is missing, truncated or changed; names it, and the newest earlier
            checkpoint that is intact.
    """
    found = on_every_rank(
        ranks,
        lambda: find_damage(point.path, point.header, part=ranks.rank, parts=ranks.world_size),
    )
    damage = next(filter(None, found), None)
    if damage is not None:
        raise ResumeError(damage + on_first_rank(ranks, lambda: resume_advice(point.path)))


@dataclass(frozen=True)
class Written:
    """What is logged of a checkpoint that was written.

    Attributes:
        step: Its step.
        seconds: Time until it was complete and the latest.
        waited_s: The part of it that training has waited.
        bytes: Size of its files, of all ranks.
    """

    step: int
    seconds: float
    waited_s: float
    bytes: int

    def record(self) -> dict[str, Any]:
        """Return the values of a ``checkpoint`` record."""
        return {
            "seconds": round(self.seconds, 3),
            "waited_s": round(self.waited_s, 3),
            "bytes": self.bytes,
            "bytes_per_s": round(self.bytes / max(self.seconds, 1e-9)),
        }


@dataclass(frozen=True, eq=False)
class _Writing:
    """A checkpoint that is being written; on rank 0 with its header, without the files."""

    step: int
    path: Path
    header: CheckpointHeader | None
    task: Task[dict[str, SavedFile]]
    begun: float
    waited_s: float


@final
@dataclass(frozen=True, eq=False)
class CheckpointContent:
    """What checkpoints are of, beside the engine.

    Attributes:
        plugins: Plugins whose states are saved with the engine.
        identity: The run's identity; see ``CheckpointHeader``.
        describe: Returns further files of each checkpoint, by their names in its folder; called on
            rank 0.
    """

    plugins: tuple[Plugin, ...]
    identity: Mapping[str, Any]
    describe: Describe = dict


@final
class Checkpoints:
    """Writes the checkpoints of one run and resumes from them.

    Args:
        engine: The engine that is trained.
        folder: The checkpoint folder, shared by all ranks.
        plan: When checkpoints are written.
        content: What they are of.
        metrics: The metrics file on rank 0, which writes it; None on the others.
        domain_log: The log by domain, likewise; None: there is none.
        storage: The run's file system, on all ranks.
        watch: Called on rank 0 before a checkpoint is written. Returns the sizes and times of the
            run's data files (see ``CheckpointHeader``); its exceptions end the run on every rank.
    """

    def __init__(
        self,
        engine: CheckpointEngine,
        folder: Path,
        *,
        plan: CheckpointPlan,
        content: CheckpointContent,
        metrics: MetricsFile | None,
        domain_log: DomainLogFile | None = None,
        storage: Storage,
        watch: Callable[[], Mapping[str, Sequence[int]]] = dict,
    ) -> None:
        self.being_written = CollectiveFlag(self._is_writing)
        """Whether a rank still writes; to be updated in every step."""
        self._engine = engine
        self._folder = folder
        self._plan = plan
        self._content = content
        self._metrics = metrics
        self._domain_log = domain_log
        self._ranks = storage.ranks
        self._storage = storage
        self._watch = watch
        self._is_revised = False
        self._writing: _Writing | None = None
        self._written: list[Written] = []
        self._newest: Path | None = None
        self._has_saved = False
        self._needs_pruning = False

    @property
    def newest(self) -> Path | None:
        """The checkpoint completed or resumed from last, None if there is none."""
        return self._newest

    def revise(self, content: CheckpointContent) -> None:
        """Set what the next checkpoints are of, as domains may change during a run."""
        self._content = content
        self._is_revised = True

    def due(self, step: int) -> bool:
        """Return whether a checkpoint is written after optimizer step ``step`` (from 1).

        One is after a revision: a return to the newest never crosses it.
        """
        return self._plan.due(step) or (self._is_revised and self._plan.interval is not None)

    def save(self, step: int, evaluation: Mapping[str, Any] | None = None) -> None:
        """Write the checkpoint of optimizer step ``step``, or begin to. Collective.

        Every rank syncs its files to disk, then rank 0 writes the header with all checksums, then
        the checkpoint becomes the latest. Older ones are removed later, by ``prune``: a process or
        machine that crashes at any time leaves an intact checkpoint behind.

        If the plan is asynchronous, this returns when all states are copied; `poll` or `finish`
        complete the checkpoint. The one before it is completed first.

        If a stop is requested while the run pauses for its file system, nothing is written.

        Args:
            step: The step that has just been completed.
            evaluation: The ``evaluation`` record of this step; None: it was not evaluated.

        Raises:
            MegadgaError: If ``watch`` raises it, or the file system fails for longer than the run
                waits; on every rank.
            OtherRankError: If another rank fails.
        """
        self.finish()
        self._is_revised = False
        begun = time.monotonic()
        with suppress(PauseInterruptedError):
            losses = recorded_losses(evaluation, self._plan.retention.best_loss)
            self._writing = self._start(step, losses, begun)
            if not self._plan.asynchronous:
                self.finish()

    def poll(self) -> None:
        """Complete the checkpoint if all ranks have written their files. Collective.

        Costs nothing if they have not: `being_written` says so.
        """
        if self._writing is not None and not self.being_written.raised():
            self.finish()

    def finish(self) -> Path | None:
        """Wait for the checkpoint that is being written, if there is one. Collective.

        Returns:
            ``newest``.

        Raises:
            As ``save``.
        """
        writing, self._writing = self._writing, None
        if writing is not None:
            waits_from = time.monotonic()
            try:
                self._complete(writing, waits_from)
            except PauseInterruptedError:
                on_first_rank(self._ranks, lambda: _discard(writing.path))
        return self._newest

    def take_written(self) -> list[Written]:
        """Return the checkpoints that were completed since the last call; equal on every rank."""
        written, self._written = self._written, []
        return written

    def prune(self) -> None:
        """Remove obsolete checkpoints, if there may be any. Collective.

        Call it when the newest is known to be good; until then the previous one is kept as well.
        Checkpoints left behind by a rewound run are kept until a new one has been written.

        Raises:
            OtherRankError: If rank 0 cannot remove them.
        """
        newest, retention = self._newest, self._plan.retention
        if not self._needs_pruning or newest is None or retention.keep_last is None:
            return
        self._needs_pruning = False
        remove_later = self._has_saved
        unfinished = [] if self._writing is None else [self._writing.path]
        with suppress(PauseInterruptedError):
            self._storage.first(
                f"removing checkpoints older than {newest.name}",
                lambda: prune(
                    self._folder,
                    newest=newest,
                    retention=retention,
                    remove_later=remove_later,
                    unfinished=unfinished,
                ),
            )

    def resume(
        self, point: ResumePoint | None, *, loaders: Mapping[str, Loader] | None = None
    ) -> None:
        """Resume from a checkpoint, or start a new run. Collective.

        The metrics file is truncated to its length at the checkpoint, and the checkpoint becomes
        the latest; later training is discarded.

        Args:
            point: A result of ``find_resume_point``, verified by ``check_intact``.
            loaders: Load the states of some plugins in place of their ``load_state_dict``, by
                name, after the run was revised. Plugins may then be new, too.

        Raises:
            ResumeError: If DeepSpeed or a plugin cannot load it.
        """
        if point is None:
            on_first_rank(self._ranks, lambda: self._cut_logs(None))
            return
        self._load(point, loaders or {})
        on_first_rank(self._ranks, lambda: self._restore_metrics(point))
        self._newest, self._needs_pruning = point.path, True

    def _is_writing(self) -> bool:
        return self._writing is not None and not self._writing.task.ended

    def _start(self, step: int, losses: Mapping[str, float], begun: float) -> _Writing:
        """Collect the states and start to write this rank's. Collective."""
        what = f"checkpoint of step {step}"
        path = checkpoint_path(self._folder, step)
        prepared: list[tuple[CheckpointHeader | None, Path]] = []
        self._storage.every(what, lambda: prepared.append(self._prepare(path, step, losses)))
        header, scratch = prepared[0]
        states = {
            plugin.name: state
            for plugin in self._content.plugins
            if (state := plugin.state_dict())
        }
        try:
            files = self._engine.collect_checkpoint(
                path.name, {"megadga": states}, scratch=scratch, copies=self._plan.asynchronous
            )
        finally:
            shutil.rmtree(scratch, ignore_errors=True)
        described = self._content.describe() if self._ranks.rank == 0 else {}
        more = [pending_file(f"{path.name}/{name}", held) for name, held in described.items()]
        writer = CheckpointWriter(self._folder, [*files, *more])
        task = self._storage.start(what, writer.write, amount=writer.amount)
        return _Writing(step, path, header, task, begun, waited_s=time.monotonic() - begun)

    def _prepare(
        self, checkpoint: Path, step: int, losses: Mapping[str, float]
    ) -> tuple[CheckpointHeader | None, Path]:
        """Create the checkpoint's folder; return its header without files, and a local folder."""
        header = None
        if self._ranks.rank == 0:
            assert self._metrics is not None
            data = self._watch()
            if checkpoint.exists():  # incomplete, or left behind by a rewound run
                remove(checkpoint)
            checkpoint.mkdir(parents=True)
            header = CheckpointHeader(
                step,
                self._metrics.sync(),
                self._content.identity,
                files={},
                data=data,
                losses=losses,
                domain_log_length=0 if self._domain_log is None else self._domain_log.sync(),
            )
        return header, Path(tempfile.mkdtemp(prefix="megadga-"))

    def _complete(self, writing: _Writing, waits_from: float) -> None:
        """Wait for all files of a checkpoint and make it the latest. Collective."""
        checkpoint = writing.path
        parts = self._storage.finish(writing.task)
        inside = f"{checkpoint.name}/"
        files = {
            name.removeprefix(inside): file
            for part in parts
            for name, file in part.items()
            if name.startswith(inside)
        }

        def make_latest() -> None:
            assert writing.header is not None
            write_header(checkpoint, replace(writing.header, files=files))
            flush(self._folder)
            mark_latest(checkpoint)
            self._mark_best(checkpoint)

        self._storage.first(writing.task.what, make_latest)
        now = time.monotonic()
        self._newest, self._has_saved, self._needs_pruning = checkpoint, True, True
        self._written.append(
            Written(
                writing.step,
                seconds=now - writing.begun,
                waited_s=writing.waited_s + now - waits_from,
                bytes=sum(file.bytes for file in files.values()),
            )
        )

    def _mark_best(self, newest: Path) -> None:
        loss = self._plan.retention.best_loss
        best = [] if loss is None else best_checkpoints(self._folder, newest=newest, loss=loss)
        mark_best(self._folder, best[0] if best else None)

    def _load(self, point: ResumePoint, loaders: Mapping[str, Loader]) -> None:
        checkpoint, changes = (
            point.path,
            find_changes(point.header.identity, self._content.identity),
        )
        try:
            loaded, client_state = self._engine.load_checkpoint(
                str(self._folder), checkpoint.name, changes
            )
        except (OSError, RuntimeError, ValueError, LookupError, TypeError, PickleError) as error:
            found = f"{type(error).__name__}: {' '.join(str(error).split())}"
            raise ResumeError(
                f"{checkpoint}: expected files that DeepSpeed can load, found {found}"
            ) from error
        if loaded is None:
            raise ResumeError(f"{checkpoint}: expected DeepSpeed's files, found some missing")
        self._load_plugins(client_state["megadga"], checkpoint, loaders)

    def _restore_metrics(self, point: ResumePoint) -> None:
        assert self._metrics is not None
        if latest_checkpoint(self._folder) != point.path:
            mark_latest(point.path)  # before the metrics are truncated, which later ones need
        self._mark_best(point.path)
        self._cut_logs(point.header)
        resumed = {"event": "resume", "checkpoint": point.path.name}
        self._metrics.log(point.header.step, {"event": resumed})

    def _cut_logs(self, header: CheckpointHeader | None) -> None:
        """Cut what was logged after a checkpoint; None: all of it."""
        assert self._metrics is not None
        if header is None:
            self._metrics.cut(0)
        else:
            self._metrics.cut(header.metrics_length, checkpoints_until=header.step)
        if self._domain_log is not None:
            self._domain_log.cut(0 if header is None else header.domain_log_length)

    def _load_plugins(
        self, states: Mapping[str, Any], checkpoint: Path, loaders: Mapping[str, Loader]
    ) -> None:
        """Restore the state of every plugin; plugins without state may be added or removed."""
        for plugin in self._content.plugins:
            if plugin.name in states:
                load = loaders.get(plugin.name, plugin.load_state_dict)
                load(states[plugin.name])
            elif not loaders and plugin.state_dict():
                raise ResumeError(
                    f"{checkpoint}: expected a state of the plugin {plugin.name!r}, "
                    f"found those of {sorted(states)}"
                )


def _discard(checkpoint: Path) -> None:
    """Remove what was written of a checkpoint, as far as the file system permits."""
    with suppress(OSError):
        remove(checkpoint)
