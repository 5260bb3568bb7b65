"""Checkpoints of a run: schedule, writing, pruning, and resuming."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from pickle import PickleError
from typing import Any, Protocol, final

from megadga.data.files import flush
from megadga.errors import ResumeError
from megadga.plugin import Plugin
from megadga.run_folder.checkpoints import (
    CheckpointHeader,
    checkpoint_path,
    find_checkpoint,
    find_damage,
    flush_files,
    latest_checkpoint,
    mark_latest,
    prune,
    read_resume_header,
    remove,
    resume_advice,
    write_header,
)
from megadga.train.metrics import MetricsFile
from megadga.train.ranks import Ranks, on_every_rank, on_first_rank

Loader = Callable[[Mapping[str, Any]], None]
"""Continues from the state of a plugin."""


class CheckpointEngine(Protocol):
    """The part of ``deepspeed.DeepSpeedEngine`` that reads and writes checkpoints."""

    def save_checkpoint(
        self, save_dir: str, tag: str, client_state: dict[str, Any], *, save_latest: bool
    ) -> Any:
        """Write ``save_dir/tag``; return after all ranks have finished. Collective."""
        ...

    def load_checkpoint(self, load_dir: str, tag: str) -> tuple[str | None, Any]:
        """Load ``load_dir/tag``; return its path, or None, and the client state. Collective."""
        ...


@dataclass(frozen=True)
class CheckpointPlan:
    """When checkpoints are written, and how many are kept.

    Attributes:
        interval: Optimizer steps between checkpoints, at least 1; None: none are written.
        last_step: The last step, always followed by a checkpoint.
        keep_last: Number of newest checkpoints to keep, at least 1; None: all.
    """

    interval: int | None
    last_step: int
    keep_last: int | None

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
    folder: Path, *, identity: Mapping[str, Any], ranks: Ranks, wanted: str | None = None
) -> ResumePoint | None:
    """Return the checkpoint to resume from, None if there is none. Collective.

    Rank 0 decides for all. Only the header is read.

    Args:
        folder: The run's checkpoint folder; need not exist.
        identity: The run's identity; see ``CheckpointHeader``.
        ranks: All ranks.
        wanted: Name of the checkpoint requested by the user; None: the one named in ``latest``.

    Raises:
        ResumeError: If it is missing or of another run, its header is damaged, or ``latest`` is
            missing although checkpoints exist.
    """

    def find() -> ResumePoint | None:
        path = find_checkpoint(folder, wanted=wanted)
        if path is None:
            return None
        return ResumePoint(path, read_resume_header(path, identity=identity))

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


@final
class Checkpoints:
    """Writes the checkpoints of one run and resumes from them.

    Args:
        engine: The engine that is trained.
        folder: The checkpoint folder, shared by all ranks.
        plan: When checkpoints are written.
        plugins: Plugins whose states are saved with the engine.
        identity: The run's identity; see ``CheckpointHeader``.
        metrics: The metrics file on rank 0, which writes it; None on the others.
        ranks: All ranks.
        watch: Called on rank 0 before a checkpoint is written. Returns the sizes and times of the
            run's data files (see ``CheckpointHeader``); its exceptions end the run on every rank.
    """

    def __init__(
        self,
        engine: CheckpointEngine,
        folder: Path,
        *,
        plan: CheckpointPlan,
        plugins: Sequence[Plugin],
        identity: Mapping[str, Any],
        metrics: MetricsFile | None,
        ranks: Ranks,
        watch: Callable[[], Mapping[str, Sequence[int]]] = dict,
    ) -> None:
        self._engine = engine
        self._folder = folder
        self._plan = plan
        self._plugins = tuple(plugins)
        self._identity = identity
        self._metrics = metrics
        self._ranks = ranks
        self._watch = watch
        self._describe: Callable[[Path], None] = lambda _: None
        self._newest: Path | None = None
        self._has_saved = False
        self._needs_pruning = False

    @property
    def newest(self) -> Path | None:
        """The checkpoint written or resumed from last, None if there is none."""
        return self._newest

    def revise(
        self,
        plugins: Sequence[Plugin],
        identity: Mapping[str, Any],
        describe: Callable[[Path], None],
    ) -> None:
        """Set what the next checkpoints are of, as domains may change during a run.

        Args:
            plugins: Plugins whose states are saved with the engine.
            identity: The run's identity.
            describe: Called on rank 0 with the folder of each checkpoint, before the engine writes
                there, to write files of its own.
        """
        self._plugins, self._identity, self._describe = tuple(plugins), identity, describe

    def due(self, step: int) -> bool:
        """Return whether a checkpoint is written after optimizer step ``step`` (from 1)."""
        return self._plan.due(step)

    def save(self, step: int) -> None:
        """Write the checkpoint of optimizer step ``step``. Collective.

        Every rank syncs its files to disk, then rank 0 writes the header with all checksums, then
        the checkpoint becomes the latest. Older ones are removed later, by ``prune``: a process or
        machine that crashes at any time leaves an intact checkpoint behind.

        Raises:
            MegadgaError: If ``watch`` raises it; on every rank.
            OtherRankError: If another rank fails.
        """
        checkpoint = checkpoint_path(self._folder, step)
        begun = on_first_rank(self._ranks, lambda: self._begin(checkpoint, step))
        states = {plugin.name: state for plugin in self._plugins if (state := plugin.state_dict())}
        # DeepSpeed would write `latest` before the other ranks' files are complete.
        self._engine.save_checkpoint(
            str(self._folder), checkpoint.name, {"megadga": states}, save_latest=False
        )
        parts = on_every_rank(self._ranks, lambda: flush_files(checkpoint, rank=self._ranks.rank))
        files = {name: file for part in parts for name, file in part.items()}
        on_first_rank(self._ranks, lambda: self._complete(checkpoint, replace(begun, files=files)))
        self._newest, self._has_saved, self._needs_pruning = checkpoint, True, True

    def prune(self) -> None:
        """Remove obsolete checkpoints, if there may be any. Collective.

        Call it when the newest is known to be good; until then the previous one is kept as well.
        Checkpoints left behind by a rewound run are kept until a new one has been written.

        Raises:
            OtherRankError: If rank 0 cannot remove them.
        """
        newest, keep_last = self._newest, self._plan.keep_last
        if not self._needs_pruning or newest is None or keep_last is None:
            return
        self._needs_pruning = False
        remove_later = self._has_saved
        on_first_rank(
            self._ranks,
            lambda: prune(
                self._folder, newest=newest, keep_last=keep_last, remove_later=remove_later
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
            on_first_rank(self._ranks, lambda: self._cut_metrics(0))
            return
        self._load(point.path, loaders or {})
        on_first_rank(self._ranks, lambda: self._restore_metrics(point))
        self._newest, self._needs_pruning = point.path, True

    def _begin(self, checkpoint: Path, step: int) -> CheckpointHeader:
        """Create the checkpoint's folder; return its header without the list of files."""
        assert self._metrics is not None
        data = self._watch()
        if checkpoint.exists():  # incomplete, or left behind by a rewound run
            remove(checkpoint)
        checkpoint.mkdir(parents=True)
        self._describe(checkpoint)
        return CheckpointHeader(step, self._metrics.sync(), self._identity, {}, data)

    def _complete(self, checkpoint: Path, header: CheckpointHeader) -> None:
        write_header(checkpoint, header)
        flush(self._folder)
        mark_latest(checkpoint)

    def _load(self, checkpoint: Path, loaders: Mapping[str, Loader]) -> None:
        try:
            loaded, client_state = self._engine.load_checkpoint(str(self._folder), checkpoint.name)
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
        self._metrics.cut(point.header.metrics_length)
        resumed = {"event": "resume", "checkpoint": point.path.name}
        self._metrics.log(point.header.step, {"event": resumed})

    def _cut_metrics(self, length: int) -> None:
        assert self._metrics is not None
        self._metrics.cut(length)

    def _load_plugins(
        self, states: Mapping[str, Any], checkpoint: Path, loaders: Mapping[str, Loader]
    ) -> None:
        """Restore the state of every plugin; plugins without state may be added or removed."""
        for plugin in self._plugins:
            if plugin.name in states:
                load = loaders.get(plugin.name, plugin.load_state_dict)
                load(states[plugin.name])
            elif not loaders and plugin.state_dict():
                raise ResumeError(
                    f"{checkpoint}: expected a state of the plugin {plugin.name!r}, "
                    f"found those of {sorted(states)}"
                )
