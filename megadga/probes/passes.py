"""Forward and backward passes on an engine's module that leave no trace in the engine.

They run on ``engine.module`` itself. DeepSpeed reduces gradients where they are *accumulated* into
parameters; here nothing is accumulated, inside a gradient-accumulation window or outside.
"""

import warnings
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from functools import partial
from typing import final

import numpy as np
import torch
from torch import Tensor, nn

from megadga.arrays import FloatArray, IntArray
from megadga.data.rows import WeightedRows, weighted_rank_rows
from megadga.data.targets import PADDING
from megadga.errors import UnsupportedEngineError
from megadga.probes.choosing_tangents import own_parameters
from megadga.probes.collective import ProcessGroupCollective
from megadga.probes.engine import (
    Engine,
    eager,
    hold_gathered,
    optimized_parameters,
    probe_autocast,
    probe_loss_scale,
    release_gathered,
)
from megadga.probes.gathering import PieceOrder
from megadga.probes.gradients import Direction, GradientShard, ShardedSum, ShardLayout, full_shape
from megadga.probes.hooks import (
    SequenceHooks,
    hooked,
    hooked_per_parameter,
    modules_with_parameters,
)
from megadga.probes.layouts import NO_LAYOUTS, Layouts
from megadga.probes.learning_layouts import learn_layouts
from megadga.probes.loss import CountedLoss, Loss, as_counted, loss_of, watching_targets
from megadga.probes.sequences import PackedSequences
from megadga.probes.state import evaluating, preserved, seed_everything
from megadga.probes.supported import check_supported

TakeGradient = Callable[[int, Tensor], None]
"""Takes the number of a parameter and its gradient on this rank, which nobody keeps."""


_HookUp = Callable[[Layouts, bool], AbstractContextManager[Sequence[SequenceHooks]]]
"""From layouts, and whether sequences are followed, to a context in which a module is hooked."""


@dataclass(frozen=True, eq=False)
class Derivatives:
    """Result of a pass along a direction.

    Attributes:
        along: Derivative of each sequence's summed loss, shape ``(N,)``.
        num_targets: Targets that the loss counts of each, shape ``(N,)``.
        loss: Mean loss over all targets.
    """

    along: FloatArray
    num_targets: IntArray
    loss: float


