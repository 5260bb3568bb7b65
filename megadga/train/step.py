"""One optimizer step: forward and backward passes over its micro-batches, and the update."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol, final

import numpy as np
import torch
from torch import Tensor

from megadga.arrays import FloatArray, IntArray
from megadga.mixers.loss_reweight import LossReweighting
from megadga.model.losses import sequence_norms, target_mask
from megadga.plugin import Batch
from megadga.probes.discarding import discard_update
from megadga.probes.engine import Engine, step_optimizer
from megadga.train.ranks import StepAllReduce
from megadga.train.timing import StepTimer

TokenLosses = Callable[[Tensor], Tensor]
"""Computes a model's losses ``(b, S)`` of tokens ``(b, S + 1)`` without gradients."""


@dataclass(frozen=True, eq=False)
class StepLosses:
    """Losses of one training step.

    Attributes:
        losses: Mean loss of each sequence of the global batch over its targets, nats per token,
            shape ``(B,)``.
        extra: Additional values gathered with the losses, each of the same shape.
        weights: Weight of each sequence by its loss, with mean 1, same shape; None: equal weights.
        norms: Norm of the loss's gradient at each sequence's output (``sequence_norms``), same
            shape; None: nobody asked for it.
    """

    losses: FloatArray
    extra: tuple[FloatArray, ...] = ()
    weights: FloatArray | None = None
    norms: FloatArray | None = None


class TrainStep(Protocol):
    """Executes one optimizer step on a batch."""

    def __call__(self, batch: Batch, *extra: Tensor) -> StepLosses:
        """Complete one optimizer step. Collective: every rank calls it with its part.

        Args:
            batch: This rank's sequences.
            extra: Additional values per sequence, each of shape ``(accumulation, micro batch)``,
                gathered together with the losses.
        """
        ...


@dataclass(frozen=True)
class Reweighting:
    """Weighting of sequences by their losses.

    Attributes:
        rule: Computes weights from the global batch's losses.
        losses: Computes losses without gradients, for steps of several micro-batches.
    """

    rule: LossReweighting
    losses: TokenLosses


AcceptUpdate = Callable[[Batch, FloatArray], bool]
"""Decides, by the losses of the global batch, shape ``(B,)``, whether an update is applied; called
once for each step, with equal results on every rank."""


@final
class WindowEnd:
    """Ends the accumulation window of a step, with or without an update.

    Args:
        engine: A DeepSpeed engine.
        step_sum: Gathers per-sequence values over the ranks.
        accepts: Decides whether the update is applied, which needs all losses before it; None: it
            always is, and they are gathered after it.
        timer: Notes when the optimizer steps.
    """

    def __init__(
        self,
        engine: Engine,
        step_sum: StepAllReduce,
        accepts: AcceptUpdate | None = None,
        *,
        timer: StepTimer,
    ) -> None:
        self._timer = timer
        self._engine = engine
        self._step_sum = step_sum
        self._accepts = accepts

    def __call__(self, batch: Batch, *own: Tensor) -> tuple[FloatArray, ...]:
        """End the window; return values of all ranks as ``StepAllReduce`` does. Collective.

        Args:
            batch: The batch.
            own: Losses of this rank's sequences, and additional values.
        """
        if self._accepts is None:
            self._step()
            return self._step_sum(batch, *own)
        gathered = self._step_sum(batch, *own)
        self.end(batch, gathered[0])
        return gathered

    def end(self, batch: Batch, losses: FloatArray) -> None:
        """End the window with losses that have been gathered already. Collective."""
        if self._accepts is None or self._accepts(batch, losses):
            self._step()
        else:
            self._timer.begin_optimizer()
            discard_update(self._engine)
            self._timer.end_optimizer()

    def _step(self) -> None:
        self._timer.begin_optimizer()
        step_optimizer(self._engine)
        self._timer.end_optimizer()


