"""Loads any trained model as a causal language model of transformers, and its tokenizer.

    run, Llama          weights renamed as LlamaForCausalLM's    (export/models.py)
    run, hugging_face   the architecture that it trained         (model/hugging_face.py)
    folder or hub id    AutoModelForCausalLM, AutoTokenizer

A run's tokenizer is the file that its shards were written with, found by its fingerprint.
"""

# pyright: reportUnknownVariableType=false, reportUnknownArgumentType=false
# (transformers is partly typed)

from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from transformers import AutoTokenizer

from megadga.arrays import FloatArray, IntArray
from megadga.config.models import HuggingFaceModel, LlamaModel
from megadga.data.files import checksum
from megadga.errors import ConfigError
from megadga.export.folder import DTYPES, Dtype
from megadga.export.models import exported_model, rename_weights
from megadga.export.tokenizer import kept_file, open_tokenizer
from megadga.model.hugging_face import Architecture, HuggingFaceDecoder, ModelError
from megadga.prepare.progress import Stages, no_progress
from megadga.prepare.tokenizer import read_tokenizer_file
from megadga.train.models import (
    TOKENIZER_FILES,
    file_of_model,
    model_errors,
    read_architecture,
    vocabulary_rows,
)
from megadga.train.saved import SavedRun
from megadga.train.weights import copy_weights, open_weights
from megadga.use.text import ModelTokenizer, TransformersCoder

LONGEST_WINDOW = 2048
"""Default limit of a window's targets for models that do not say what they were trained on."""


@dataclass(frozen=True)
class Placement:
    """Where a model is loaded to.

    Attributes:
        device: The device.
        dtype: Type of weights and arithmetic; None: what it was trained in, or is stored in.
    """

    device: torch.device
    dtype: Dtype | None = None


@dataclass(frozen=True, eq=False)
class CausalLm:
    """A loaded model.

    Attributes:
        name: What the user called it.
        step: Optimizer steps of a run; None: unknown.
        decoder: The model; ``decoder.model`` is transformers' own.
        dtype: Type of its weights.
        device: Where they are.
        positions: Tokens that it can read at once; None: it does not say.
        sequence_length: Targets of a window that it was trained on, or a usual number.
        fingerprints: Of the tokenizer's files: SHA-256 of those that shards may name.
        tokenizer: Its tokenizer; None: there is none.
        no_tokenizer: Why not.
    """

    name: str
    step: int | None
    decoder: HuggingFaceDecoder
    dtype: Dtype
    device: torch.device
    positions: int | None
    sequence_length: int
    fingerprints: frozenset[str]
    tokenizer: ModelTokenizer | None
    no_tokenizer: str = ""

    def token_losses(self, windows: IntArray) -> FloatArray:
        """Return the cross-entropy of each next token in nats, 0 at padding.

        Args:
            windows: Ids, or ``PADDING`` at the ends, shape ``(b, S + 1)``.

        Returns:
            Shape ``(b, S)``.

        Raises:
            ConfigError: If the device has too little memory.
        """
        with fitting(f"{windows.shape[0]} windows of {windows.shape[1] - 1:,} tokens"):
            losses = self.decoder(torch.as_tensor(windows, device=self.device))
            return losses.double().cpu().numpy()

    def needed_tokenizer(self) -> ModelTokenizer:
        """Return the tokenizer.

        Raises:
            ConfigError: If there is none.
        """
        if self.tokenizer is None:
            raise ConfigError(self.no_tokenizer)
        return self.tokenizer


@contextmanager
def fitting(what: str) -> Generator[None]:
    """Compute without gradients; turn lack of memory into an error of one line.

    Args:
        what: What is computed at once.

    Raises:
        ConfigError: If the device has too little memory.
    """
    try:
        with torch.inference_mode():
            yield
    except torch.OutOfMemoryError as error:
        found = " ".join(str(error).split())[:200]
        raise ConfigError(
            f"--batch-size: expected memory for {what} at once, found too little: {found}"
        ) from error


def choose_device(name: str | None) -> torch.device:
    """Return a device by its name; None: the accelerator if there is one, else the CPU.

    Raises:
        ConfigError: If there is no such device.
    """
    if name is None:
        found = torch.accelerator.current_accelerator(check_available=True)
        return torch.device("cpu") if found is None else found
    try:
        device = torch.device(name)
        torch.empty(1, device=device)
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        found = " ".join(str(error).split())[:200]
        expected = "a device of this machine, as cpu or cuda:0"
        raise ConfigError(f"--device: expected {expected}, found {name}: {found}") from error
    return device


def load_causal_lm(
    name: str,
    found: SavedRun | HuggingFaceModel,
    placement: Placement,
    *,
    tokenizer: Path | None = None,
    stages: Stages = no_progress,
) -> CausalLm:
    """Load a model, whatever it is, in evaluation mode.

    Args:
        name: What the user calls it.
        found: What `find_model` found.
        placement: Where to, and in which precision.
        tokenizer: File of the tokenizer; None: the model's own.
        stages: Reports progress.

    Raises:
        ConfigError: If transformers cannot load it, or the tokenizer is another one.
        ResumeError: If the checkpoint is damaged.
    """
    match found:
        case SavedRun():
            return _load_run(name, found, placement, tokenizer, stages)
        case HuggingFaceModel():
            try:
                return _load_folder(name, found, placement, tokenizer)
            except ModelError as error:
                key = f"{'.'.join(error.key)}: " if error.key not in ((), ("path",)) else ""
                what = f"{key}expected {error.expected}, found {error.found}"
                raise ConfigError(f"{name}: {what}") from error


