"""Layers that draw their own weights as they are made, and rotary positions.

``deepspeed.zero.Init`` takes a module's parameters away when its ``__init__`` returns, so a weight
can only be set in the constructor of the module that owns it. Knows no decoder.
"""

# ruff: noqa: N803, N806 (shape suffixes are capitals)

from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor, nn

from megadga.model.initialization import Initializer


class Linear(nn.Linear):
    """A projection without bias.

    Args:
        in_features: Features read.
        out_features: Features written.
        initialize: Fills the weight, shape ``(out_features, in_features)``.
    """

    def __init__(self, in_features: int, out_features: int, initialize: Initializer) -> None:
        self._initialize = initialize  # first: the constructor of nn.Linear resets the weight
        super().__init__(in_features, out_features, bias=False)

    def reset_parameters(self) -> None:
        """Set the weight to what it started with."""
        self._initialize(self.weight)


class Embedding(nn.Embedding):
    """A table of token embeddings.

    Args:
        vocabulary_size: Rows.
        width: Features of each.
        initialize: Fills the weight, shape ``(vocabulary_size, width)``.
    """

    def __init__(self, vocabulary_size: int, width: int, initialize: Initializer) -> None:
        self._initialize = initialize  # first: the constructor of nn.Embedding resets the weight
        super().__init__(vocabulary_size, width)

    def reset_parameters(self) -> None:
        """Set the weight to what it started with."""
        self._initialize(self.weight)


class RotaryEmbedding(nn.Module):
    """Rotates pairs of features by angles that grow with the position (RoPE, arXiv 2104.09864).

    Feature ``e`` is paired with ``e + E / 2``; the pair turns by ``position * base^(-2e / E)``.
    Tables are float32 whatever the model is cast to, and the rotation is computed in float32.

    Args:
        head_width: Features of a head (E), even.
        sequence_length: Positions, at least 1.
        base: Base of the frequencies.
    """

    cosines: Tensor
    sines: Tensor

    def __init__(self, head_width: int, sequence_length: int, base: float) -> None:
        super().__init__()
        # By numpy: zero.Init makes torch.arange and torch.tensor of the training dtype.
        frequencies = base ** (-np.arange(0, head_width, 2) / head_width)
        angles = np.tile(np.outer(np.arange(sequence_length), frequencies), 2)
        for name, table in (("cosines", np.cos(angles)), ("sines", np.sin(angles))):
            rounded = torch.from_numpy(table.astype(np.float32))
            self.register_buffer(name, rounded, persistent=False)

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> "RotaryEmbedding":
        """Move the tables with the model, but keep their bits: ``.to(bfloat16)`` rounds them."""
        exact = self.cosines, self.sines
        super()._apply(fn, recurse)
        device = self.cosines.device
        self.cosines, self.sines = (table.to(device) for table in exact)
        return self

    def forward(self, heads_BHSE: Tensor) -> Tensor:
        """Return the rotated heads, shape and dtype as given: ``(b, heads, S, E)``."""
        length = heads_BHSE.shape[-2]
        if length > len(self.cosines):
            raise ValueError(
                f"tokens: expected at most {len(self.cosines)} positions, found {length}"
            )
        first, second = heads_BHSE.chunk(2, dim=-1)
        turned_BHSE = torch.cat((-second, first), dim=-1)
        rotated_BHSE = heads_BHSE * self.cosines[:length] + turned_BHSE * self.sines[:length]
        return rotated_BHSE.to(heads_BHSE.dtype)
