"""Checkpoints of a run: when they are written, which stay, how a run continues from one."""

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


class CheckpointEngine(Protocol):
    """The part of ``deepspeed.DeepSpeedEngine`` that reads and writes checkpoints."""

    def save_checkpoint(
        self, save_dir: str, tag: str, client_state: dict[str, Any], *, save_latest: bool
    ) -> Any:
        """Write ``save_dir/tag``; return when every rank has. Collective."""
        ...

    def load_checkpoint(self, load_dir: str, tag: str) -> tuple[str | None, Any]:
        """Load ``load_dir/tag``; return its path, or None, and the client state. Collective."""
        ...


@dataclass(frozen=True)
class CheckpointPlan:
    """When checkpoints are written, and how many stay.

    Attributes:
        interval: Optimizer steps between them, at least 1; None: none is ever written.
        last_step: Ends with one as well.
        keep_last: How many stay, the newest, at least 1; None: all.
    """

    interval: int | None
    last_step: int
    keep_last: int | None

    def due(self, step: int) -> bool:
        """Return whether optimizer step ``step`` (from 1) ends with a checkpoint."""
        if self.interval is None:
            return False
        return step % self.interval == 0 or step == self.last_step


@dataclass(frozen=True)
class ResumePoint:
    """A checkpoint that a run continues from.

    Attributes:
        path: Its folder.
        header: What it says of itself.
    """

    path: Path
    header: CheckpointHeader


def find_resume_point(
    folder: Path, *, identity: Mapping[str, Any], ranks: Ranks, wanted: str | None = None
) -> ResumePoint | None:
    """Return the checkpoint that a run continues from; None: it has left none. Collective.

    The first rank decides for all. Nothing is loaded, and no file but the header is read.

    Args:
        folder: Of the run's checkpoints; need not exist.
        identity: What the run is; see ``CheckpointHeader``.
        ranks: All ranks.
        wanted: Name of the one that the user asks for; None: the one that ``latest`` names.

    Raises:
        ResumeError: If it is missing or another run's, its header is damaged, or ``latest`` is
            missing beside checkpoints.
    """

    def find() -> ResumePoint | None:
        path = find_checkpoint(folder, wanted=wanted)
        if path is None:
            return None
        return ResumePoint(path, read_resume_header(path, identity=identity))

    return on_first_rank(ranks, find)


