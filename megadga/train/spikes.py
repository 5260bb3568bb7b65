"""Finds steps whose loss stands out from those before them."""

import math
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, final

import numpy as np
import torch

from megadga.arrays import FloatArray
from megadga.plugin import Batch, Metrics

MAD_TO_SIGMA = 1.4826
"""A normal distribution's standard deviation over its median absolute deviation."""


LEAST_DEVIATION = 1e-3
"""Of the median loss: losses of large batches hardly differ at all."""


_WORST = 16
"""Windows listed in an event: those of the largest losses."""


@dataclass(frozen=True)
class SpikeRule:
    """Which losses stand out.

    Attributes:
        sigma: Standard deviations above the median, above 0.
        window: Steps that a loss is compared with, at least 1.
    """

    sigma: float
    window: int


@dataclass(frozen=True)
class Expected:
    """What a loss is compared with.

    Attributes:
        loss: The median of the losses before it, nats per token.
        deviation: Their standard deviation, estimated robustly, above 0.
    """

    loss: float
    deviation: float

    def sigmas(self, loss: float) -> float:
        """Return the deviations by which a loss is above the median; infinite if it is no number.

        Negative below the median.
        """
        return (loss - self.loss) / self.deviation if math.isfinite(loss) else math.inf


def expected_loss(losses: FloatArray) -> Expected:
    """Return what the next loss should be near.

    The median ``m`` of the losses, and ``1.4826 median(|l - m|)``, at least ``0.001 |m|``: neither
    moves while less than half of the losses are outliers. Losses that fall raise both, so that the
    start of training, where they fall fast, has no spikes.

    Args:
        losses: Finite, shape ``(n,)``, ``n`` at least 1.
    """
    median = float(np.median(losses))
    deviation = MAD_TO_SIGMA * float(np.median(np.abs(losses - median)))
    smallest = max(LEAST_DEVIATION * abs(median), float(np.finfo(np.float64).tiny))
    return Expected(median, max(deviation, smallest))


@dataclass(frozen=True, eq=False)
class Spike:
    """A step that stands out.

    Attributes:
        step: From 1.
        loss: Mean loss of the global batch, nats per token; may not be finite.
        expected: What it was compared with; None: nothing, as there were too few steps before it.
        windows: Domain, window index and mean loss (None if it is not finite) of the sequences
            with the largest losses.
    """

    step: int
    loss: float
    expected: Expected | None
    windows: tuple[tuple[str, int, float | None], ...]

    def describe(self) -> str:
        """Return the loss and what it was compared with."""
        found = f"a loss of {self.loss:.4g}"
        if self.expected is None or not math.isfinite(self.loss):
            return found
        sigmas = self.expected.sigmas(self.loss)
        return f"{found}, {sigmas:.3g} deviations above the median {self.expected.loss:.4g}"

    def event(self, train: Mapping[str, Any], *, action: str) -> Metrics:
        """Return the ``event`` to log.

        Args:
            train: The step's ``train`` record.
            action: What is done about it.
        """
        expected = self.expected
        return {
            "event": {
                "event": "loss_spike",
                "action": action,
                "loss": self.loss,
                "expected": None if expected is None else expected.loss,
                "deviation": None if expected is None else expected.deviation,
                "sigmas": None if expected is None else expected.sigmas(self.loss),
                "sequences_by_domain": train["sequences_by_domain"],
                "loss_by_domain": train["loss_by_domain"],
                "windows": [list(window) for window in self.windows],
            }
        }


@final
class LossSpikes:
    """Compares each step's loss with those before it; a ``Plugin``.

    The losses that it compares with are saved in checkpoints, so that a resumed run finds the same
    spikes. All losses enter, those of spikes too: where the data has changed for good, they are no
    spikes any more once half of the window is new.

    Args:
        rule: Which losses stand out.
        names: Names of the ``K`` domains.
    """

    name = "loss_spikes"

    def __init__(self, rule: SpikeRule, names: Sequence[str]) -> None:
        self._rule = rule
        self._names = tuple(names)
        self._losses: deque[float] = deque(maxlen=rule.window)
        self._in_a_row = 0
        self._latest: tuple[Batch, FloatArray, Expected | None] | None = None

    def revise(self, names: Sequence[str]) -> None:
        """Name the domains of the batches that follow, as they may change during a run."""
        self._names = tuple(names)

    @property
    def in_a_row(self) -> int:
        """Steps up to the latest whose losses are spikes."""
        return self._in_a_row

    def is_spike(self, losses: FloatArray) -> bool:
        """Return whether the next step's losses, shape ``(B,)``, stand out. Not collective."""
        return self._stands_out(float(losses.mean()), self._expected())

    def observe(self, batch: Batch, losses: FloatArray) -> None:
        """Take a step's losses. Not collective.

        Args:
            batch: Its batch.
            losses: Mean loss of each sequence of the global batch, shape ``(B,)``, equal bits on
                every rank.
        """
        loss, expected = float(losses.mean()), self._expected()
        self._latest = batch, losses, expected
        self._in_a_row = self._in_a_row + 1 if self._stands_out(loss, expected) else 0
        if math.isfinite(loss):
            self._losses.append(loss)

    def latest(self, *, finite: bool) -> Spike | None:
        """Return the latest step if its loss stands out, or if it is not ``finite`` otherwise."""
        if self._latest is None or (finite and not self._in_a_row):
            return None
        batch, losses, expected = self._latest
        indices = batch.indices
        worst = np.argsort(losses, kind="stable")[::-1][:_WORST]  # what is no number comes first
        windows = zip(
            (self._names[domain] for domain in indices.global_domains[worst].tolist()),
            indices.global_sequences[worst].tolist(),
            (loss if math.isfinite(loss) else None for loss in losses[worst].tolist()),
            strict=True,
        )
        return Spike(batch.step, float(losses.mean()), expected, tuple(windows))

    def after_step(self, step: int) -> Metrics:  # noqa: ARG002  (losses are taken by `observe`)
        """Return nothing: what follows from a spike is not decided here."""
        return {}

    def state_dict(self) -> dict[str, Any]:
        """Return the losses of the latest steps; nothing before the first one."""
        if not self._losses and not self._in_a_row:
            return {}
        losses = torch.tensor(list(self._losses), dtype=torch.float64)
        return {"losses": losses, "in_a_row": self._in_a_row}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore ``state``, of a run with another window too."""
        self._losses = deque(state["losses"].tolist(), maxlen=self._rule.window)
        self._in_a_row = int(state["in_a_row"])
        self._latest = None

    def _expected(self) -> Expected | None:
        if len(self._losses) < self._rule.window:
            return None
        return expected_loss(np.array(self._losses))

    def _stands_out(self, loss: float, expected: Expected | None) -> bool:
        if not math.isfinite(loss):
            return True
        return expected is not None and expected.sigmas(loss) > self._rule.sigma
