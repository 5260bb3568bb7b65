"""Notices losses and gradients that are no finite numbers."""

import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, final

import numpy as np
import torch

from megadga.errors import DivergedError
from megadga.plugin import Batch, Metrics
from megadga.train.ranks import DataParallelRanks
from megadga.train.step import TokenLosses

_NAMED = 8
"""Domains that an error names: a batch may hold thousands."""


@final
class NonFiniteSteps:
    """Counts optimizer steps in a row that are not finite, and says which models may be saved.

    A step is not finite if the loss of a sequence, a reference model's loss of one, or the norm of
    the gradient is not. A model is not finite if its losses on the batch that it was just trained
    on are not: a gradient may be infinite where the loss was not.

    Args:
        limit: Steps in a row that end the run, at least 1.
        losses: The model's, without a trace in training.
        ranks: The data-parallel ranks.
        latest: The newest checkpoint, for messages; None: there is none.
    """

    def __init__(
        self,
        limit: int,
        *,
        losses: TokenLosses,
        ranks: DataParallelRanks,
        latest: Callable[[], Path | None],
    ) -> None:
        self._limit = limit
        self._losses = losses
        self._ranks = ranks
        self._latest = latest
        self._consecutive = 0
        self._found = ""
        self._step = 0

    def after_step(self, step: int, train: Mapping[str, Any]) -> Metrics:
        """Take in a step's ``train`` record; return an ``event`` if it is not finite.

        Not collective: the record says the same on every rank.
        """
        self._step = step
        what = _not_finite(train)
        if not what:
            self._consecutive = 0
            return {}
        self._consecutive += 1
        held = list(train["sequences_by_domain"])
        lost = _lost(train)
        self._found = f"{' and '.join(what)} not finite, in a batch of {_listed(held)}"
        if lost and len(lost) < len(held):
            self._found += f"; not finite: {_listed(lost)}"
        event = {"event": "step_not_finite", "what": what, "consecutive": self._consecutive}
        return {"event": {**event, "limit": self._limit, "domains": held, "not_finite": lost}}

    def check(self) -> None:
        """End the run if it has gone on for too long.

        Raises:
            DivergedError: After as many steps in a row as are allowed; on every rank.
        """
        if self._consecutive >= self._limit:
            raise self._error()

    def is_finite_model(self, batch: Batch) -> bool:
        """Return whether the model that ``batch`` was the last one of may be saved. Collective."""
        if self._consecutive:
            return False
        losses = self._losses(batch.tokens[-1])
        lost = float(torch.count_nonzero(~torch.isfinite(losses)))
        if self._ranks.merged(np.array([lost]))[0] == 0.0:
            return True
        self._consecutive = 1
        self._found = f"{int(lost)} losses of the model after it not finite"
        return False

    def skipped_checkpoint(self) -> Metrics:
        """Return the ``event`` of a checkpoint that is left out."""
        return {"event": {"event": "checkpoint_skipped", "reason": self._found}}

    def check_end(self) -> None:
        """Tell whether the run may count as finished.

        Raises:
            DivergedError: If its last step, or the model after it, is not finite; on every rank.
        """
        if self._consecutive:
            raise self._error()

    def _error(self) -> DivergedError:
        latest = self._latest()
        kept = "no checkpoint was written" if latest is None else f"the newest one is {latest}"
        first = self._step - self._consecutive + 1
        return DivergedError(
            f"training: expected finite losses and gradients, found steps {first} to {self._step} "
            f"without (training.non_finite_limit: {self._limit}); step {self._step}: "
            f"{self._found}; no checkpoint was written since, {kept}"
        )


def _not_finite(train: Mapping[str, Any]) -> list[str]:
    """Return what of a step is not finite: loss, reference loss, gradient norm."""
    norm = train["grad_norm"]
    reference = train.get("reference_loss_by_domain", {})
    finite = {
        "loss": math.isfinite(train["loss"]),
        "reference loss": all(map(math.isfinite, reference.values())),
        "gradient norm": norm is None or math.isfinite(norm),
    }
    return [name for name, good in finite.items() if not good]


def _lost(train: Mapping[str, Any]) -> list[str]:
    """Return the domains with a loss that is not finite."""
    reference = train.get("reference_loss_by_domain", {})
    return [
        name
        for name, loss in train["loss_by_domain"].items()
        if not (math.isfinite(loss) and math.isfinite(reference.get(name, 0.0)))
    ]


def _listed(names: Sequence[str]) -> str:
    more = f" and {len(names) - _NAMED} more" if len(names) > _NAMED else ""
    return f"{', '.join(names[:_NAMED])}{more}"
