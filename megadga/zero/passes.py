"""Forward and backward passes that leave no trace in an engine. Knows no mixture.

They run on ``engine.module`` itself. DeepSpeed reduces gradients where they are *accumulated* into
parameters; here nothing is accumulated, inside a gradient-accumulation window or outside.
"""

from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import final

import numpy as np
import torch
from torch import Tensor, nn

from megadga.alignment.directions import Direction
from megadga.alignment.gradient import GradientShard
from megadga.alignment.layouts import NO_LAYOUTS, Layouts, learn_layouts
from megadga.alignment.packing import PackedSequences
from megadga.alignment.tangents.choosing import own_parameters
from megadga.alignment.taps import modules_with_parameters, tapped
from megadga.arrays import FloatArray
from megadga.sampling.rows import RowShare, shared_rows
from megadga.shards.sequences import PADDING
from megadga.zero.collective import ProcessGroupCollective
from megadga.zero.engine import Engine, check_supported, eager, probe_autocast, release_gathered
from megadga.zero.layout import ShardedSum, ShardLayout
from megadga.zero.loss import Loss, loss_tensor

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
        parameters: The trainable ones; their numbers are places here.
        collective: The ranks that share the work.
        layout: How a gradient is divided over them.
        following: Whether sequences are followed through the functions of their micro-batch, as
            the outputs of some modules do not tell them by their places.
        single: Whether derivatives are measured a sequence at a time, as that did not tell either.

    Raises:
        UnsupportedEngineError: If the engine uses a setting that was not tested.
    """

    def __init__(self, engine: Engine, *, loss: Loss) -> None:
        check_supported(engine)
        self.engine = engine
        self.parameters = [p for p in engine.module.parameters() if p.requires_grad]
        self.collective = ProcessGroupCollective(engine.data_parallel_group, engine.device)
        self.layout = ShardLayout(self.parameters, self.collective.world_size)
        self._given_loss = loss
        self._layouts: Layouts | None = None
        self.following = False  # whether sequences are followed through their micro-batch
        self.single = False  # whether derivatives are measured a sequence at a time

    def _loss(self, module: nn.Module, tokens: Tensor) -> Tensor:
        return loss_tensor(self._given_loss(module, tokens), "loss")

    @contextmanager
    def _no_trace(self) -> Generator[None]:
        """Keep random states as they were, so that dropout in a probe does not move training's.

        Every pass starts from the same state, so that passes over the same sequences agree.
        """
        device = self.engine.device
        devices = [] if device.type == "cpu" else [device]
        with (
            torch.random.fork_rng(devices=devices, device_type=device.type),
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

        Every rank calls ``take`` for the same parameters in the same order, once a micro-batch,
        whose loss is the mean over its own targets and counts as much as it has of all. Collective
        under ZeRO-3.
        """
        size = self.engine.train_micro_batch_size_per_gpu()
        with self._no_trace():
            for chunk, tokens in self._micro_batches(sequences, size):
                with _gradients_into(take, self.parameters):
                    loss = self._loss(self.engine.module, tokens) * chunk.share
                    torch.autograd.grad(loss, self.parameters, allow_unused=True)
                release_gathered(self.engine)

    def layouts(self, sequences: PackedSequences) -> Layouts:
        """Return where the sequences of a micro-batch lie in the outputs of the module's modules.

        Learned at the first call, from runs without gradients on two sequences. Collective.
        """
        if self._layouts is None:
            if self.engine.train_micro_batch_size_per_gpu() == 1:
                self._layouts = NO_LAYOUTS
            else:
                self._layouts = self._learned(sequences)
                self.following = bool(self._layouts.unknown)
        return self._layouts

    def _learned(self, sequences: PackedSequences) -> Layouts:
        def run(tokens: Tensor) -> None:
            with self._no_trace():
                self._loss(self.engine.module, tokens)

        measured = set(self.parameters)
        # The same on every rank, so that every rank learns the same.
        pair = np.arange(2, dtype=np.int64) % sequences.num_targets.size
        return learn_layouts(
            [
                (name, module)
                for name, module in modules_with_parameters(self.engine.module)
                if not measured.isdisjoint(own_parameters(module))
            ],
            torch.from_numpy(sequences.read(pair)).to(self.engine.device),
            run=run,
            padding=PADDING,
        )

    def derivatives(self, sequences: PackedSequences, direction: Direction) -> Derivatives:
        """Differentiate each sequence's summed loss along a direction.

        One forward and one backward pass without weight gradients, over micro-batches of the
        engine's size. Where the sequences of one cannot be told from one another in the outputs of
        every module, not even by following them, over one sequence at a time, from then on.
        Collective; equal bits on every rank.
        """
        layouts = self.layouts(sequences)
        size = self.engine.train_micro_batch_size_per_gpu()
        while size > 1 and not self.single:
            found = self._derivatives(sequences, direction, layouts, size)
            if found is not None:
                return found
            self.following, self.single = True, self.following
        found = self._derivatives(sequences, direction, layouts, 1)
        assert found is not None
        return found

    def _derivatives(
        self, sequences: PackedSequences, direction: Direction, layouts: Layouts, size: int
    ) -> Derivatives | None:
        """Return None if a rank could not tell the sequences of a micro-batch. Collective."""
        parts: list[tuple[RowShare, Tensor, Tensor]] = []
        with (
            self._no_trace(),
            _frozen(self.parameters),
            tapped(
                self.engine.module, direction, layouts, following=self.following and size > 1
            ) as taps,
        ):
            for chunk, tokens in self._micro_batches(sequences, size):
                epsilon = taps.begin(chunk.rows.size, self.engine.device, tokens)
                loss = self._loss(self.engine.module, tokens)
                loss.backward()
                release_gathered(self.engine)
                if chunk.share and epsilon.grad is not None:
                    parts.append((chunk, epsilon.grad, loss.detach()))
        numbers = np.zeros(sequences.num_targets.size + 2)
        for chunk, of_mean, loss in parts:
            num_targets = sequences.num_targets[chunk.rows].sum()
            numbers[chunk.rows] = of_mean.cpu().numpy() * num_targets
            numbers[-2] += float(loss) * chunk.share
        numbers[-1] = len(taps.unknown)
        *along, loss, num_unknown = self.collective.agreed_sum(numbers)
        return None if num_unknown else Derivatives(np.array(along), float(loss))

    def mean_loss(self, sequences: PackedSequences) -> float:
        """Return the mean loss over all targets. Collective; equal bits on every rank."""
        total, size = 0.0, self.engine.train_micro_batch_size_per_gpu()
        with self._no_trace(), torch.no_grad():
            for chunk, tokens in self._micro_batches(sequences, size):
                total += float(self._loss(self.engine.module, tokens)) * chunk.share
        return float(self.collective.agreed_sum(np.array([total]))[0])

    def _micro_batches(
        self, sequences: PackedSequences, size: int
    ) -> Iterator[tuple[RowShare, Tensor]]:
        """Yield this rank's micro-batches of a size; as many on every rank."""
        chunks = shared_rows(
            sequences.num_targets,
            rank=self.collective.rank,
            world_size=self.collective.world_size,
            micro_batch_size=size,
        )
        for chunk in chunks:
            tokens = torch.from_numpy(sequences.read(chunk.rows))
            yield chunk, tokens.to(self.engine.device)


@contextmanager
def _gradients_into(take: TakeGradient, parameters: Sequence[nn.Parameter]) -> Generator[None]:
    """Hand over each parameter's gradient the moment a backward pass has made it.

    The hook returns a zero of no size in its place, so that no full gradient outlives it, and so
    that ZeRO-3 may release the parameter.
    """

    def taker(index: int) -> Callable[[Tensor], Tensor]:
        def hook(gradient: Tensor) -> Tensor:
            take(index, gradient.detach())
            return gradient.new_zeros(()).expand(gradient.shape)

        return hook

    hooks = [p.register_hook(taker(index)) for index, p in enumerate(parameters)]
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()


@contextmanager
def _frozen(parameters: Sequence[nn.Parameter]) -> Generator[None]:
    """Switch weight gradients off: ZeRO-3's linear layers compute them whether asked or not."""
    for parameter in parameters:
        parameter.requires_grad_(False)
    try:
        yield
    finally:
        for parameter in parameters:
            parameter.requires_grad_(True)
