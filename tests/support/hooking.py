"""What a model's hooks find of each sequence, and what each sequence has alone."""

from collections.abc import Callable

import torch
from torch import Tensor, nn

from megadga.data.targets import PADDING
from megadga.probes.gradients import Direction
from megadga.probes.hooks import hooked, modules_with_parameters
from megadga.probes.layouts import Layouts
from megadga.probes.learning_layouts import learn_layouts
from megadga.probes.loss import Loss, mean_loss
from tests.support.shards import SEQUENCE_LENGTH, VOCABULARY

CPU = torch.device("cpu")


def tokens_of(num_sequences: int) -> Tensor:
    """Made-up tokens, shape ``(B, S + 1)``."""
    generator = torch.Generator().manual_seed(num_sequences)
    return torch.randint(VOCABULARY, (num_sequences, SEQUENCE_LENGTH + 1), generator=generator)


def layouts_of(
    module: nn.Module, inputs: Tensor, run: Callable[[Tensor], object] | None = None
) -> Layouts:
    """Where sequences lie in what a module's modules return, learned on two of them.

    Args:
        module: Is run three times or six, from the same random states.
        inputs: The first axis counts sequences.
        run: How it is run; by default it is called.
    """
    call = run or module

    def from_here(tokens: Tensor) -> None:
        with torch.random.fork_rng():
            call(tokens)

    pair = inputs[[0, 1 % len(inputs)]]
    return learn_layouts(modules_with_parameters(module), pair, run=from_here, padding=PADDING)


def derivatives(
    module: nn.Module, direction: Direction, tokens: Tensor, loss: Loss = mean_loss
) -> Tensor:
    """Of the mean loss of each sequence, shape ``(B,)``, in one backward pass."""
    layouts = layouts_of(module, tokens, lambda pair: loss(module, pair))
    with hooked(module, direction, layouts, following=bool(layouts.unknown)) as sequence_hooks:
        sums = sequence_hooks.begin(len(tokens), CPU, tokens)
        loss(module, tokens).backward()
    assert not sequence_hooks.unknown
    total = sums.total()
    assert total is not None
    return total * len(tokens)


def alone(module: nn.Module, tokens: Tensor, loss: Loss = mean_loss) -> list[Tensor]:
    """The mean loss of each sequence when the model sees it alone."""
    return [loss(module, sequence[None]) for sequence in tokens]


def of_outputs(module: nn.Module, direction: Direction, inputs: Tensor) -> Tensor:
    """Derivatives of the sum of what a module makes of each sequence, shape ``(B,)``."""
    layouts = layouts_of(module, inputs)
    with hooked(module, direction, layouts, following=bool(layouts.unknown)) as sequence_hooks:
        sums = sequence_hooks.begin(len(inputs), CPU)
        module(inputs).sum().backward()
    assert not sequence_hooks.unknown
    total = sums.total()
    assert total is not None
    return total
