"""Weights of a batch's sequences by their losses."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Literal, final

import numpy as np

from megadga.arrays import FloatArray

StrategyName = Literal["linupper", "quadratic", "extremes", "upper"]


@final
@dataclass(frozen=True)
class LossReweighting:
    """Dynamic loss-based sample reweighting (Sow et al., arXiv 2502.06733, Algorithm 1).

    The losses of a global batch are mapped onto ``[-1, 1]``, the least to -1 and the largest to 1,

        h_i = (2 l_i - max l - min l) / (max l - min l)
        w_i = B * exp(f(h_i) / r) / sum_j exp(f(h_j) / r)

    with ``f(h) = min(h + 1, 1)`` for ``linupper`` (below the middle the less the lower, above it
    all alike: easy sequences count less, outliers no more), ``1 - h^2`` for ``quadratic`` (both
    ends count less), ``|h|`` for ``extremes`` (both count more). The paper finds ``linupper``
    best. ``(h + 1) / 2`` for ``upper`` (the more the higher) is in the code alone.

    Weights have mean 1, and no two differ by more than a factor ``exp(1 / r)``. The
    losses of all ranks belong together: a batch's weights are not those of its parts. Gradients
    must not flow through them.

    Paper and code (sowmaster/Sample-Level-Loss-Reweighting-ICLR-2025, ``src/trainer.py``): the
    code calls ``quadratic`` ``mid``, and has a temperature that falls in steps, commented out. It
    takes a batch's range of losses for at least 1e-6, here equal losses have equal weights and any
    range counts. It sums weighted token means times each sequence's share of the tokens, and so
    does who uses these weights on sequences of several lengths.

    Attributes:
        strategy: Which losses count.
        temperature: ``r``, above 0; large ones come closer to equal weights. Or one from each of
            some numbers of completed optimizer steps on, of which the first is 0.
        warmup: Optimizer steps at equal weights, at least 0: early losses say little of a
            sequence.

    Raises:
        ValueError: If a value is out of range.
    """

    strategy: StrategyName = "linupper"
    temperature: float | Mapping[int, float] = 1.0
    warmup: int = 0

    def __post_init__(self) -> None:
        if self.strategy not in _STRATEGIES:
            expected = ", ".join(_STRATEGIES)
            raise ValueError(f"strategy: expected one of {expected}, found {self.strategy!r}")
        for temperature in self._temperatures.values():
            if not 0.0 < temperature < np.inf:
                raise ValueError(f"temperature: expected a number > 0, found {temperature}")
        if min(self._temperatures, default=None) != 0:
            raise ValueError(
                f"temperature: expected steps from 0 on, found {sorted(self._temperatures)}"
            )
        if self.warmup < 0:
            raise ValueError(f"warmup: expected at least 0 steps, found {self.warmup}")

    def weights(self, losses: FloatArray, *, step: int) -> FloatArray:
        """Return each sequence's weight, of mean 1, shape ``(B,)``.

        Args:
            losses: Mean losses of the global batch's sequences, nats per token, shape ``(B,)``.
            step: Optimizer steps completed before this batch.

        Raises:
            ValueError: If there is no loss, or one that is not finite.
        """
        if losses.ndim != 1 or losses.size == 0:
            raise ValueError(f"losses: expected shape (B,) with B >= 1, found {losses.shape}")
        if (wrong := ~np.isfinite(losses)).any():
            index = int(np.argmax(wrong))
            raise ValueError(f"losses: expected finite, found {losses[index]} at index {index}")
        if step < self.warmup:
            return np.ones(losses.size)
        values = _STRATEGIES[self.strategy](relative_losses(losses))
        masses = np.exp((values - values.max()) / self.temperature_at(step))
        return masses / masses.mean()

    def temperature_at(self, step: int) -> float:
        """Return the temperature after ``step`` completed optimizer steps, at least 0."""
        return self._temperatures[max(each for each in self._temperatures if each <= step)]

    @property
    def _temperatures(self) -> Mapping[int, float]:
        given = self.temperature
        return given if isinstance(given, Mapping) else {0: given}


def relative_losses(losses: FloatArray) -> FloatArray:
    """Return where each loss lies between the least, -1, and the largest, 1; equal ones are at 0.

    Args:
        losses: Finite, shape ``(B,)``, ``B >= 1``.
    """
    half = losses / 2.0  # the whole range may overflow
    middle, reach = half.max() / 2.0 + half.min() / 2.0, half.max() / 2.0 - half.min() / 2.0
    if reach == 0.0:
        return np.zeros(losses.size)
    return np.clip((half - middle) / reach, -1.0, 1.0)


def _linupper(relative: FloatArray) -> FloatArray:
    return np.minimum(relative + 1.0, 1.0)


def _quadratic(relative: FloatArray) -> FloatArray:
    return 1.0 - relative**2


def _upper(relative: FloatArray) -> FloatArray:
    return (relative + 1.0) / 2.0


_STRATEGIES: Mapping[StrategyName, Callable[[FloatArray], FloatArray]] = {
    "linupper": _linupper,
    "quadratic": _quadratic,
    "extremes": np.abs,
    "upper": _upper,
}