class Passed(NamedTuple):
    """What a forward pass of a micro-batch of ``b`` sequences returned.

    Attributes:
        losses: One per token, shape ``(b, S)``.
        means: Of each sequence over its targets, shape ``(b,)``.
        norms: Of the loss's gradient at each sequence's output, same shape; None: not asked for.
    """

    losses: Tensor
    means: Tensor
    norms: Tensor | None

    def gathered(self) -> tuple[Tensor, ...]:
        """Return what all ranks get of it: means, and norms if there are any."""
        means = self.means.detach()
        return (means,) if self.norms is None else (means, self.norms)


@final
class ForwardPass:
    """Runs an engine's module on the micro-batches of steps.

    Args:
        engine: A DeepSpeed engine around a module that returns one loss per token.
        with_norms: Whether the module is asked for the norms of the losses' gradients at its
            output as well (``Decoder``).
    """

    def __init__(self, engine: Engine, *, with_norms: bool = False) -> None:
        self._engine: Any = engine
        self.with_norms = with_norms

    def __call__(self, tokens: Tensor, batch: Batch) -> Passed:
        """Return the losses of a micro-batch of ``batch``, tokens of shape ``(b, S + 1)``."""
        if not self.with_norms:
            losses = self._engine(tokens)
            return Passed(losses, sequence_means(losses, tokens, batch), None)
        losses, norms = self._engine(tokens, with_norms=True)
        by_sequence = sequence_norms(norms, target_mask(tokens))
        return Passed(losses, sequence_means(losses, tokens, batch), by_sequence)

    def over(self, batch: Batch, backward: Callable[[Passed, IntArray], None]) -> list[Tensor]:
        """Run both passes over all micro-batches of a batch; the last one's step is left to do.

        Args:
            batch: The batch.
            backward: Runs backward on a micro-batch's losses, given its rows of the global batch.

        Returns:
            What ``Passed.gathered`` names, each of shape ``(accumulation, micro batch)``.
        """
        own: list[tuple[Tensor, ...]] = []
        for tokens, rows in zip(batch.tokens, batch.indices.rows, strict=True):
            if own:
                self._engine.step()  # of the micro-batch before
            passed = self(tokens, batch)
            backward(passed, rows)
            own.append(passed.gathered())
        return [torch.stack(parts) for parts in zip(*own, strict=True)]


def step_losses(
    gathered: Sequence[FloatArray], weights: FloatArray | None, *, with_norms: bool
) -> StepLosses:
    """Return a step's losses from what was gathered: losses, additional values, norms."""
    losses, *others = gathered
    norms = others.pop() if with_norms else None
    return StepLosses(losses, tuple(others), weights, norms)


@final
class MeanLossStep:
    """Trains on the mean loss over all targets of the global batch; ``TrainStep``.

    Where sequences differ in their number of targets, or the objective is another mixture than
    that of the batches, each counts by a weight that every rank knows from the plan
    (``sequence_weights``): the loss is independent of the number of ranks, the size of
    micro-batches and accumulation, without a collective.

    Args:
        engine: A DeepSpeed engine around a module that returns one loss per token.
        end_window: Ends each step.
        with_norms: Whether the norms of the losses' gradients at the output are gathered too.
    """

    def __init__(self, engine: Engine, end_window: WindowEnd, *, with_norms: bool = False) -> None:
        self._engine = engine
        self._forward = ForwardPass(engine, with_norms=with_norms)
        self._end_window = end_window

    def __call__(self, batch: Batch, *extra: Tensor) -> StepLosses:
        """See ``TrainStep``."""
        weights = batch.indices.sequence_weights()

        def backward(passed: Passed, rows: IntArray) -> None:
            if weights is None:
                self._engine.backward(passed.losses.mean())
            else:
                run_backward(self._engine, passed.means, weights[rows])

        means, *norms = self._forward.over(batch, backward)
        gathered = self._end_window(batch, means, *extra, *norms)
        return step_losses(gathered, None, with_norms=self._forward.with_norms)