def check_intact(point: ResumePoint, ranks: Ranks) -> None:
    """Read every byte of a checkpoint and compare checksums, each rank a part. Collective.

    Raises:
        ResumeError: If a file is missing, cut or changed; names it, and the newest checkpoint
            before it that is whole.
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
    """Writes the checkpoints of one run and continues it from them.

    Args:
        engine: What is trained.
        folder: Where they lie; every rank sees the same.
        plan: When they are written.
        plugins: Their states are saved along.
        identity: What the run is; see ``CheckpointHeader``.
        metrics: The metrics file, on the first rank, which writes it; None on the others.
        ranks: All ranks.
        watch: Called on the first rank before a checkpoint is written. Returns what is to be known
            of the files that the run reads (see ``CheckpointHeader``); what it raises ends the run
            on every rank.
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
        self._newest: Path | None = None
        self._has_saved = False
        self._unpruned = False

    @property
    def newest(self) -> Path | None:
        """The checkpoint that this run has written or continued from last; None: there is none."""
        return self._newest

    def due(self, step: int) -> bool:
        """Return whether optimizer step ``step`` (from 1) ends with a checkpoint."""
        return self._plan.due(step)

    def save(self, step: int) -> None:
        """Write the checkpoint of optimizer step ``step``. Collective.

        Every rank brings what it has written to the disk, then the first one writes the header
        with everybody's checksums, then the checkpoint becomes the latest. Older ones go after
        that, with ``prune``: a run that dies at any moment, with its machine or not, leaves a
        whole one behind.

        Raises:
            MegadgaError: As the checks do; on every rank.
            OtherRankError: If another rank cannot do its part.
        """
        checkpoint = checkpoint_path(self._folder, step)
        begun = on_first_rank(self._ranks, lambda: self._begin(checkpoint, step))
        states = {plugin.name: state for plugin in self._plugins if (state := plugin.state_dict())}
        # DeepSpeed would name the checkpoint in `latest` before the other ranks' files are whole.
        self._engine.save_checkpoint(
            str(self._folder), checkpoint.name, {"megadga": states}, save_latest=False
        )
        parts = on_every_rank(self._ranks, lambda: flush_files(checkpoint, rank=self._ranks.rank))
        files = {name: file for part in parts for name, file in part.items()}
        on_first_rank(self._ranks, lambda: self._complete(checkpoint, replace(begun, files=files)))
        self._newest, self._has_saved, self._unpruned = checkpoint, True, True

    def prune(self) -> None:
        """Remove the checkpoints that are not needed any more, if there may be some. Collective.

        Call it when the newest is known to be good: until then the one before stays beside it.
        What a run has left behind that went back stays until a checkpoint was written since.

        Raises:
            OtherRankError: If the first rank, which removes them, cannot.
        """
        newest, keep_last = self._newest, self._plan.keep_last
        if not self._unpruned or newest is None or keep_last is None:
            return
        self._unpruned = False
        remove_later = self._has_saved
        on_first_rank(
            self._ranks,
            lambda: prune(
                self._folder, newest=newest, keep_last=keep_last, remove_later=remove_later
            ),
        )

    def resume(self, point: ResumePoint | None) -> None:
        """Continue from a checkpoint, or begin. Collective.

        The metrics file is cut to what it held when the checkpoint was written. The checkpoint
        becomes the latest: what was trained beyond it is left behind.

        Args:
            point: What ``find_resume_point`` has found and ``check_intact`` has read.

        Raises:
            ResumeError: If DeepSpeed or a plugin cannot load it.
        """
        if point is None:
            on_first_rank(self._ranks, lambda: self._cut_metrics(0))
            return
        self._load(point.path)
        on_first_rank(self._ranks, lambda: self._go_on(point))
        self._newest, self._unpruned = point.path, True

    def _begin(self, checkpoint: Path, step: int) -> CheckpointHeader:
        """Make room for a checkpoint; return its header, in which no file is named yet."""
        assert self._metrics is not None
        data = self._watch()
        if checkpoint.exists():  # left by a run that died while it wrote it, or that went back
            remove(checkpoint)
        checkpoint.mkdir(parents=True)
        return CheckpointHeader(step, self._metrics.sync(), self._identity, {}, data)

    def _complete(self, checkpoint: Path, header: CheckpointHeader) -> None:
        write_header(checkpoint, header)
        flush(self._folder)
        mark_latest(checkpoint)

    def _load(self, checkpoint: Path) -> None:
        try:
            loaded, client_state = self._engine.load_checkpoint(str(self._folder), checkpoint.name)
        except (OSError, RuntimeError, ValueError, LookupError, TypeError, PickleError) as error:
            found = f"{type(error).__name__}: {' '.join(str(error).split())}"
            raise ResumeError(
                f"{checkpoint}: expected files that DeepSpeed can load, found {found}"
            ) from error
        if loaded is None:
            raise ResumeError(f"{checkpoint}: expected DeepSpeed's files, found some missing")
        self._load_plugins(client_state["megadga"], checkpoint)

    def _go_on(self, point: ResumePoint) -> None:
        assert self._metrics is not None
        if latest_checkpoint(self._folder) != point.path:
            mark_latest(point.path)  # first: metrics that are cut belong to no later one
        self._metrics.cut(point.header.metrics_length)
        resumed = {"event": "resume", "checkpoint": point.path.name}
        self._metrics.log(point.header.step, {"event": resumed})

    def _cut_metrics(self, length: int) -> None:
        assert self._metrics is not None
        self._metrics.cut(length)

    def _load_plugins(self, states: Mapping[str, Any], checkpoint: Path) -> None:
        """Hand every plugin its state; those that have none may come and go in a run."""
        for plugin in self._plugins:
            if plugin.name in states:
                plugin.load_state_dict(states[plugin.name])
            elif plugin.state_dict():
                raise ResumeError(
                    f"{checkpoint}: expected a state of the plugin {plugin.name!r}, "
                    f"found those of {sorted(states)}"
                )
