"""Checkpoints of a run: when they are written, which stay, how a run continues from one.

Knows no batch and no loss.
"""

import re
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, final

from megadga.errors import ResumeError
from megadga.plugin import Plugin
from megadga.train.header import (
    CheckpointHeader,
    latest_checkpoint,
    mark_latest,
    read_header,
    write_header,
)
from megadga.train.metrics import MetricsFile


class SavedEngine(Protocol):
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


@final
class Checkpoints:
    """Writes the checkpoints of one run and continues it from them.

    Args:
        engine: What is trained.
        folder: Where they lie; every rank sees the same.
        plan: When they are written.
        plugins: Their states are saved along.
        identity: What the run is; see ``CheckpointHeader``.
        metrics: The metrics file, on the one rank that writes it; None on the others.
    """

    def __init__(
        self,
        engine: SavedEngine,
        folder: Path,
        *,
        plan: CheckpointPlan,
        plugins: Sequence[Plugin],
        identity: Mapping[str, Any],
        metrics: MetricsFile | None,
    ) -> None:
        self._engine = engine
        self._folder = folder
        self._plan = plan
        self._plugins = tuple(plugins)
        self._identity = identity
        self._metrics = metrics
        self._unpruned = metrics is not None

    def due(self, step: int) -> bool:
        """Return whether optimizer step ``step`` (from 1) ends with a checkpoint."""
        return self._plan.due(step)

    def save(self, step: int) -> None:
        """Write the checkpoint of optimizer step ``step``. Collective.

        It becomes the latest when every rank has written its part, and older ones go after that,
        with ``prune``: a run that dies at any moment leaves a whole one behind.
        """
        checkpoint = self._folder / f"step-{step:08d}"
        if self._metrics is not None:
            # A run that died while it wrote this one may have left some files of it.
            shutil.rmtree(checkpoint, ignore_errors=True)
            checkpoint.mkdir(parents=True)
            write_header(checkpoint, CheckpointHeader(step, self._metrics.sync(), self._identity))
        states = {plugin.name: state for plugin in self._plugins if (state := plugin.state_dict())}
        # DeepSpeed would name the checkpoint in `latest` before the other ranks' files are whole.
        self._engine.save_checkpoint(
            str(self._folder), checkpoint.name, {"megadga": states}, save_latest=False
        )
        if self._metrics is not None:
            mark_latest(checkpoint)
            self._unpruned = True

    def prune(self) -> None:
        """Remove all but the newest checkpoints, if there may be more. Not collective.

        Call it when the newest is known to be good: until then the one before stays beside it.
        """
        if self._unpruned:
            self._unpruned = False
            self._prune()

    def resume(self) -> None:
        """Continue from the latest checkpoint, if there is one. Collective.

        The metrics file is cut to what it held when the checkpoint was written.

        Raises:
            ResumeError: If the checkpoint is another run's, or a part of it is missing.
        """
        checkpoint = latest_checkpoint(self._folder)
        if checkpoint is None:
            if self._metrics is not None:
                self._metrics.cut(0)
            return
        header = read_header(checkpoint, identity=self._identity)
        loaded, client_state = self._engine.load_checkpoint(str(self._folder), checkpoint.name)
        if loaded is None:
            raise ResumeError(f"{checkpoint}: expected DeepSpeed's files, found some missing")
        self._load_plugins(client_state["megadga"], checkpoint)
        if self._metrics is not None:
            self._metrics.cut(header.metrics_length)
            resumed = {"event": "resume", "checkpoint": checkpoint.name}
            self._metrics.log(header.step, {"event": resumed})

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

    def _prune(self) -> None:
        """Remove all but the newest checkpoints."""
        if self._plan.keep_last is None or not self._folder.is_dir():
            return
        checkpoints = sorted(
            path for path in self._folder.iterdir() if re.fullmatch(r"step-\d{8}", path.name)
        )
        for old in checkpoints[: -self._plan.keep_last]:
            shutil.rmtree(old)
