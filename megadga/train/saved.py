"""A saved run: its folder, one of its checkpoints, and the weights in it (without an engine)."""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from megadga.config.changes import layout_of
from megadga.config.loading import load_config
from megadga.config.run import RunConfig
from megadga.data.manifest import TokenizerIdentity
from megadga.errors import ConfigError, ResumeError
from megadga.prepare.progress import Stages
from megadga.run_folder import CONFIG_FILE
from megadga.run_folder.checkpoints import (
    CHECKPOINTS,
    CheckpointHeader,
    best_checkpoint,
    checkpoint_path,
    completed_checkpoints,
    find_checkpoint,
    find_damage,
    load_header,
    newest_intact_checkpoint,
)

_MAX_LISTED = 8


StepName = int | Literal["best"]
"""A checkpoint of a run as a user names it: its optimizer step, or the one of the lowest
validation loss, of a run with ``checkpoint.keep_best``."""


@dataclass(frozen=True, eq=False)
class SavedRun:
    """A run and one of its checkpoints.

    Attributes:
        config: The run.
        checkpoint: The checkpoint's folder.
        header: Its header.
        tokenizer: That of the run's shards, by the header; it does not say of which kind.
    """

    config: RunConfig
    checkpoint: Path
    header: CheckpointHeader
    tokenizer: TokenizerIdentity

    @property
    def step(self) -> int:
        """Optimizer steps that the model was trained for."""
        return self.header.step

    @property
    def identity(self) -> Mapping[str, Any]:
        """Equal for equal runs up to that step, wherever they are; JSON-serializable.

        A digest of what determines the weights: hashing them would take as long as loading them.
        """
        content = json.dumps(self.header.identity, sort_keys=True)
        return {"step": self.step, "digest": hashlib.sha256(content.encode()).hexdigest()[:16]}

    @property
    def zero_stage(self) -> int:
        """ZeRO stage that the checkpoint was written with, from 0 to 3."""
        # Not that of the configuration, which a later resume may have changed.
        return layout_of(self.header.identity).zero_stage

    def verify(self, stages: Stages) -> None:
        """Compare all files of the checkpoint with their checksums.

        Raises:
            ResumeError: If one is damaged; names it and the newest intact checkpoint.
        """
        files = self.header.files
        names = sorted(files)
        advance = stages("verifying", sum(file.bytes for file in files.values()), "B")
        for part, name in enumerate(names):
            damage = find_damage(self.checkpoint, self.header, part=part, parts=len(names))
            if damage is not None:
                raise ResumeError(f"{damage}; {self._advice()}")
            advance(files[name].bytes)

    def _advice(self) -> str:
        intact = newest_intact_checkpoint(self.checkpoint.parent, before=self.checkpoint)
        if intact is None:
            return "no earlier checkpoint is intact"
        step = int(intact.name.removeprefix("step-"))
        return f"the newest intact one before it is that of --step {step}"


def open_saved(run: Path, *, step: StepName | None) -> SavedRun:
    """Open a run's folder and read the header of a checkpoint.

    Args:
        run: The run's output folder.
        step: Optimizer step of the checkpoint, or ``best``; None: the latest.

    Raises:
        ConfigError: If the folder is not a run's.
        ResumeError: If there is no such checkpoint, or its header is damaged.
    """
    path = run / CONFIG_FILE
    if not path.is_file():
        raise ConfigError(f"{run}: expected the output folder of a run, found no {path}")
    config = load_config(path)
    checkpoint = _find(run / CHECKPOINTS, step)
    header = load_header(checkpoint)
    return SavedRun(config, checkpoint, header, tokenizer_of(header))


def _find(folder: Path, step: StepName | None) -> Path:
    completed = completed_checkpoints(folder)
    if not completed:
        raise ResumeError(f"{folder}: expected a run with a checkpoint, found none")
    if step is None:
        checkpoint = find_checkpoint(folder)
        assert checkpoint is not None, "there are completed ones"
        return checkpoint
    if step == "best":
        return best_checkpoint(folder)
    checkpoint = checkpoint_path(folder, step)
    if checkpoint not in completed:
        steps = [path.name.removeprefix("step-").lstrip("0") for path in completed[-_MAX_LISTED:]]
        more = "" if len(completed) <= _MAX_LISTED else f" and {len(completed) - _MAX_LISTED} more"
        raise ResumeError(
            f"--step: expected one of the checkpoints in {folder}, of the steps "
            f"{', '.join(steps)}{more}, found {step}"
        )
    return checkpoint


def tokenizer_of(header: CheckpointHeader) -> TokenizerIdentity:
    """Return the tokenizer of a run's shards; its kind is unknown.

    Raises:
        ResumeError: If the header does not say.
    """
    match header.identity.get("shards"):  # of a file that anybody may have changed
        case {"tokenizer": str(name), "vocabulary_size": int(size), "eod": int(eod)}:
            return TokenizerIdentity("unknown", name, vocab_size=size, eod=eod)
        case found:
            raise ResumeError(
                f"step {header.step}: expected a tokenizer in the checkpoint's header, "
                f"found {str(found)[:60]}"
            )
