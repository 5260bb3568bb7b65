"""This rank's part of a gradient of the whole model. Knows no rank and no engine."""

from typing import final

import torch
from torch import Tensor

_CHUNK = 1 << 22  # elements; bounds the float64 copies of a dot product to 2 x 32 MiB


@final
class GradientShard:
    """One contiguous float32 part of a gradient; the parts of all ranks make up the whole.

    Attributes:
        values: This rank's elements, shape ``(elements,)``, float32. Padding is zero.
    """

    def __init__(self, values: Tensor) -> None:
        assert values.ndim == 1
        assert values.dtype == torch.float32
        self.values = values

    def dot(self, other: "GradientShard") -> float:
        """Return this rank's summand of ``<self, other>``, accumulated in float64."""
        total = torch.zeros((), dtype=torch.float64, device=self.values.device)
        for start in range(0, self.values.numel(), _CHUNK):
            chunk = slice(start, start + _CHUNK)
            total += torch.dot(self.values[chunk].double(), other.values[chunk].double())
        return float(total)
