"""Loads checkpoints into an engine, with what the run has changed since they were written."""

import sys
import time
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, final

import torch.distributed as dist
from torch import Tensor

from megadga.config.changes import ResumeChanges
from megadga.prepare.progress import ProgressBars, no_progress
from megadga.probes.saving import PendingFile
from megadga.probes.weights_only import WeightsOnlyEngine
from megadga.train.resharding import load_states, num_values
from megadga.train.states import open_states
from megadga.train.waiting import format_bytes

_COUNTED = frozenset({"params", "step"})
"""What a group of the optimizer holds besides its options."""


@final
class OptimizerOptions:
    """The optimizer's options and schedule as this run sets them, before a checkpoint is loaded.

    Args:
        engine: DeepSpeed's, newly made.
    """

    def __init__(self, engine: Any) -> None:
        self._engine = engine
        self._groups: list[dict[str, Any]] = [
            {key: value for key, value in group.items() if key not in _COUNTED}
            for group in engine.optimizer.param_groups
        ]

    def restore(self) -> None:
        """Set them again, and the schedule to the engine's step.

        The schedule takes all its steps anew, for whatever it keeps between two. DeepSpeed must
        not have loaded a state of it.
        """
        engine = self._engine
        for group, own in zip(engine.optimizer.param_groups, self._groups, strict=True):
            group.update(own)
        if "clip_grad" in vars(engine.optimizer):
            engine.optimizer.clip_grad = engine.gradient_clipping()
        if engine.lr_scheduler is None:
            return
        with warnings.catch_warnings():
            # Of torch's schedules, which expect a step of the optimizer before each of theirs.
            warnings.simplefilter("ignore", UserWarning)
            for _ in range(engine.global_steps - engine.skipped_steps):
                engine.lr_scheduler.step()


@final
class ResumableEngine:
    """A DeepSpeed engine as checkpoints see it; ``CheckpointEngine``.

    On the layout that wrote it, DeepSpeed loads a checkpoint, bit for bit; on any other its states
    are divided anew.

    Args:
        engine: DeepSpeed's, newly made.
    """

    def __init__(self, engine: Any) -> None:
        self._engine = engine
        self._own = WeightsOnlyEngine(engine)

    def collect_checkpoint(
        self, tag: str, client_state: dict[str, Any], *, scratch: Path, copies: bool
    ) -> Sequence[PendingFile]:
        """Return this rank's files of a checkpoint; see ``collect_files``. Collective."""
        return self._own.collect_checkpoint(tag, client_state, scratch=scratch, copies=copies)

    def load_checkpoint(
        self, load_dir: str, tag: str, changes: ResumeChanges
    ) -> tuple[str | None, Any]:
        """Load ``load_dir/tag``; return its path, or None, and the client state. Collective.

        Raises:
            UnpicklingError: If there is more in it than tensors and plain values.
            ResumeError: If its states cannot be divided as this run's are.
        """
        if not (changes.changes_layout or changes.changes_options):
            return self._own.load_checkpoint(load_dir, tag)
        options = OptimizerOptions(self._engine)
        if changes.changes_layout:
            loaded = self._load_divided(Path(load_dir, tag), changes)
        else:
            loaded = self._own.load_checkpoint(load_dir, tag, with_schedule=False)
        options.restore()
        return loaded

    def _load_divided(self, checkpoint: Path, changes: ResumeChanges) -> tuple[str, Any]:
        """Load a checkpoint of another layout; rank 0 says so. Collective."""
        begun = time.perf_counter()
        files = sum(path.stat().st_size for path in checkpoint.glob("*.pt"))
        what = f"the checkpoint {checkpoint.name} of {changes.before}"
        _say(f"dividing {what}, for {changes.after}: {format_bytes(files)}")
        found = open_states(checkpoint, changes.before.zero_stage)
        total = num_values(self._engine, found)
        with ProgressBars() as bars:
            begin = bars if dist.get_rank() == 0 else no_progress
            advance = begin("dividing", total, " values")
            load_states(self._engine, found, checkpoint, advance=advance)
        client_state = _copied(found.client_state["megadga"])
        dist.barrier()
        _say(f"divided {what} in {time.perf_counter() - begun:.1f} s")
        return str(checkpoint), {"megadga": client_state}


def _say(line: str) -> None:
    if dist.get_rank() == 0:
        print(line, file=sys.stderr, flush=True)


def _copied(value: Any) -> Any:
    """Return a value whose tensors are in memory, and no longer in the file."""
    match value:
        case Tensor():
            return value.clone()
        case Mapping():
            return {key: _copied(each) for key, each in value.items()}
        case list() | tuple():
            items: Sequence[Any] = value
            return type(value)(_copied(each) for each in items)
        case _:
            return value
