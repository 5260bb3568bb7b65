"""First weights of a model, the same bits on every rank. Knows no layer and no engine.

A matrix is a function of (seed, name): whoever builds it, in whatever order, whole or under
``deepspeed.zero.Init``, gets the same numbers, and no generator is shared or advanced.
"""

import hashlib
import math
from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from torch import Tensor

Initializer = Callable[[Tensor], None]


@dataclass(frozen=True)
class NormalInitializer:
    """Fills a weight with normal numbers that depend on ``(seed, name)`` alone.

    Args:
        seed: Seed of the model, at least 0.
        name: Address of the weight.
        standard_deviation: At least 0.
    """

    seed: int
    name: str
    standard_deviation: float

    @torch.no_grad()
    def __call__(self, weight: Tensor) -> None:
        """Overwrite ``weight``, of any shape, dtype and device."""
        address = hashlib.blake2b(f"{self.seed}/{self.name}".encode(), digest_size=8).digest()
        generator = torch.Generator(device="cpu").manual_seed(int.from_bytes(address, "little"))
        # Under zero.Init torch.empty and torch.randn make tensors of the training dtype;
        # torch.normal is left alone, and rounding once, here, is what a cast of float32 does.
        values = torch.normal(
            0.0,
            self.standard_deviation,
            tuple(weight.shape),
            generator=generator,
            dtype=torch.float32,
            device="cpu",
        )
        weight.copy_(values)


@dataclass(frozen=True)
class DecoderInitialization:
    """How the matrices of a decoder start, by what they feed.

    Every matrix is N(0, 2 / (5 width)) ("small init", Nguyen and Salazar 2019, arXiv 1910.05895);
    those that add to the residual stream are divided by sqrt(2 num_layers) (GPT-2), so that its
    variance does not grow with depth.

    Args:
        seed: Seed of the model, at least 0.
        width: Features of the residual stream.
        num_layers: Blocks, each of which adds to the stream twice.
        scope: Where in the model the next names lie.
    """

    seed: int
    width: int
    num_layers: int
    scope: str = ""

    def within(self, scope: str) -> "DecoderInitialization":
        """Return the same rules for the parts of ``scope``."""
        return replace(self, scope=f"{self.scope}{scope}.")

    def inner(self, name: str) -> Initializer:
        """Return the initializer of a matrix that reads from the residual stream."""
        return NormalInitializer(self.seed, self.scope + name, math.sqrt(0.4 / self.width))

    def residual(self, name: str) -> Initializer:
        """Return the initializer of a matrix that adds to the residual stream."""
        deviation = math.sqrt(0.4 / self.width / (2 * self.num_layers))
        return NormalInitializer(self.seed, self.scope + name, deviation)
