"""Forward and backward passes that leave no trace in an engine. Knows no mixture.

They run on ``engine.module`` itself. DeepSpeed reduces gradients where they are *accumulated* into
parameters; here nothing is accumulated, inside a gradient-accumulation window or outside.
"""

import warnings
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import final

import numpy as np
import torch
from torch import Tensor, nn

from megadga.alignment.directions import Direction
from megadga.alignment.gradient import GradientShard
from megadga.alignment.packing import PackedSequences
from megadga.alignment.preserving import preserved
from megadga.alignment.taps import tapped
from megadga.arrays import FloatArray
from megadga.errors import UnsupportedEngineError
from megadga.sampling.rows import RowShare, shared_rows
from megadga.zero.collective import ProcessGroupCollective
from megadga.zero.engine import (
    Engine,
    check_supported,
    eager,
    hold_gathered,
    optimized_parameters,
    probe_autocast,
    release_gathered,
)
from megadga.zero.layout import ShardedSum, ShardLayout, full_shape
from megadga.zero.loss import Loss

TakeGradient = Callable[[int, Tensor], None]
"""Takes the number of a parameter and its gradient on this rank, which nobody keeps."""


@dataclass(frozen=True, eq=False)
class Derivatives:
    """What a pass along a direction found.

    Attributes:
        along: Derivative of each sequence's summed loss, shape ``(N,)``.
        loss: Mean loss over all targets.
    """

    along: FloatArray
    loss: float


@final
class ProbePasses:
    """What can be measured on an engine's module.

    Args:
        engine: A DeepSpeed engine of ZeRO stage 0-3 in fp32 or bf16.
        loss: Mean loss of a batch of tokens, computed through the module that it is given.

    Attributes:
        engine: As given.
        parameters: Those that train, as far as ``renew`` knows: which the optimizer holds and
            which are not frozen. Their numbers are places here.
        collective: The ranks that share the work.
        layout: How a gradient is divided over them.

    Raises:
        UnsupportedEngineError: If the engine uses a setting that was not tested, or nothing
            trains.
    """

    def __init__(self, engine: Engine, *, loss: Loss) -> None:
        check_supported(engine)
        self.engine = engine
        self.parameters: list[nn.Parameter] = []
        self.collective = ProcessGroupCollective(engine.data_parallel_group, engine.device)
        self._loss = loss
        self._ignored: tuple[str, ...] = ()
        self.renew()

    @property
    def names(self) -> list[str]:
        """The parameters' names in the module, in their order."""
        names = {parameter: name for name, parameter in self.engine.module.named_parameters()}
        return [names[parameter] for parameter in self.parameters]

    def renew(self) -> None:
        """Look again at what trains: parameters may be frozen and unfrozen between updates.

        Parameters that could be trained, but that the optimizer does not hold, are told of once.

        Raises:
            UnsupportedEngineError: If nothing trains.
        """
        held = optimized_parameters(self.engine)
        able = {n: p for n, p in self.engine.module.named_parameters() if p.requires_grad}
        training = [parameter for parameter in able.values() if parameter in held]
        if not training:
            raise UnsupportedEngineError(
                "probe: expected parameters that require a gradient and that the optimizer holds, "
                "found none"
            )
        ignored = tuple(name for name, parameter in able.items() if parameter not in held)
        if ignored and ignored != self._ignored and self.collective.rank == 0:
            warnings.warn(
                f"alignments leave out {_listed(ignored)}: the optimizer does not hold what "
                "requires a gradient there",
                stacklevel=2,
            )
        self._ignored = ignored
        if len(training) != len(self.parameters) or any(map(_differ, training, self.parameters)):
            self.parameters = training
            self.layout = ShardLayout(training, self.collective.world_size)

    @contextmanager
    def _no_trace(self) -> Generator[None]:
        """Keep buffers and random states as they were: probes move nothing of training's.

        Every pass starts from the same state, so that passes over the same sequences agree.
        """
        with (
            preserved(self.engine.module),
            eager(self.engine),
            probe_autocast(self.engine),
        ):
            yield

    def gradient(self, sequences: PackedSequences) -> GradientShard:
        """Return this rank's shard of the gradient of the mean loss over all targets. Collective.

        Memory: the shard and one bucket.
        """
        total = ShardedSum(self.layout, self.collective, device=self.engine.device)
        self.each_gradient(sequences, total.add)
        return total.finish()

    def each_gradient(self, sequences: PackedSequences, take: TakeGradient) -> None:
        """Hand over each rank's summands of the gradient of the mean loss over all targets.

        Every rank calls ``take`` for every parameter once a micro-batch, whose loss is the mean
        over its own targets and counts as much as it has of all. A parameter that the micro-batch
        did not use (an expert without tokens) has a gradient of zeros, and comes last. The order
        is otherwise that of the backward pass, and may differ between ranks. Collective under
        ZeRO-3.
        """
        with self._no_trace():
            for chunk, tokens in self._micro_batches(sequences):
                absent = dict(enumerate(self.parameters))
                with _gradients_into(take, absent):
                    loss = self._loss(self.engine.module, tokens) * chunk.share
                    torch.autograd.grad(loss, self.parameters, allow_unused=True)
                release_gathered(self.engine)
                for index, parameter in absent.items():
                    zero = torch.zeros((), dtype=parameter.dtype, device=self.engine.device)
                    take(index, zero.expand(full_shape(parameter)))

    def derivatives(self, sequences: PackedSequences, direction: Direction) -> Derivatives:
        """Differentiate each sequence's summed loss along a direction.

        One forward and one backward pass without weight gradients. Collective; equal bits on every
        rank.
        """
        parts: list[tuple[RowShare, Tensor, Tensor]] = []
        with (
            self._no_trace(),
            _frozen(self.engine.module),
            tapped(self.engine.module, direction, partial(hold_gathered, self.engine)) as taps,
        ):
            for chunk, tokens in self._micro_batches(sequences):
                epsilon = taps.begin(chunk.rows.size, self.engine.device)
                loss = self._loss(self.engine.module, tokens)
                loss.backward()
                release_gathered(self.engine)
                if chunk.share and epsilon.grad is not None:
                    parts.append((chunk, epsilon.grad, loss.detach()))
        numbers = np.zeros(sequences.num_targets.size + 1)
        for chunk, of_mean, loss in parts:
            num_targets = sequences.num_targets[chunk.rows].sum()
            numbers[chunk.rows] = of_mean.cpu().numpy() * num_targets
            numbers[-1] += float(loss) * chunk.share
        *along, loss = self.collective.agreed_sum(numbers)
        return Derivatives(np.array(along), float(loss))

    def mean_loss(self, sequences: PackedSequences) -> float:
        """Return the mean loss over all targets. Collective; equal bits on every rank."""
        total = 0.0
        with self._no_trace(), torch.no_grad():
            for chunk, tokens in self._micro_batches(sequences):
                total += float(self._loss(self.engine.module, tokens)) * chunk.share
        return float(self.collective.agreed_sum(np.array([total]))[0])

    def _micro_batches(self, sequences: PackedSequences) -> Iterator[tuple[RowShare, Tensor]]:
        """Yield this rank's micro-batches; as many on every rank."""
        chunks = shared_rows(
            sequences.num_targets,
            rank=self.collective.rank,
            world_size=self.collective.world_size,
            micro_batch_size=self.engine.train_micro_batch_size_per_gpu(),
        )
        for chunk in chunks:
            tokens = torch.from_numpy(sequences.read(chunk.rows))
            yield chunk, tokens.to(self.engine.device)


