"""A module's token losses outside of training's own passes."""

from collections.abc import Callable

import torch
from torch import Tensor, nn

from megadga.probes.engine import Engine, probe_autocast
from megadga.probes.state import evaluating, preserved


def token_losses(engine: Engine, module: nn.Module) -> Callable[[Tensor], Tensor]:
    """Return what computes a module's losses in the engine's arithmetic, without any trace.

    There are no gradients and no dropout, and counters, schedule and optimizer do not see it.

    Args:
        engine: A DeepSpeed engine.
        module: Its own, and then a call is collective under ZeRO-3; or another one on its device.
            From tokens ``(b, S + 1)`` to one loss a token, ``(b, S)``.
    """

    def losses(tokens: Tensor) -> Tensor:
        with preserved(module), evaluating(module), torch.no_grad(), probe_autocast(engine):
            return module(tokens)

    return losses