def sequence_means(losses: Tensor, tokens: Tensor, batch: Batch) -> Tensor:
    """Return the mean loss of each sequence of a micro-batch over its targets, shape ``(b,)``.

    Args:
        losses: One per token, shape ``(b, S)``.
        tokens: The micro-batch, shape ``(b, S + 1)``.
        batch: What it is of.
    """
    if batch.indices.global_targets is None:
        return losses.mean(dim=-1)
    targets = target_mask(tokens)
    return losses.masked_fill(~targets, 0.0).sum(dim=-1) / targets.sum(dim=-1)


def run_backward(engine: Engine, losses: Tensor, weights: FloatArray) -> None:
    """Run backward on a micro-batch's weighted mean loss."""
    engine.backward((torch.as_tensor(weights).to(losses) * losses).mean())


@final
class WeightedLossStep:
    """Trains on a weighted mean, with weights computed from the losses of the global batch.

    With one micro-batch per step, the weights are computed between forward and backward pass. With
    several, an additional forward pass over all of them without gradients and dropout comes first.
    If a loss is not finite, all weights are equal. Where sequences differ in their number of
    targets, these weights come on top of the targets' (see ``MeanLossStep``). ``TrainStep``.

    Args:
        engine: A DeepSpeed engine around a module that returns one loss per token.
        reweighting: Computes the weights.
        step_sum: Gathers per-sequence values over the ranks.
        end_window: Ends each step.
        with_norms: Whether the norms of the losses' gradients at the output are gathered too.
    """

    def __init__(
        self,
        engine: Engine,
        reweighting: Reweighting,
        step_sum: StepAllReduce,
        end_window: WindowEnd,
        *,
        with_norms: bool = False,
    ) -> None:
        self._engine = engine
        self._forward = ForwardPass(engine, with_norms=with_norms)
        self._reweighting = reweighting
        self._step_sum = step_sum
        self._end_window = end_window
        self._mean = MeanLossStep(engine, end_window, with_norms=with_norms)

    def __call__(self, batch: Batch, *extra: Tensor) -> StepLosses:
        """See ``TrainStep``."""
        if batch.step <= self._reweighting.rule.warmup:
            return self._mean(batch, *extra)
        if len(batch.tokens) == 1:
            return self._single_micro_batch(batch, *extra)
        model = self._reweighting.losses
        (known,) = self._step_sum(batch, batch_means(model, batch))
        weights = self._weights(known, batch.step)
        shares = with_planned(weights, batch)

        def backward(passed: Passed, rows: IntArray) -> None:
            run_backward(self._engine, passed.means, shares[rows])

        means, *norms = self._forward.over(batch, backward)
        gathered = self._end_window(batch, means, *extra, *norms)
        return step_losses(gathered, weights, with_norms=self._forward.with_norms)

    def _single_micro_batch(self, batch: Batch, *extra: Tensor) -> StepLosses:
        (tokens,), (rows,) = batch.tokens, batch.indices.rows
        passed = self._forward(tokens, batch)
        means, *norms = (part[None] for part in passed.gathered())
        gathered = self._step_sum(batch, means, *extra, *norms)
        losses = gathered[0]
        weights = self._weights(losses, batch.step)
        run_backward(self._engine, passed.means, with_planned(weights, batch)[rows])
        self._end_window.end(batch, losses)
        return step_losses(gathered, weights, with_norms=self._forward.with_norms)

    def _weights(self, losses: FloatArray, step: int) -> FloatArray:
        if not np.isfinite(losses).all():
            return np.ones(losses.size)
        return self._reweighting.rule.weights(losses, step=step - 1)


def with_planned(weights: FloatArray, batch: Batch) -> FloatArray:
    """Return weights by loss times those that the plan says, shape ``(B,)``."""
    planned = batch.indices.sequence_weights()
    return weights if planned is None else weights * planned


def batch_means(losses: TokenLosses, batch: Batch) -> Tensor:
    """Return the mean loss of each of this rank's sequences, ``(accumulation, micro batch)``."""
    return torch.stack([sequence_means(losses(tokens), tokens, batch) for tokens in batch.tokens])