def _differ(one: nn.Parameter, other: nn.Parameter) -> bool:
    return one is not other


def _listed(names: Sequence[str], most: int = 8) -> str:
    """Return some of many names, and how many there are more."""
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(names[:most]) + more


@contextmanager
def _gradients_into(take: TakeGradient, absent: dict[int, nn.Parameter]) -> Generator[None]:
    """Hand over each parameter's gradient the moment a backward pass has made it.

    The hook returns a zero of no size in its place, so that no full gradient outlives it, and so
    that ZeRO-3 may release the parameter.

    Args:
        take: Takes it.
        absent: The parameters by their numbers; those that have had a gradient are removed.
    """

    def taker(index: int) -> Callable[[Tensor], Tensor]:
        def hook(gradient: Tensor) -> Tensor:
            del absent[index]
            take(index, gradient.detach())
            return gradient.new_zeros(()).expand(gradient.shape)

        return hook

    hooks = [p.register_hook(taker(index)) for index, p in absent.items()]
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()


@contextmanager
def _frozen(module: nn.Module) -> Generator[None]:
    """Switch weight gradients off, also of parameters that are not measured.

    They would be left in ``grad``, and ZeRO-3's linear layers compute them whether asked or not.
    """
    parameters = [parameter for parameter in module.parameters() if parameter.requires_grad]
    for parameter in parameters:
        parameter.requires_grad_(False)
    try:
        yield
    finally:
        for parameter in parameters:
            parameter.requires_grad_(True)
