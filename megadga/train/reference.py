"""The checkpoint of a reference run (without torch)."""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from megadga.config.loading import load_config
from megadga.config.models import LlamaModel
from megadga.config.run import RunConfig
from megadga.data.manifest import TokenizerIdentity
from megadga.errors import ConfigError, ResumeError
from megadga.mixers.doremi import DoremiOptions
from megadga.run_folder.checkpoints import (
    CHECKPOINTS,
    CheckpointHeader,
    latest_checkpoint,
    load_header,
)


@dataclass(frozen=True)
class ReferenceModel:
    """A trained model from another run's checkpoint.

    Attributes:
        model: Its configuration.
        vocabulary_size: Rows of its embedding.
        checkpoint: The checkpoint's folder.
        header: The checkpoint's header.
        zero_stage: ZeRO stage of the run, which determines the layout of the checkpoint.
        step: Optimizer steps that it was trained for.
        digest: Equal for equal runs up to that step, independent of their location.
    """

    model: LlamaModel
    vocabulary_size: int
    checkpoint: Path
    header: CheckpointHeader
    zero_stage: int
    step: int
    digest: str

    @property
    def identity(self) -> Mapping[str, Any]:
        """JSON-serializable identity, equal for equal models."""
        return {"step": self.step, "digest": self.digest}


def open_reference(config: RunConfig, tokenizer: TokenizerIdentity) -> ReferenceModel | None:
    """Find the reference model of a run, None if its scheduler does not use one.

    Args:
        config: The run.
        tokenizer: Tokenizer that produced its tokens.

    Raises:
        ConfigError: If the folder is not a run's, has no checkpoint, or its tokenizer or sequence
            length differs.
    """
    if not isinstance(config.mixing, DoremiOptions):
        return None
    folder = config.mixing.reference
    path = folder / "config.yaml"
    if not path.is_file():
        raise _unfit(config, "the output folder of a run", f"no {path}")
    other = load_config(path)
    if not isinstance(other.model, LlamaModel):
        raise _unfit(config, f"a model of type llama ({path})", other.model.type)
    length, other_length = config.model.sequence_length, other.model.sequence_length
    if other_length != length:
        expected = f"a model of model.sequence_length {length} ({path})"
        raise _unfit(config, expected, str(other_length))
    checkpoint, header = _checkpoint(config, folder / CHECKPOINTS)
    match header.identity.get("shards"):  # of a file that anybody may have changed
        case {"tokenizer": str(found)}:
            pass
        case _:
            found = "none"
    if found != tokenizer.fingerprint:
        expected = f"a run by the tokenizer {tokenizer.fingerprint[:12]} ({checkpoint})"
        raise _unfit(config, expected, found[:12])
    rows = other.model.vocabulary_size
    return ReferenceModel(
        model=other.model,
        vocabulary_size=tokenizer.vocab_size if rows is None else rows,
        checkpoint=checkpoint,
        header=header,
        zero_stage=other.deepspeed.get("zero_optimization", {}).get("stage", 0),
        step=header.step,
        digest=_digest(header.identity),
    )


def _checkpoint(config: RunConfig, folder: Path) -> tuple[Path, CheckpointHeader]:
    """Return the other run's latest checkpoint and its header."""
    try:
        checkpoint = latest_checkpoint(folder)
        if checkpoint is not None:
            return checkpoint, load_header(checkpoint)
    except ResumeError as error:
        raise _unfit(config, "an intact checkpoint", str(error)) from None
    raise _unfit(config, "a run with a checkpoint", f"none in {folder}")


def _unfit(config: RunConfig, expected: str, found: str) -> ConfigError:
    return config.invalid("mixing", "reference", expected=expected, found=found)


def _digest(identity: Mapping[str, Any]) -> str:
    """Return a digest of a checkpoint's identity, which determines its weights.

    Hashing the weights themselves would take as long as loading them.
    """
    return hashlib.sha256(json.dumps(identity, sort_keys=True).encode()).hexdigest()[:16]