def _load_run(
    name: str, run: SavedRun, placement: Placement, tokenizer: Path | None, stages: Stages
) -> CausalLm:
    config, eod = run.config, run.tokenizer.eod
    file = _tokenizer_file(run, tokenizer)
    run.verify(stages)
    dtype = placement.dtype or config.training.precision
    weights = open_weights(run.checkpoint, run.zero_stage)
    match config.model:
        case LlamaModel():
            rows = config.model.vocabulary_size or run.tokenizer.vocab_size
            exported = exported_model(config, num_tokens=run.tokenizer.vocab_size, eod=eod)
            length = config.model.sequence_length
            section = HuggingFaceModel(
                type="hugging_face", config=dict(exported.config), sequence_length=length
            )
            with model_errors(config):
                architecture = Architecture.read(section, vocabulary_size=rows, eod=eod)
                decoder = architecture.empty(vocabulary_size=rows, dtype=DTYPES[dtype])
            targets: dict[str, Any] = decoder.model.state_dict(keep_vars=True)
            with torch.no_grad():
                for key, stored in rename_weights(exported, weights, place=run.checkpoint).items():
                    targets[key].copy_(stored.read())
        case HuggingFaceModel():
            num_tokens = run.tokenizer.vocab_size
            architecture = read_architecture(config, num_tokens=num_tokens, eod=eod)
            rows = vocabulary_rows(config, run.tokenizer)
            with model_errors(config):
                decoder = architecture.empty(vocabulary_size=rows, dtype=DTYPES[dtype])
            copy_weights(weights, decoder, place=run.checkpoint)
    missing = ""
    if file is None:
        missing = (
            f"--tokenizer: expected the file that the shards of {name} were written with (SHA-256 "
            f"{run.tokenizer.fingerprint[:16]}...), found no copy of it with the run's shards"
        )
    return CausalLm(
        name,
        run.header.step,
        decoder.to(placement.device),
        dtype,
        placement.device,
        architecture.longest,
        config.model.sequence_length,
        frozenset((run.tokenizer.fingerprint,)),
        None if file is None else ModelTokenizer(open_tokenizer(file, eod=eod).ours, eod, eod),
        missing,
    )


def _tokenizer_file(run: SavedRun, given: Path | None) -> Path | None:
    """Return the file of a run's tokenizer, or None if it is not with its shards."""
    wanted = run.tokenizer.fingerprint
    if given is None:
        return kept_file(run.config, wanted)
    _, found = read_tokenizer_file(given)
    if found != wanted:
        raise ConfigError(
            f"--tokenizer: expected the file that the run's shards were written with (SHA-256 "
            f"{wanted[:16]}...), found {given} ({found[:16]}...)"
        )
    return given


def _load_folder(
    name: str, section: HuggingFaceModel, placement: Placement, tokenizer: Path | None
) -> CausalLm:
    architecture = Architecture.read(section, vocabulary_size=1, eod=0)
    stored: dict[torch.dtype, Dtype] = {theirs: ours for ours, theirs in DTYPES.items()}
    dtype: Dtype = placement.dtype or stored.get(architecture.config.dtype, "fp32")
    decoder = architecture.load(DTYPES[dtype])
    longest = architecture.longest
    missing, own, prints = "", None, frozenset[str]()
    if tokenizer is not None:
        own, prints = _given_tokenizer(name, architecture, tokenizer)
    else:
        try:
            own = _own_tokenizer(section, architecture)
        except (OSError, ValueError, KeyError, TypeError, ImportError) as error:
            found = " ".join(str(error).split())[:200]
            missing = f"{name}: expected a tokenizer, or --tokenizer FILE, found none: {found}"
        assert section.path is not None, "found by its path"
        files = [
            file_of_model(section.path, file, section.revision)
            for file in TOKENIZER_FILES.values()
        ]
        prints = frozenset(checksum(file) for file in files if file is not None)
    return CausalLm(
        name,
        None,
        decoder.to(placement.device),
        dtype,
        placement.device,
        longest,
        LONGEST_WINDOW if longest is None else min(longest, LONGEST_WINDOW),
        prints,
        own,
        missing,
    )


def _own_tokenizer(section: HuggingFaceModel, architecture: Architecture) -> ModelTokenizer:
    """Return the tokenizer that comes with a model of transformers."""
    load: Any = AutoTokenizer.from_pretrained
    theirs = load(
        section.path,
        revision=section.revision,
        trust_remote_code=section.trust_remote_code,
        split_special_tokens=True,
    )
    end = theirs.eos_token_id
    end = _end(architecture) if end is None else end
    if end is None:
        raise ValueError("a tokenizer without an eos_token")
    before = tuple(theirs("")["input_ids"])
    return ModelTokenizer(TransformersCoder(theirs), end, theirs.bos_token_id, before)


def _given_tokenizer(
    name: str, architecture: Architecture, file: Path
) -> tuple[ModelTokenizer, frozenset[str]]:
    """Return a tokenizer of shards for a model of transformers that has the same tokens."""
    end = _end(architecture)
    if end is None:
        expected = "an eos_token_id in the model's configuration"
        raise ConfigError(f"{name}: expected {expected}, which ends documents, found none")
    ours = open_tokenizer(file, eod=end).ours
    if ours.identity.vocab_size > architecture.rows:
        raise ConfigError(
            f"--tokenizer: expected at most {architecture.rows:,} tokens, those of {name}, "
            f"found {ours.identity.vocab_size:,} in {file}"
        )
    start = architecture.config.get_text_config().bos_token_id
    return ModelTokenizer(ours, end, start), frozenset((ours.identity.fingerprint,))


def _end(architecture: Architecture) -> int | None:
    found: int | list[int] | None = architecture.config.get_text_config().eos_token_id
    return found[0] if isinstance(found, list) else found
