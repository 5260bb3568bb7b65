"""Loads any trained model as a causal language model of transformers.

run of type llama          weights renamed as those of LlamaForCausalLM
run of type hugging_face   the architecture that it trained
folder, or name on the hub AutoModelForCausalLM
"""

from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from megadga.arrays import FloatArray, IntArray
from megadga.config.models import HuggingFaceModel, LlamaModel
from megadga.errors import ConfigError
from megadga.export.folder import DTYPES, Dtype
from megadga.export.models import exported_model, rename_weights
from megadga.model.hugging_face import Architecture, HuggingFaceDecoder, ModelError
from megadga.prepare.progress import Stages, no_progress
from megadga.train.models import model_errors, open_architecture, vocabulary_rows
from megadga.train.saved import SavedRun
from megadga.train.weights import copy_weights, open_weights
from megadga.use.text import ModelTokenizer
from megadga.use.tokenizers import FoundTokenizer, tokenizer_of_folder, tokenizer_of_run

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
        found: Its tokenizer.
    """

    name: str
    step: int | None
    decoder: HuggingFaceDecoder
    dtype: Dtype
    device: torch.device
    positions: int | None
    sequence_length: int
    found: FoundTokenizer

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
        if self.found.tokenizer is None:
            raise ConfigError(self.found.missing)
        return self.found.tokenizer


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
    name: str, run: SavedRun, placement: Placement, given: Path | None, stages: Stages
) -> CausalLm:
    found = tokenizer_of_run(name, run, given)
    run.verify(stages)
    dtype = placement.dtype or run.config.training.precision
    decoder, positions = _decoder_of_run(run, DTYPES[dtype])
    return CausalLm(
        name,
        run.header.step,
        decoder.to(placement.device),
        dtype,
        placement.device,
        positions,
        run.config.model.sequence_length,
        found,
    )


def _decoder_of_run(run: SavedRun, dtype: torch.dtype) -> tuple[HuggingFaceDecoder, int | None]:
    """Return a run's model with the weights of its checkpoint, and the positions it reads."""
    config, place = run.config, run.checkpoint
    num_tokens, eod = run.tokenizer.vocab_size, run.tokenizer.eod
    architecture = open_architecture(config, run.tokenizer)
    rows = vocabulary_rows(config, run.tokenizer, architecture)
    weights = open_weights(place, run.zero_stage)
    with model_errors(config):
        match config.model:
            case LlamaModel(sequence_length=length):
                exported = exported_model(config, num_tokens=num_tokens, eod=eod)
                own = dict(exported.config)
                section = HuggingFaceModel(type="hugging_face", config=own, sequence_length=length)
                architecture = Architecture.read(section, vocabulary_size=rows, eod=eod)
                decoder = architecture.empty(vocabulary_size=rows, dtype=dtype)
                targets: dict[str, Tensor] = decoder.model.state_dict(keep_vars=True)
                with torch.no_grad():
                    for key, stored in rename_weights(exported, weights, place=place).items():
                        targets[key].copy_(stored.read())
            case HuggingFaceModel():
                assert architecture is not None
                decoder = architecture.empty(vocabulary_size=rows, dtype=dtype)
                copy_weights(weights, decoder, place=place)
    return decoder, architecture.longest


def _load_folder(
    name: str, section: HuggingFaceModel, placement: Placement, given: Path | None
) -> CausalLm:
    architecture = Architecture.read(section, vocabulary_size=1, eod=0)
    stored: dict[torch.dtype, Dtype] = {theirs: ours for ours, theirs in DTYPES.items()}
    dtype: Dtype = placement.dtype or stored.get(architecture.config.dtype, "fp32")
    found = tokenizer_of_folder(name, section, architecture, given)
    longest = architecture.longest
    return CausalLm(
        name,
        None,
        architecture.load(DTYPES[dtype]).to(placement.device),
        dtype,
        placement.device,
        longest,
        LONGEST_WINDOW if longest is None else min(longest, LONGEST_WINDOW),
        found,
    )
