"""Detects non-finite losses and gradients."""

import math
from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, final

import numpy as np
import torch

from megadga.errors import DivergedError
from megadga.plugin import Batch, Metrics
from megadga.probes.engine import LowestScaleError
from megadga.train.ranks import DataParallelRanks
from megadga.train.step import TokenLosses

_MAX_NAMED = 8
"""Domains listed in an error; a batch may contain thousands."""


@final
class NonFiniteSteps:
    """Counts consecutive non-finite optimizer steps, and checks models before they are saved.

    A step is non-finite if the loss of a sequence, a reference model's loss, or the gradient norm
    is. Not so in fp16 if the norm alone is: then gradients times the loss scale have overflowed,
    and DeepSpeed has left out the update, lowered the scale and goes on; only where the scale
    cannot be lowered the step counts. A model is non-finite if its losses on the batch it was just
    trained on are: the gradient may be infinite where the loss was finite.

    Args:
        limit: Consecutive non-finite steps that end the run, at least 1.
        losses: Computes the model's losses without side effects.
        ranks: The data-parallel ranks.
        latest: Returns the newest checkpoint for messages, None if there is none.
        lowest_scale: The loss scale that is not lowered any more in fp16.
    """

    def __init__(
        self,
        limit: int,
        *,
        losses: TokenLosses,
        ranks: DataParallelRanks,
        latest: Callable[[], Path | None],
        lowest_scale: float = 1.0,
    ) -> None:
        self._limit = limit
        self._losses = losses
        self._ranks = ranks
        self._latest = latest
        self._lowest_scale = lowest_scale
        self._consecutive = 0
        self._description = ""
        self._step = 0

    @property
    def was_finite(self) -> bool:
        """Whether the last step was finite."""
        return self._consecutive == 0

    def after_step(self, step: int, train: Mapping[str, Any]) -> Metrics:
        """Check a step's ``train`` record; return an ``event`` if something in it is not finite.

        Not collective: the record is equal on every rank.
        """
        self._step = step
        what = _not_finite(train)
        overflowed = what == ["gradient norm"] and "loss_scale" in train
        stuck = overflowed and train["loss_scale"] <= self._lowest_scale
        if not what or (overflowed and not stuck):
            self._consecutive = 0
        if not what:
            return {}
        if overflowed and not stuck:
            return {"event": {"event": "update_overflowed", "loss_scale": train["loss_scale"]}}
        self._consecutive += 1
        held = list(train["sequences_by_domain"])
        lost = _non_finite_domains(train)
        self._description = f"{' and '.join(what)} not finite, in a batch of {_format_names(held)}"
        if lost and len(lost) < len(held):
            self._description += f"; not finite: {_format_names(lost)}"
        if stuck:
            self._description += f", at {_lowest(train['loss_scale'])}"
        event = {"event": "step_not_finite", "what": what, "consecutive": self._consecutive}
        return {"event": {**event, "limit": self._limit, "domains": held, "not_finite": lost}}

    @contextmanager
    def at_lowest_scale(self, step: int) -> Generator[None]:
        """Explain, inside, why DeepSpeed gives up a step in fp16.

        Raises:
            DivergedError: If gradients overflow at the lowest loss scale; on every rank.
        """
        try:
            yield
        except LowestScaleError as error:
            raise DivergedError(
                f"training: expected gradients that float16 can hold, found an overflow in step "
                f"{step} at {_lowest(error.scale)}: gradients are not finite or too large; "
                f"precision: bf16, a lower learning rate or clipping may help; {self._kept()}"
            ) from error

    def check(self) -> None:
        """Raise if there were too many consecutive non-finite steps.

        Raises:
            DivergedError: If the limit is reached; on every rank.
        """
        if self._consecutive >= self._limit:
            raise self._error()

    def is_finite_model(self, batch: Batch) -> bool:
        """Return whether the model after ``batch`` is finite and may be saved. Collective."""
        if self._consecutive:
            return False
        losses = self._losses(batch.tokens[-1])
        lost = float(torch.count_nonzero(~torch.isfinite(losses)))
        if self._ranks.merged(np.array([lost]))[0] == 0.0:
            return True
        self._consecutive = 1
        self._description = f"{int(lost)} losses of the model after it not finite"
        return False

    def skipped_checkpoint(self) -> Metrics:
        """Return the ``event`` of a checkpoint that was not written."""
        return {"event": {"event": "checkpoint_skipped", "reason": self._description}}

    def check_end(self) -> None:
        """Raise if the run ends with a non-finite model.

        Raises:
            DivergedError: If the last step, or the model after it, is not finite; on every rank.
        """
        if self._consecutive:
            raise self._error()

    def _error(self) -> DivergedError:
        first = self._step - self._consecutive + 1
        return DivergedError(
            f"training: expected finite losses and gradients, found steps {first} to {self._step} "
            f"without (training.non_finite_limit: {self._limit}); step {self._step}: "
            f"{self._description}; no checkpoint was written since, {self._kept()}"
        )

    def _kept(self) -> str:
        latest = self._latest()
        return "no checkpoint was written" if latest is None else f"the newest one is {latest}"


def _lowest(scale: float) -> str:
    return f"the lowest loss scale, {scale:g} (deepspeed.fp16.min_loss_scale)"


def _not_finite(train: Mapping[str, Any]) -> list[str]:
    """Return the names of a step's non-finite values: loss, reference loss, gradient norm."""
    norm = train["grad_norm"]
    reference = train.get("reference_loss_by_domain", {})
    finite = {
        "loss": math.isfinite(train["loss"]),
        "reference loss": all(map(math.isfinite, reference.values())),
        "gradient norm": norm is None or math.isfinite(norm),
    }
    return [name for name, good in finite.items() if not good]


def _non_finite_domains(train: Mapping[str, Any]) -> list[str]:
    """Return the domains with a non-finite loss."""
    reference = train.get("reference_loss_by_domain", {})
    return [
        name
        for name, loss in train["loss_by_domain"].items()
        if not (math.isfinite(loss) and math.isfinite(reference.get(name, 0.0)))
    ]


def _format_names(names: Sequence[str]) -> str:
    more = f" and {len(names) - _MAX_NAMED} more" if len(names) > _MAX_NAMED else ""
    return f"{', '.join(names[:_MAX_NAMED])}{more}"
