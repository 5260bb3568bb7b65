"""Loads DeepSpeed checkpoints with ``weights_only=True``: nothing in a file is executed."""

import os
import pickle
import re
from collections.abc import Generator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, final

import numpy as np
import torch
from deepspeed.runtime.fp16.loss_scaler import DynamicLossScaler, LossScaler
from deepspeed.runtime.zero.config import ZeroStageEnum
from deepspeed.utils.tensor_fragment import fragment_address

from megadga.probes.saving import PendingFile, collect_files

_FORCE = "TORCH_FORCE_WEIGHTS_ONLY_LOAD"
"""Variable by which torch is told so, whatever its caller asks for."""


_OF_DEEPSPEED = (DynamicLossScaler, LossScaler, ZeroStageEnum, fragment_address)


_OF_NUMPY: tuple[Any, ...] = (
    np.ndarray,
    np.dtype,
    np.empty(0).__reduce__()[0],  # what makes an array of a pickled one
    np.float64(0).__reduce__()[0],  # likewise a single number
    *(type(np.dtype(code)) for code in "?bhilqBHILQefd"),
)
"""Arrays of numbers, in the states of plugins."""


_REFUSED = re.compile(r"GLOBAL ([\w.]+)")


@contextmanager
def weights_only_loading() -> Generator[None]:
    """Have every ``torch.load`` of this process read weights only, DeepSpeed's own too.

    Raises:
        UnpicklingError: If a file has anything else in it; names what.
    """
    before = os.environ.get(_FORCE)
    os.environ[_FORCE] = "1"
    try:
        with torch.serialization.safe_globals([*_OF_DEEPSPEED, *_OF_NUMPY]):
            yield
    except pickle.UnpicklingError as error:
        named = _REFUSED.search(str(error))
        what = named[1] if named else " ".join(str(error).split())
        raise pickle.UnpicklingError(f"{what}, which is no tensor and no plain value") from None
    finally:
        if before is None:
            del os.environ[_FORCE]
        else:
            os.environ[_FORCE] = before


@final
class WeightsOnlyEngine:
    """A DeepSpeed engine whose checkpoints are read without running what is in them.

    Args:
        engine: DeepSpeed's.
    """

    def __init__(self, engine: Any) -> None:
        self._engine = engine

    def collect_checkpoint(
        self, tag: str, client_state: dict[str, Any], *, scratch: Path, copies: bool
    ) -> Sequence[PendingFile]:
        """Return this rank's files of a checkpoint; see ``collect_files``. Collective."""
        return collect_files(self._engine, tag, client_state, scratch=scratch, copies=copies)

    def load_checkpoint(
        self, load_dir: str, tag: str, *, with_schedule: bool = True
    ) -> tuple[str | None, Any]:
        """Load ``load_dir/tag``; return its path, or None, and the client state. Collective.

        Args:
            load_dir: Folder of checkpoints.
            tag: The checkpoint's name in it.
            with_schedule: Whether the state of the learning rate's schedule is loaded, too.

        Raises:
            UnpicklingError: If there is more in it than tensors and plain values.
        """
        with weights_only_loading():
            return self._engine.load_checkpoint(
                load_dir, tag, load_lr_scheduler_states=with_schedule
            )
