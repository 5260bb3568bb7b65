"""The reference probe: every domain's gradient, reduced into shards that are dotted locally.

Exact for any module and every ZeRO stage. Its cost grows with the number of domains: one forward
and backward pass and one reduce-scatter of a whole gradient for each. Knows no weights and no
schedule.
"""

from collections.abc import Callable, Generator, Sequence
from contextlib import contextmanager
from typing import final

import numpy as np
import torch
from torch import Tensor, nn

from megadga.alignment.gradient import GradientShard
from megadga.alignment.protocols import DrawnSequences
from megadga.mixing.scheduler import Alignments
from megadga.sampling.rows import shared_rows
from megadga.shards.sequences import PADDING
from megadga.zero.collective import ProcessGroupCollective
from megadga.zero.engine import Engine, check_supported, release_gathered
from megadga.zero.layout import ShardedSum, ShardLayout

Loss = Callable[[nn.Module, Tensor], Tensor]
"""From a module and tokens ``(b, S + 1)`` to the mean loss over the targets that are not padding,
a scalar in nats a token."""


def mean_loss(module: nn.Module, tokens: Tensor) -> Tensor:
    """Return a module's mean loss over the targets that are not padding.

    Args:
        module: Returns that mean itself, a scalar, as ``cross_entropy`` does by default; or one
            loss a token, shape ``(b, S)``.
        tokens: Shape ``(b, S + 1)``.

    Raises:
        ValueError: If the module returns something else.
    """
    losses: Tensor = module(tokens)
    if losses.ndim == 0:
        return losses
    padding = tokens[:, 1:] == PADDING
    if losses.shape != padding.shape:
        raise ValueError(
            f"module: expected a scalar loss or one loss a token, shape {tuple(padding.shape)}, "
            f"found shape {tuple(losses.shape)}"
        )
    return losses.masked_fill(padding, 0.0).sum() / (~padding).sum()


@final
class ShardedProbe:
    """Measures alignments through ``torch.autograd.grad`` on ``engine.module``.

    DeepSpeed reduces gradients where they are *accumulated* into parameters.
    ``torch.autograd.grad`` accumulates nothing, so no gradient, counter or optimizer state of the
    engine is touched, inside a gradient-accumulation window or outside.

    Args:
        engine: A DeepSpeed engine of ZeRO stage 0-3 in fp32 or bf16.
        loss: Mean loss of a batch of tokens, computed through the module that it is given.
        micro_batch_size: Sequences of one forward pass; the engine's own by default.

    Raises:
        UnsupportedEngineError: If the engine uses a setting that was not tested.
    """

    def __init__(
        self, engine: Engine, *, loss: Loss = mean_loss, micro_batch_size: int | None = None
    ) -> None:
        check_supported(engine)
        self._engine = engine
        self._loss = loss
        self._micro_batch_size = micro_batch_size or engine.train_micro_batch_size_per_gpu()
        self._collective = ProcessGroupCollective(engine.data_parallel_group, engine.device)
        self._parameters = [p for p in engine.module.parameters() if p.requires_grad]
        self._layout = ShardLayout(self._parameters, self._collective.world_size)

    def measure(self, specific: DrawnSequences, domains: Sequence[DrawnSequences]) -> Alignments:
        """Measure every domain; see ``GradientProbe``. Memory: two shards and one bucket."""
        num_domains = len(domains)
        numbers = np.empty(2 * num_domains + 1)
        with _no_trace(self._engine.device):
            direction = self._gradient(specific)
            numbers[-1] = direction.dot(direction)
            for i, drawn in enumerate(domains):
                gradient = self._gradient(drawn)
                numbers[i] = gradient.dot(direction)
                numbers[num_domains + i] = gradient.dot(gradient)
        total = self._collective.agreed_sum(numbers)
        return Alignments(
            dots=total[:num_domains],
            squared_norms=total[num_domains:-1],
            specific_squared_norm=float(total[-1]),
        )

    def _gradient(self, drawn: DrawnSequences) -> GradientShard:
        """Return this rank's shard of the gradient of the mean loss over ``drawn``.

        A chunk's loss is the mean over its own targets, and counts as much as it has of all.
        """
        total = ShardedSum(self._layout, self._collective, device=self._engine.device)
        chunks = shared_rows(
            drawn.num_targets(),
            rank=self._collective.rank,
            world_size=self._collective.world_size,
            micro_batch_size=self._micro_batch_size,
        )
        for chunk in chunks:
            tokens = torch.from_numpy(drawn.read(chunk.rows)).to(self._engine.device)
            with _gradients_into(total, self._parameters):
                loss = self._loss(self._engine.module, tokens) * chunk.share
                torch.autograd.grad(loss, self._parameters, allow_unused=True)
            release_gathered(self._engine)
        return total.finish()


@contextmanager
def _gradients_into(total: ShardedSum, parameters: Sequence[nn.Parameter]) -> Generator[None]:
    """Hand each parameter's gradient to ``total`` the moment a backward pass has made it.

    The hook returns a zero of no size in its place, so that no full gradient outlives it, and so
    that ZeRO-3 may release the parameter.
    """

    def taker(index: int) -> Callable[[Tensor], Tensor]:
        def take(gradient: Tensor) -> Tensor:
            total.add(index, gradient)
            return gradient.new_zeros(()).expand(gradient.shape)

        return take

    hooks = [p.register_hook(taker(index)) for index, p in enumerate(parameters)]
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()


@contextmanager
def _no_trace(device: torch.device) -> Generator[None]:
    """Keep random states as they were: dropout in a probe must not move training's."""
    devices = [] if device.type == "cpu" else [device]
    with torch.random.fork_rng(devices=devices, device_type=device.type):
        yield
