"""Gradients in float64 by plain autograd, in one process: what probes are compared with.

Workers report what the first rank finds. The other ranks, which would find the same, leave it out.
"""

from dataclasses import dataclass, field
from functools import cache
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor, nn

from megadga.arrays import IntArray
from megadga.data.targets import INPUT_ONLY, PADDING
from megadga.probes.loss import Loss
from tests.support.engines import full_parameters
from tests.support.probed_models import ProbedModel


@dataclass(frozen=True)
class Reference:
    """A float64 copy of the module that an engine trains; it sees neither padding nor marks.

    Attributes:
        module: The copy.
        loss: From it and tokens to the mean loss.
        known: Gradients that were computed, by their tokens.
    """

    module: nn.Module
    loss: Loss
    known: dict[tuple[int, bytes], Tensor] = field(default_factory=dict[tuple[int, bytes], Tensor])

    @property
    def parameters(self) -> list[nn.Parameter]:
        return [p for p in self.module.parameters() if p.requires_grad]

    def mean_loss(self, tokens: IntArray) -> Tensor:
        """Return the mean over all targets; sequences of one length go through together."""
        sequences = [s[s != PADDING] for s in torch.from_numpy(tokens)]
        if (tokens <= INPUT_ONLY).any():
            return self._mean_over_trained(sequences)
        lengths = sorted({len(s) for s in sequences})
        alike = [torch.stack([s for s in sequences if len(s) == length]) for length in lengths]
        targets = torch.tensor([some.shape[0] * (some.shape[1] - 1) for some in alike])
        losses = torch.stack([self.loss(self.module, some) for some in alike])
        return (losses * targets).sum() / targets.sum()

    def _mean_over_trained(self, sequences: list[Tensor]) -> Tensor:
        """Return the mean over the targets that are not marked, from losses of whole beginnings.

        The module is causal: the loss of a target is that of the sequence up to it, less that of
        the sequence before it.
        """
        total, count = torch.zeros((), dtype=torch.float64), 0
        for sequence in sequences:
            ids = torch.where(sequence <= INPUT_ONLY, INPUT_ONLY - sequence, sequence)
            up_to = cache(lambda end, ids=ids: self._summed_loss(ids[:end]))
            for place in range(1, len(ids)):
                if sequence[place] >= 0:
                    count += 1
                    total = total + up_to(place + 1) - up_to(place)
        return total / count

    def _summed_loss(self, ids: Tensor) -> Tensor:
        num_targets = len(ids) - 1
        if not num_targets:
            return torch.zeros((), dtype=torch.float64)
        return self.loss(self.module, ids[None]) * num_targets

    def gradient(self, tokens: IntArray) -> Tensor:
        """Return the gradient of the mean over all targets, of every parameter in one vector.

        On other ranks than the first it is all ones.
        """
        key = (len(tokens), tokens.astype(np.int64).tobytes())
        if key not in self.known:
            self.known[key] = self._gradient(tokens)
        return self.known[key]

    def _gradient(self, tokens: IntArray) -> Tensor:
        if dist.is_initialized() and dist.get_rank():
            return torch.ones(sum(p.numel() for p in self.parameters), dtype=torch.float64)
        gradients = torch.autograd.grad(
            self.mean_loss(tokens), self.parameters, allow_unused=True, materialize_grads=True
        )
        return torch.cat([g.flatten() for g in gradients])

    def gradients_of_sequences(self, tokens: IntArray) -> Tensor:
        """Return the gradient of each sequence's mean loss, shape ``(N, parameters)``."""
        return torch.stack([self.gradient(sequence[None]) for sequence in tokens])


def reference_of(engine: Any, probed: ProbedModel) -> Reference:
    """Copy the engine's present parameters. Collective."""
    module = probed.build().double()
    state = {name: tensor.double() for name, tensor in full_parameters(engine).items()}
    module.load_state_dict(state, strict=False)
    return Reference(module, probed.loss)
