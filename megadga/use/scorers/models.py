"""A model that scores documents: by name, so that processes can load it (without torch)."""

import functools
import os
import sys
from collections.abc import Generator, Sequence
from contextlib import contextmanager, redirect_stdout
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal, final

import numpy as np

from megadga.arrays import IntArray
from megadga.config.models import HuggingFaceModel
from megadga.data.folder import ShardFolder
from megadga.data.targets import PADDING
from megadga.errors import ConfigError
from megadga.launch.quiet import quieten
from megadga.prepare.clustering.embedding import fingerprint_folder
from megadga.prepare.extras import import_extra
from megadga.train.saved import SavedRun
from megadga.use.sets import check_fingerprint
from megadga.use.sources import ModelName, find_model

if TYPE_CHECKING:
    from megadga.use.loading import CausalLm


@final
@dataclass(frozen=True)
class ScoringModel:
    """A model, and how it is loaded; picklable.

    Attributes:
        name: The model.
        identity: Digest of what determines its weights, wherever it is.
        device: Name of the device; None: the accelerator if there is one, else the CPU.
        dtype: Type of weights and arithmetic; None: what it was trained or stored in.
        tokenizer: File that shards were written with; None: the model's own.
        batch_size: Windows of a forward pass, at least 1.
        sequence_length: Targets of a window (S); None: the model's own.
    """

    name: ModelName
    identity: str
    device: str | None = None
    dtype: Literal["fp32", "bf16", "fp16"] | None = None
    tokenizer: Path | None = None
    batch_size: int = 8
    sequence_length: int | None = None

    @property
    def description(self) -> str:
        """What its numbers depend on, in words."""
        length = "" if self.sequence_length is None else f", windows of {self.sequence_length}"
        dtype = "" if self.dtype is None else f" in {self.dtype}"
        return f"model {self.identity}{dtype}{length}"


def identify_model(name: ModelName) -> str:
    """Return a digest of a model; of a folder, its files are read, of a hub's model its name.

    Raises:
        ConfigError: If there is none.
        ResumeError: If a run has no such checkpoint.
    """
    match find_model(name):
        case SavedRun() as run:
            return f"{run.identity['digest']} of step {run.step}"
        case HuggingFaceModel(path=path) if path is not None and Path(path).is_dir():
            return fingerprint_folder(Path(path))[:16]
        case HuggingFaceModel(path=path, revision=revision):
            return f"{path}@{revision or 'main'}"


@contextmanager
def libraries_loading() -> Generator[None]:
    """Send what libraries print while they are imported to standard error."""
    quieten(os.environ, rank=0)
    with redirect_stdout(sys.stderr):
        yield


@functools.lru_cache(maxsize=1)
def load_model(model: ScoringModel) -> "CausalLm":
    """Load a model, once in a process, which computes on one thread from then on.

    Sums are divided over threads: with another number, last digits differ.

    Raises:
        ConfigError: If it cannot be loaded, or transformers is not installed.
        ResumeError: If a checkpoint is damaged.
    """
    with libraries_loading():
        logging = import_extra("transformers.utils.logging", extra="hf")
        import torch  # noqa: PLC0415

        from megadga.use.devices import choose_device  # noqa: PLC0415
        from megadga.use.loading import (  # noqa: PLC0415
            Placement,
            load_causal_lm,
        )

        logging.disable_progress_bar()
        torch.set_num_threads(1)
        placement = Placement(choose_device(model.device), model.dtype)
        loaded = load_causal_lm(
            model.name.name, find_model(model.name), placement, tokenizer=model.tokenizer
        )
    length = model.sequence_length
    if length is not None and loaded.positions is not None and length > loaded.positions:
        raise ConfigError(
            f"--sequence-length: expected at most {loaded.positions:,}, as many tokens as "
            f"{model.name.name} reads, found {length:,}"
        )
    return loaded


def check_shards(model: ScoringModel, folders: Sequence[ShardFolder]) -> None:
    """Load a model in this process, and check that shards were written with its tokenizer.

    Raises:
        ConfigError: As of ``load_model``.
        ResumeError: Likewise.
        ShardError: If they were not.
    """
    fingerprints = load_model(model).found.fingerprints
    for folder in folders:
        check_fingerprint(folder.source.path, folder.manifest.tokenizer.fingerprint, fingerprints)


def document_windows(
    documents: Sequence[IntArray], *, context: int, sequence_length: int
) -> tuple[list[IntArray], IntArray]:
    """Cut documents into windows, none of which has tokens of two documents.

    Every token of a document is a target once, the first one after ``context``, as it follows the
    end of another document in training.

    Args:
        documents: Tokens of each, marked where they are not trained.
        context: Id of the token that ends documents.
        sequence_length: Targets of a window at most (S).

    Returns:
        Windows with at least one target, of up to ``S + 1`` tokens; the document of each, shape
        ``(windows,)``.
    """
    windows: list[IntArray] = []
    owners: list[int] = []
    for number, tokens in enumerate(documents):
        whole = np.concatenate((np.array([context]), tokens)).astype(np.int64)
        for begin in range(0, tokens.size, sequence_length):
            window = whole[begin : begin + sequence_length + 1]
            if (window[1:] >= 0).any():
                windows.append(window)
                owners.append(number)
    return windows, np.array(owners, dtype=np.int64)


def padded(windows: Sequence[IntArray]) -> IntArray:
    """Return windows as rows of equal length, with ``PADDING`` at their ends."""
    rows = np.full((len(windows), max(map(len, windows))), PADDING, dtype=np.int64)
    for row, window in zip(rows, windows, strict=True):
        row[: len(window)] = window
    return rows
