"""Trained models that a run uses: a reference, or what it starts from (without torch)."""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from megadga.config.loading import load_config
from megadga.config.models import HuggingFaceModel, LlamaModel
from megadga.config.run import RunConfig
from megadga.data.manifest import TokenizerIdentity
from megadga.errors import ResumeError
from megadga.mixers.doremi import DoremiOptions
from megadga.run_folder.checkpoints import (
    CHECKPOINTS,
    CheckpointHeader,
    latest_checkpoint,
    load_header,
)
from megadga.section import KeyPath
from megadga.train.models import check_tokenizer

_REFERENCE: KeyPath = ("mixing", "reference")
_INITIAL: KeyPath = ("model", "initial_weights")


@dataclass(frozen=True)
class TrainedModel:
    """A model from another run's checkpoint.

    Attributes:
        model: Its configuration.
        vocabulary_size: Rows of its embedding.
        checkpoint: The checkpoint's folder.
        header: The checkpoint's header.
        zero_stage: ZeRO stage of the run, which determines the layout of the checkpoint.
        step: Optimizer steps that it was trained for.
        digest: Equal for equal runs up to that step, independent of their location.
    """

    model: LlamaModel | HuggingFaceModel
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


def open_reference(config: RunConfig, tokenizer: TokenizerIdentity) -> TrainedModel | None:
    """Find the reference model of a run, None if its scheduler does not use one.

    Args:
        config: The run.
        tokenizer: Tokenizer that produced its tokens.

    Raises:
        ConfigError: If the folder is not a run's, has no checkpoint, or its kind of model,
            tokenizer or sequence length differs.
    """
    if not isinstance(config.mixing, DoremiOptions):
        return None
    folder = config.mixing.reference
    found = _open(config, _REFERENCE, folder, tokenizer)
    where = folder / "config.yaml"
    if not isinstance(found.model, LlamaModel):
        expected = f"a model of type llama ({where})"
        raise config.invalid(*_REFERENCE, expected=expected, found=found.model.type)
    length, other_length = config.model.sequence_length, found.model.sequence_length
    if other_length != length:
        expected = f"a model of model.sequence_length {length} ({where})"
        raise config.invalid(*_REFERENCE, expected=expected, found=str(other_length))
    return found


def open_initial(config: RunConfig, tokenizer: TokenizerIdentity) -> TrainedModel | Path | None:
    """Find what a run starts from.

    Args:
        config: The run.
        tokenizer: Tokenizer that produced its tokens.

    Returns:
        Another run's model; or a folder of Hugging Face's, for a run of type llama alone; None:
        the run starts from its initialisation, or from the model's ``path``.

    Raises:
        ConfigError: If the folder is neither, or its model or tokenizer differs.
    """
    folder = config.model.initial_weights
    if folder is None:
        return None
    if not (folder / "config.yaml").is_file() and (folder / "config.json").is_file():
        if isinstance(config.model, LlamaModel):
            check_tokenizer(config, "initial_weights", str(folder.absolute()), tokenizer)
            return folder
        expected = "a run's folder: path is for those of Hugging Face"
        raise config.invalid(*_INITIAL, expected=expected, found=str(folder))
    found = _open(config, _INITIAL, folder, tokenizer)
    if found.model.type != config.model.type:
        expected = f"a model of type {config.model.type} ({folder})"
        raise config.invalid(*_INITIAL, expected=expected, found=found.model.type)
    return found


def _open(
    config: RunConfig, key: KeyPath, folder: Path, tokenizer: TokenizerIdentity
) -> TrainedModel:
    """Return the latest model of another run by the same tokenizer."""
    path = folder / "config.yaml"
    if not path.is_file():
        raise config.invalid(*key, expected="the output folder of a run", found=f"no {path}")
    other = load_config(path)
    checkpoint, header = _checkpoint(config, key, folder / CHECKPOINTS)
    match header.identity.get("shards"):  # of a file that anybody may have changed
        case {"tokenizer": str(found)}:
            pass
        case _:
            found = "none"
    if found != tokenizer.fingerprint:
        expected = f"a run by the tokenizer {tokenizer.fingerprint[:12]} ({checkpoint})"
        raise config.invalid(*key, expected=expected, found=found[:12])
    rows = other.model.vocabulary_size
    return TrainedModel(
        model=other.model,
        vocabulary_size=tokenizer.vocab_size if rows is None else rows,
        checkpoint=checkpoint,
        header=header,
        zero_stage=other.deepspeed.get("zero_optimization", {}).get("stage", 0),
        step=header.step,
        digest=_digest(header.identity),
    )


def _checkpoint(config: RunConfig, key: KeyPath, folder: Path) -> tuple[Path, CheckpointHeader]:
    """Return the other run's latest checkpoint and its header."""
    try:
        checkpoint = latest_checkpoint(folder)
        if checkpoint is not None:
            return checkpoint, load_header(checkpoint)
    except ResumeError as error:
        expected, found = "an intact checkpoint", str(error)
        raise config.invalid(*key, expected=expected, found=found) from None
    raise config.invalid(*key, expected="a run with a checkpoint", found=f"none in {folder}")


def _digest(identity: Mapping[str, Any]) -> str:
    """Return a digest of a checkpoint's identity, which determines its weights.

    Hashing the weights themselves would take as long as loading them.
    """
    return hashlib.sha256(json.dumps(identity, sort_keys=True).encode()).hexdigest()[:16]
