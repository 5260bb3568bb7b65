"""Shape and checkpoint of a run's model, from its configuration or folder (no torch)."""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from megadga.config.loading import load_config
from megadga.config.run import RunConfig
from megadga.config.sections import LlamaModel
from megadga.data.manifest import TokenizerIdentity
from megadga.errors import ConfigError, ResumeError
from megadga.mixers.doremi import DoremiOptions
from megadga.model.presets import PRESETS, LlamaShape
from megadga.run_folder.checkpoints import (
    CHECKPOINTS,
    CheckpointHeader,
    latest_checkpoint,
    load_header,
)


def model_shape(model: LlamaModel) -> LlamaShape:
    """Return the preset's shape, with what the configuration says otherwise."""
    shape = PRESETS[model.preset]
    if model.tied_embeddings is None:
        return shape
    return replace(shape, tied_embeddings=model.tied_embeddings)


def describe_size(model: LlamaModel) -> str:
    """Return how many parameters the model has, as far as that is known without the shards."""
    shape = model_shape(model)
    if model.vocabulary_size is not None:
        return f"{shape.num_parameters(model.vocabulary_size):,} parameters"
    per_token = shape.num_parameters(1) - shape.num_parameters(0)
    fixed = f"{shape.num_parameters(0):,} parameters"
    return f"{fixed}, and {per_token:,} for each token of the shards' vocabulary"


@dataclass(frozen=True)
class RunReference:
    """A trained model, as another run left it.

    Attributes:
        model: What it is.
        vocabulary_size: Rows of its embedding.
        checkpoint: Folder of its weights.
        header: What the checkpoint says of itself.
        zero_stage: How they are cut there.
        step: Optimizer steps that it was trained for.
        digest: Equal for equal runs up to that step, wherever they lie.
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
        """What it is, JSON-shaped: equal for equal models."""
        return {"step": self.step, "digest": self.digest}


def open_reference(config: RunConfig, tokenizer: TokenizerIdentity) -> RunReference | None:
    """Find the reference model of a run whose rule has one; None: it has none.

    Args:
        config: The run.
        tokenizer: What wrote its tokens.

    Raises:
        ConfigError: If the folder is none of a run, has no checkpoint, or is of another tokenizer
            or another sequence length.
    """
    if not isinstance(config.mixing, DoremiOptions):
        return None
    folder = config.mixing.reference
    path = folder / "config.yaml"
    if not path.is_file():
        raise _unfit(config, "the output folder of a run", f"no {path}")
    other = load_config(path)
    length, other_length = config.model.sequence_length, other.model.sequence_length
    if other_length != length:
        expected = f"a model of model.sequence_length {length} ({path})"
        raise _unfit(config, expected, str(other_length))
    checkpoint, header = _checkpoint(config, folder / CHECKPOINTS)
    found = header.identity.get("shards", {}).get("tokenizer", "none")
    if found != tokenizer.fingerprint:
        expected = f"a run by the tokenizer {tokenizer.fingerprint[:12]} ({checkpoint})"
        raise _unfit(config, expected, found[:12])
    rows = other.model.vocabulary_size
    return RunReference(
        model=other.model,
        vocabulary_size=tokenizer.vocab_size if rows is None else rows,
        checkpoint=checkpoint,
        header=header,
        zero_stage=other.deepspeed.get("zero_optimization", {}).get("stage", 0),
        step=header.step,
        digest=_digest(header.identity),
    )


def _checkpoint(config: RunConfig, folder: Path) -> tuple[Path, CheckpointHeader]:
    """Return the checkpoint that the other run would continue from, and its header."""
    try:
        checkpoint = latest_checkpoint(folder)
        if checkpoint is not None:
            return checkpoint, load_header(checkpoint)
    except ResumeError as error:
        raise _unfit(config, "a whole checkpoint", str(error)) from None
    raise _unfit(config, "a run with a checkpoint", f"none in {folder}")


def _unfit(config: RunConfig, expected: str, found: str) -> ConfigError:
    return config.invalid("mixing", "reference", expected=expected, found=found)


def _digest(identity: Mapping[str, Any]) -> str:
    """Return a digest of what a checkpoint says it is, which decides the bits of its weights.

    Reading the weights themselves would take as long as loading them.
    """
    return hashlib.sha256(json.dumps(identity, sort_keys=True).encode()).hexdigest()[:16]
