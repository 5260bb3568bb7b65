"""What a model's taps find of each sequence, and what each sequence has alone."""

import torch
from torch import Tensor, nn

from megadga.alignment.directions import Direction
from megadga.alignment.taps import tapped
from megadga.zero.loss import Loss, mean_loss
from tests.support.shards import SEQUENCE_LENGTH, VOCABULARY

CPU = torch.device("cpu")


def tokens_of(num_sequences: int) -> Tensor:
    """Made-up tokens, shape ``(B, S + 1)``."""
    generator = torch.Generator().manual_seed(num_sequences)
    return torch.randint(VOCABULARY, (num_sequences, SEQUENCE_LENGTH + 1), generator=generator)


def derivatives(
    module: nn.Module, direction: Direction, tokens: Tensor, loss: Loss = mean_loss
) -> Tensor:
    """Of the mean loss of each sequence, shape ``(B,)``, in one backward pass."""
    with tapped(module, direction) as taps:
        epsilon = taps.begin(len(tokens), CPU)
        loss(module, tokens).backward()
    assert epsilon.grad is not None
    return epsilon.grad * len(tokens)


def alone(module: nn.Module, tokens: Tensor, loss: Loss = mean_loss) -> list[Tensor]:
    """The mean loss of each sequence when the model sees it alone."""
    return [loss(module, sequence[None]) for sequence in tokens]


def of_outputs(module: nn.Module, direction: Direction, inputs: Tensor) -> Tensor:
    """Derivatives of the sum of what a module makes of each sequence, shape ``(B,)``."""
    with tapped(module, direction) as taps:
        epsilon = taps.begin(len(inputs), CPU)
        module(inputs).sum().backward()
    assert epsilon.grad is not None
    return epsilon.grad