@final
class ProbePasses:
    """Measures losses, gradients and derivatives on an engine's module.

    Args:
        engine: A DeepSpeed engine of ZeRO stage 0-3 in fp32, bf16 or fp16.
        loss: Mean loss of a batch of tokens, computed through the module that it is given.

    Attributes:
        engine: As given.
        parameters: Those that train, as far as ``refresh`` knows: which the optimizer holds and
            which are not frozen. Their numbers are places here.
        collective: The ranks that share the work.
        layout: How a gradient is divided over them.
        piece_order: In which order a pass asks for the pieces of a direction that is divided, too.
        following: Whether sequences are followed through the functions of their micro-batch, as
            the outputs of some modules do not tell them by their places.
        single: Whether derivatives are measured a sequence at a time, as that did not tell either.
        unknown: Modules in whose outputs the sequences could not be told on this rank, and the
            shape of one.

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
        self._counts_targets = self._counts_together = False
        self._ignored: tuple[str, ...] = ()
        self.unknown: Mapping[str, tuple[int, ...]] = {}
        self.refresh()

    @property
    def names(self) -> list[str]:
        """The parameters' names in the module, in their order."""
        names = {parameter: name for name, parameter in self.engine.module.named_parameters()}
        return [names[parameter] for parameter in self.parameters]

    def refresh(self) -> None:
        """Update the set of trained parameters, which may be frozen or unfrozen between updates.

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
            # Outputs that no measured parameter had moved may be of another layout.
            self._layouts: Layouts | None = None
            self.following = self.single = False
            self.layout = ShardLayout(training, self.collective.world_size)
            self.piece_order = PieceOrder()

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

    def gradient(
        self, sequences: PackedSequences, *, micro_batch_size: int | None = None
    ) -> GradientShard:
        """Return this rank's shard of the gradient of the mean loss over all targets. Collective.

        Memory: the shard and one bucket.

        Args:
            sequences: At least one.
            micro_batch_size: Of one forward pass; None: training's.
        """
        total = ShardedSum(self.layout, self.collective, device=self.engine.device)
        scale = self.each_gradient(sequences, total.add, micro_batch_size=micro_batch_size)
        shard = total.finish()
        return shard if scale == 1.0 else GradientShard(shard.values * scale)

    def each_gradient(
        self,
        sequences: PackedSequences,
        take: TakeGradient,
        *,
        micro_batch_size: int | None = None,
    ) -> float:
        """Pass each rank's summands of the gradient of the mean loss to a callback.

        Every rank calls ``take`` for every parameter once a micro-batch, whose loss is the mean
        over its own targets and counts as much as it has of all. A parameter that the micro-batch
        did not use (an expert without tokens) has a gradient of zeros, and comes last. The order
        is otherwise that of the backward pass, and may differ between ranks. Collective.

        Returns:
            What the sum is to be multiplied by: 1, but in fp16, where gradients are those of the
            scaled loss, and for a loss that counts its own targets, whose number is known when
            all have passed.
        """
        num_targets = int(sequences.num_targets.sum())
        counted, scale = 0.0, probe_loss_scale(self.engine)
        with self._no_trace():
            for chunk, tokens in self._micro_batches(sequences, micro_batch_size):
                absent = dict(enumerate(self.parameters))
                with _gradients_into(take, absent):
                    loss = self._measured(tokens)
                    if isinstance(loss, CountedLoss):
                        here = float(chunk.share > 0.0)
                        counted += here * float(loss.counts.sum())
                        part = loss.total * (here * scale / num_targets)
                    else:
                        part = loss * (chunk.share * scale)
                    torch.autograd.grad(part, self.parameters, allow_unused=True)
                release_gathered(self.engine)
                for index, parameter in absent.items():
                    zero = torch.zeros((), dtype=parameter.dtype, device=self.engine.device)
                    take(index, zero.expand(full_shape(parameter)))
        if not self.counts_targets:
            return 1.0 / scale
        counted = float(self.collective.agreed_sum(np.array([counted]))[0])
        return num_targets / max(1.0, counted) / scale

    def layouts(self, sequences: PackedSequences) -> Layouts:
        """Return where the sequences of a micro-batch lie in the outputs of the module's modules.

        Learned at the first call, from runs without gradients on two sequences, and anew when
        other parameters train. Collective.
        """
        if self._layouts is None:
            if self.engine.train_micro_batch_size_per_gpu() == 1:
                self._layouts = NO_LAYOUTS
            else:
                self._layouts = self._learned(sequences)
                self.following = bool(self._layouts.unknown)
        return self._layouts

    def _learned(self, sequences: PackedSequences) -> Layouts:
        learned = self._learned_now(sequences)
        if learned.unknown:
            # Statistics of a micro-batch (BatchNorm) let its sequences change each other's rows.
            with evaluating(self.engine.module):
                relearned = self._learned_now(sequences)
            if len(relearned.unknown) < len(learned.unknown):
                return relearned
        return learned

    def _learned_now(self, sequences: PackedSequences) -> Layouts:
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

    def derivatives(
        self,
        sequences: PackedSequences,
        direction: Direction,
        *,
        micro_batch_size: int | None = None,
    ) -> Derivatives:
        """Differentiate each sequence's summed loss along a direction.

        One forward and one backward pass without weight gradients. Where the sequences of a
        micro-batch cannot be told from one another in the outputs of every module, not even by
        following them, a sequence at a time, from then on. Collective; equal bits on every rank.

        Args:
            sequences: At least one.
            direction: What is differentiated along.
            micro_batch_size: Of one forward pass; None: training's, or 1 if the loss tells only
                how many targets it counts of several sequences together.
        """

        @contextmanager
        def hook_up(layouts: Layouts, following: bool) -> Generator[list[SequenceHooks]]:
            hold = partial(hold_gathered, self.engine)
            with hooked(
                self.engine.module, direction, layouts, hold=hold, following=following
            ) as sequence_hooks:
                yield [sequence_hooks]

        found = self._derivatives(sequences, direction, hook_up, micro_batch_size)
        return Derivatives(found.along[0] / direction.scale, found.num_targets, found.loss)

    def derivatives_per_parameter(
        self,
        sequences: PackedSequences,
        direction: Direction,
        *,
        micro_batch_size: int | None = None,
    ) -> Derivatives:
        """Differentiate along the direction's piece of each parameter by itself.

        ``along`` has shape ``(parameters, N)``. It takes as many hooks as there are parameters,
        and is not for every update. Otherwise as ``derivatives``.
        """

        def hook_up(
            layouts: Layouts, following: bool
        ) -> AbstractContextManager[list[SequenceHooks]]:
            return hooked_per_parameter(
                self.engine.module,
                direction,
                self.parameters,
                layouts,
                hold=partial(hold_gathered, self.engine),
                following=following,
            )

        found = self._derivatives(sequences, direction, hook_up, micro_batch_size)
        return Derivatives(found.along / direction.scale, found.num_targets, found.loss)

    def _derivatives(
        self,
        sequences: PackedSequences,
        direction: Direction,
        hook_up: _HookUp,
        micro_batch_size: int | None,
    ) -> Derivatives:
        layouts = self.layouts(sequences)
        size = micro_batch_size or self.engine.train_micro_batch_size_per_gpu()
        size = 1 if self._counts_together else size
        while size > 1 and not self.single:
            with hook_up(layouts, self.following) as sequence_hooks:
                found = self._through(direction, sequence_hooks, sequences, size)
            if found is not None:
                return found
            self.following, self.single = True, self.following
        with hook_up(layouts, False) as sequence_hooks:
            found = self._through(direction, sequence_hooks, sequences, 1)
        assert found is not None
        return found

    def _through(
        self,
        direction: Direction,
        sequence_hooks: Sequence[SequenceHooks],
        sequences: PackedSequences,
        size: int,
    ) -> Derivatives | None:
        """Run the passes; None if a rank could not distinguish sequences. Collective."""
        numbers = np.zeros((len(sequence_hooks) + 1, sequences.num_targets.size))
        total, scale = 0.0, probe_loss_scale(self.engine)
        with self._no_trace(), _frozen(self.engine.module):
            for chunk, tokens in self._micro_batches(sequences, size):
                direction.begin_pass()
                sums = [
                    each.begin(chunk.rows.size, self.engine.device, tokens)
                    for each in sequence_hooks
                ]
                loss = self._measured(tokens)
                if isinstance(loss, CountedLoss):
                    counts = loss.counts.cpu().numpy()
                    mean = loss.total / max(1.0, float(counts.sum()))
                    total += float(loss.total.detach()) * (chunk.share > 0.0)
                else:
                    counts, mean = sequences.num_targets[chunk.rows], loss
                    total += float(loss.detach()) * chunk.share
                (mean * scale).backward()
                release_gathered(self.engine)
                if not chunk.share:
                    continue
                for row, each in zip(numbers, sums, strict=False):
                    if (found := each.total()) is not None:
                        row[chunk.rows] = found.cpu().numpy() * (counts.sum() / scale)
                numbers[-1, chunk.rows] = counts
        unknown = {name: shape for each in sequence_hooks for name, shape in each.unknown.items()}
        *along_and_counts, total, num_unknown = self.collective.agreed_sum(
            np.append(numbers.ravel(), [total, len(unknown)])
        )
        if num_unknown:
            self.unknown = unknown
            return None
        *along, counts = np.reshape(along_and_counts, numbers.shape)
        mean = total / max(1.0, counts.sum()) if self.counts_targets else total
        return Derivatives(np.array(along), counts.astype(np.int64), float(mean))

    def mean_loss(
        self, sequences: PackedSequences, *, micro_batch_size: int | None = None, seed: int = 0
    ) -> float:
        """Return the mean loss over all targets. Collective; equal bits on every rank.

        Args:
            sequences: At least one.
            micro_batch_size: Of one forward pass; None: training's.
            seed: Above 0, random numbers are others than those of training.
        """
        total = counted = 0.0
        with self._no_trace(), torch.no_grad():
            if seed:
                seed_everything(seed)
            for chunk, tokens in self._micro_batches(sequences, micro_batch_size):
                loss = self._measured(tokens)
                if isinstance(loss, CountedLoss):
                    here = float(chunk.share > 0.0)
                    total += float(loss.total) * here
                    counted += float(loss.counts.sum()) * here
                else:
                    total += float(loss) * chunk.share
        total, counted = self.collective.agreed_sum(np.array([total, counted]))
        return float(total / max(1.0, counted)) if self.counts_targets else float(total)

    @property
    def counts_targets(self) -> bool:
        """Whether the loss reports its number of targets; known after its first call."""
        return self._counts_targets

    def watch_targets(self) -> None:
        """Count only targets that the loss's own cross-entropy counts."""
        self._loss = watching_targets(self._loss)

    def _measured(self, tokens: Tensor) -> Tensor | CountedLoss:
        """Return the mean loss of a micro-batch, or its counted form."""
        returned = loss_of(self._loss(self.engine.module, tokens), "loss")
        counted = as_counted(returned, len(tokens))
        if counted is None:
            return returned.to(torch.promote_types(returned.dtype, torch.float32))
        self._counts_targets = True
        self._counts_together |= counted.counts.numel() != len(tokens)
        return counted

    def _micro_batches(
        self, sequences: PackedSequences, size: int | None = None
    ) -> Iterator[tuple[WeightedRows, Tensor]]:
        """Yield this rank's micro-batches, the same number on every rank."""
        chunks = weighted_rank_rows(
            sequences.num_targets,
            rank=self.collective.rank,
            world_size=self.collective.world_size,
            micro_batch_size=size or self.engine.train_micro_batch_size_per_gpu(),
        )
        for chunk in chunks:
            tokens = torch.from_numpy(sequences.read(chunk.rows))
            yield chunk, tokens.to(self.engine.device)


def _differ(one: nn.Parameter, other: nn.Parameter) -> bool:
    return one is not other


def _listed(names: Sequence[str], most: int = 8) -> str:
    """Return the first names, and the number of further ones."""
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(names[:most]) + more


@contextmanager
def _gradients_into(take: TakeGradient, absent: dict[int, nn.Parameter]) -> Generator[None]:
    """Pass each parameter's gradient to a callback as soon as a backward pass computes it.

    The hook returns a zero of no size in its place, so that no full gradient outlives it, and so
    that ZeRO-3 may release the parameter.

    Args:
        take: Takes it.
        absent: The parameters by their numbers; those that have had a gradient are removed.
    """

    def make_hook(index: int) -> Callable[[Tensor], Tensor]:
        def hook(gradient: Tensor) -> Tensor:
            del absent[index]
            take(index, gradient.detach())
            return gradient.new_zeros(()).expand(gradient.shape)

        return hook

    hooks = [p.register_hook(make_hook(index)) for index, p in absent.items()]
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
