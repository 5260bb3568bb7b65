"""Trained models that a run uses: a reference, or what it starts from (without torch)."""

from pathlib import Path

from megadga.config.loading import load_config
from megadga.config.models import LlamaModel
from megadga.config.run import RunConfig
from megadga.data.manifest import TokenizerIdentity
from megadga.errors import ResumeError
from megadga.mixers.doremi import DoremiOptions
from megadga.run_folder import CONFIG_FILE
from megadga.run_folder.checkpoints import (
    CHECKPOINTS,
    header_path,
    latest_checkpoint,
    load_header,
)
from megadga.section import KeyPath
from megadga.train.models import check_tokenizer
from megadga.train.saved import SavedRun, tokenizer_of

_REFERENCE: KeyPath = ("mixing", "reference")
_INITIAL: KeyPath = ("model", "initial_weights")


def open_reference(config: RunConfig, tokenizer: TokenizerIdentity) -> SavedRun | None:
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
    where = folder / CONFIG_FILE
    if not isinstance(found.config.model, LlamaModel):
        expected = f"a model of type llama ({where})"
        raise config.invalid(*_REFERENCE, expected=expected, found=found.config.model.type)
    length, other_length = config.model.sequence_length, found.config.model.sequence_length
    if other_length != length:
        expected = f"a model of model.sequence_length {length} ({where})"
        raise config.invalid(*_REFERENCE, expected=expected, found=str(other_length))
    return found


def open_initial(config: RunConfig, tokenizer: TokenizerIdentity) -> SavedRun | Path | None:
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
    if not (folder / CONFIG_FILE).is_file() and (folder / "config.json").is_file():
        if isinstance(config.model, LlamaModel):
            check_tokenizer(config, "initial_weights", str(folder.absolute()), tokenizer)
            return folder
        expected = "a run's folder: path is for those of Hugging Face"
        raise config.invalid(*_INITIAL, expected=expected, found=str(folder))
    found = _open(config, _INITIAL, folder, tokenizer)
    if found.config.model.type != config.model.type:
        expected = f"a model of type {config.model.type} ({folder})"
        raise config.invalid(*_INITIAL, expected=expected, found=found.config.model.type)
    return found


def _open(config: RunConfig, key: KeyPath, folder: Path, tokenizer: TokenizerIdentity) -> SavedRun:
    """Open another run by the same tokenizer: its latest checkpoint, or the one that is named."""
    named = header_path(folder).is_file()
    run = folder.absolute().parents[1] if named else folder
    path = run / CONFIG_FILE
    if not path.is_file():
        raise config.invalid(*key, expected="the output folder of a run", found=f"no {path}")
    other = load_config(path)
    try:
        checkpoint = folder if named else latest_checkpoint(run / CHECKPOINTS)
        if checkpoint is None:
            expected, found = "a run with a checkpoint", f"none in {run / CHECKPOINTS}"
            raise config.invalid(*key, expected=expected, found=found)
        header = load_header(checkpoint)
        own = tokenizer_of(header)
    except ResumeError as error:
        expected = "an intact checkpoint"
        raise config.invalid(*key, expected=expected, found=str(error)) from None
    if own.fingerprint != tokenizer.fingerprint:
        expected = f"a run by the tokenizer {tokenizer.fingerprint[:12]} ({checkpoint})"
        raise config.invalid(*key, expected=expected, found=own.fingerprint[:12])
    return SavedRun(other, checkpoint, header, own)
