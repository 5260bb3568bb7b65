"""One optimizer step: forward and backward passes, and losses per domain."""

import hashlib
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol, final

import numpy as np
import torch
from torch import Tensor

from megadga.arrays import FloatArray, IntArray
from megadga.mixers.loss_reweight import LossReweighting
from megadga.model.losses import sequence_norms, target_mask
from megadga.plugin import Batch, Metrics
from megadga.probes.discarding import discard_update
from megadga.probes.engine import Engine, loss_scale, step_optimizer
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
        own: list[tuple[Tensor, ...]] = []
        for tokens, rows in zip(batch.tokens, batch.indices.rows, strict=True):
            if own:
                self._engine.step()  # of the micro-batch before
            passed = self._forward(tokens, batch)
            if weights is None:
                self._engine.backward(passed.losses.mean())
            else:
                run_backward(self._engine, passed.means, weights[rows])
            own.append(passed.gathered())
        means, *norms = (torch.stack(parts) for parts in zip(*own, strict=True))
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
        (known,) = self._step_sum(batch, _batch_means(model, batch))
        weights = self._weights(known, batch.step)
        shares = _with_planned(weights, batch)
        own: list[tuple[Tensor, ...]] = []
        for tokens, rows in zip(batch.tokens, batch.indices.rows, strict=True):
            if own:
                self._engine.step()  # of the micro-batch before
            passed = self._forward(tokens, batch)
            run_backward(self._engine, passed.means, shares[rows])
            own.append(passed.gathered())
        means, *norms = (torch.stack(parts) for parts in zip(*own, strict=True))
        gathered = self._end_window(batch, means, *extra, *norms)
        return step_losses(gathered, weights, with_norms=self._forward.with_norms)

    def _single_micro_batch(self, batch: Batch, *extra: Tensor) -> StepLosses:
        (tokens,), (rows,) = batch.tokens, batch.indices.rows
        passed = self._forward(tokens, batch)
        means, *norms = (part[None] for part in passed.gathered())
        gathered = self._step_sum(batch, means, *extra, *norms)
        losses = gathered[0]
        weights = self._weights(losses, batch.step)
        run_backward(self._engine, passed.means, _with_planned(weights, batch)[rows])
        self._end_window.end(batch, losses)
        return step_losses(gathered, weights, with_norms=self._forward.with_norms)

    def _weights(self, losses: FloatArray, step: int) -> FloatArray:
        if not np.isfinite(losses).all():
            return np.ones(losses.size)
        return self._reweighting.rule.weights(losses, step=step - 1)


def _with_planned(weights: FloatArray, batch: Batch) -> FloatArray:
    """Return weights by loss times those that the plan says, shape ``(B,)``."""
    planned = batch.indices.sequence_weights()
    return weights if planned is None else weights * planned


ObserveLosses = Callable[
    [IntArray, FloatArray, FloatArray | None, IntArray | None, FloatArray | None], None
]
"""Called after each step with the domain and the mean loss of every sequence of the global batch,
a reference model's losses if there is one, the sequences' numbers of targets if they differ, and
the norms of the loss's gradient at their outputs if these are gathered; all of shape ``(B,)``,
equal on every rank."""


class BatchObserver(Protocol):
    """Takes the losses of each step."""

    def observe(self, batch: Batch, losses: FloatArray) -> None:
        """Take a step's batch and the mean loss of every sequence of the global batch, ``(B,)``.

        Losses are equal on every rank.
        """
        ...


@dataclass(frozen=True)
class Watching:
    """What watches the losses of training.

    Attributes:
        observer: Takes the losses of each step; None: nothing does.
        accepts: Decides whether an update is applied; None: all are.
    """

    observer: BatchObserver | None = None
    accepts: AcceptUpdate | None = None


class StepTrainer(Protocol):
    """Executes optimizer steps; ``Trainer`` and what wraps it."""

    def revise(self, names: Sequence[str], observe_losses: ObserveLosses) -> None:
        """Go on with other domains."""
        ...

    def step(self, batch: Batch) -> Metrics:
        """Complete one optimizer step. Collective."""
        ...


@final
class Trainer:
    """Trains a module that returns one loss per token, 0 where there is no target.

    Args:
        engine: A DeepSpeed engine around such a module.
        names: Names of the ``K`` domains.
        step_sum: Gathers per-sequence values over the ranks, once per step.
        clock: Returns a monotonic time in seconds.
        seed: Returns this rank's seed for a step, which dropout draws from: a resumed run goes on
            as if it had not stopped.
        observe_losses: Called with the losses of each step.
        reference: Computes a reference model's losses of every batch.
        reweighting: Weighting of sequences; None: equal weights.
        watching: What watches the losses.
        with_norms: Whether the norms of the losses' gradients at the module's output are observed:
            it is a `Decoder`, which returns them.
    """

    def __init__(  # noqa: PLR0913  (each comes from another part of the assembly)
        self,
        engine: Engine,
        names: Sequence[str],
        *,
        step_sum: StepAllReduce,
        clock: Callable[[], float],
        seed: Callable[[int], int] = lambda step: step,
        observe_losses: ObserveLosses | None = None,
        reference: TokenLosses | None = None,
        reweighting: Reweighting | None = None,
        watching: Watching = Watching(),
        with_norms: bool = False,
    ) -> None:
        self._engine = engine
        self._names = tuple(names)
        self._clock = clock
        self._seed = seed
        self._observe_losses = observe_losses
        self._watching = watching
        self._reference = reference
        self._weighted = reweighting is not None
        self._timer = StepTimer(engine.device)
        end_window = WindowEnd(engine, step_sum, watching.accepts, timer=self._timer)
        self._passes: TrainStep = (
            MeanLossStep(engine, end_window, with_norms=with_norms)
            if reweighting is None
            else WeightedLossStep(engine, reweighting, step_sum, end_window, with_norms=with_norms)
        )

    def revise(self, names: Sequence[str], observe_losses: ObserveLosses) -> None:
        """Go on with other domains.

        Args:
            names: Their names, ``K`` of them.
            observe_losses: Called with the losses of each step from now on.
        """
        self._names, self._observe_losses = tuple(names), observe_losses

    def step(self, batch: Batch) -> Metrics:
        """Complete one optimizer step. Collective: every rank calls it with its part.

        Args:
            batch: This rank's sequences, in micro-batches of the size that the engine expects.

        Returns:
            A ``train`` record: mean loss (nats per token), the learning rate, the gradient norm
            before clipping (NaN if it is not finite), tokens per second over all ranks, seconds of
            the passes and of the optimizer on this rank, and per domain in the batch the number of
            sequences, their mean loss, and a reference model's mean loss if there is one. In fp16,
            also ``loss_scale``: what the step's losses were multiplied by; where gradients
            overflowed, the norm is infinite, and DeepSpeed has left out the update and lowered the
            scale. With domains of dialogues, also ``targets_by_domain``: the number of targets,
            over which losses are means. With reweighting or an objective, also
            ``effective_sequences``: the number of equally weighted sequences whose mean would have
            the same variance. With an objective, also ``objective_loss``: the weighted mean that
            is trained on, but for weights by losses. All other losses are not weighted.

        Raises:
            LowestScaleError: If gradients overflow in fp16 at the lowest scale; on every rank.
        """
        started = self._clock()
        _seed_generators(self._seed(batch.step), self._engine.device)
        learning_rate = self._engine.get_lr()[0]
        self._timer.begin()
        scaled_by = loss_scale(self._engine)
        extra = () if self._reference is None else (_batch_means(self._reference, batch),)
        trained = self._passes(batch, *extra)
        domains, losses = batch.indices.global_domains, trained.losses
        targets = batch.indices.global_targets
        reference_losses = trained.extra[0] if extra else None
        if self._observe_losses is not None:
            self._observe_losses(domains, losses, reference_losses, targets, trained.norms)
        if self._watching.observer is not None:
            self._watching.observer.observe(batch, losses)
        num_tokens = losses.size * (batch.tokens.shape[-1] - 1)
        record: dict[str, Any] = {
            "loss": float(np.average(losses, weights=targets)),
            "learning_rate": learning_rate,
            "grad_norm": self._gradient_norm(),
            "tokens_per_s": num_tokens / (self._clock() - started),
            "sequences_by_domain": self._counts(domains),
            "loss_by_domain": self._means(losses, domains, targets),
            "seconds": self._timer.seconds(),
        }
        if self._engine.fp16_enabled():
            record["loss_scale"] = scaled_by
        if targets is not None:
            record["targets_by_domain"] = self._counts(domains, targets)
        if reference_losses is not None:
            record["reference_loss_by_domain"] = self._means(reference_losses, domains, targets)
        has_objective = batch.indices.global_factors is not None
        if has_objective:
            equal = np.ones(losses.size)
            record["objective_loss"] = float(np.mean(losses * _with_planned(equal, batch)))
        if self._weighted or has_objective:
            weights = np.ones(losses.size) if trained.weights is None else trained.weights
            record["effective_sequences"] = _effective(_with_planned(weights, batch))
        return {"train": record}

    def _gradient_norm(self) -> float | None:
        """Return the norm before clipping; NaN where DeepSpeed returns -1 (not finite)."""
        norm = self._engine.get_global_grad_norm()
        if norm is None:
            return None
        return float(norm) if norm >= 0.0 else math.nan

    def _counts(self, domains: IntArray, targets: IntArray | None = None) -> dict[str, int]:
        """Return the number of sequences, or of targets, of each domain in the batch."""
        drawn, places = np.unique(domains, return_inverse=True)
        counts = np.bincount(places, weights=targets).astype(np.int64)
        return dict(zip(self._named(drawn), counts.tolist(), strict=True))

    def _means(
        self, losses: FloatArray, domains: IntArray, targets: IntArray | None
    ) -> dict[str, float]:
        """Return the mean of the losses of each domain in the batch, over sequences or targets."""
        drawn, places = np.unique(domains, return_inverse=True)
        sums = np.bincount(places, weights=losses if targets is None else losses * targets)
        means = sums / np.bincount(places, weights=targets)
        return dict(zip(self._named(drawn), means.tolist(), strict=True))

    def _named(self, domains: IntArray) -> list[str]:
        return [self._names[domain] for domain in domains.tolist()]


def step_seed(seed: int, step: int, *, rank: int) -> int:
    """Return the seed of what a rank draws in an optimizer step, in ``[0, 2^63)``.

    Args:
        seed: Of the run.
        step: From 1.
        rank: Of the data-parallel group.
    """
    address = f"step/{seed}/{step}/{rank}".encode()
    return int.from_bytes(hashlib.blake2b(address, digest_size=8).digest(), "little") >> 1


def _seed_generators(seed: int, device: torch.device) -> None:
    """Seed torch's generators of the CPU and of the device that is trained on.

    ``torch.manual_seed`` also remembers the seed for every kind of device that is not in use, with
    the stack that it is called from, which takes a hundred times as long.
    """
    torch.default_generator.manual_seed(seed)
    if device.type != "cpu":
        torch.get_device_module(device).manual_seed(seed)


def _effective(weights: FloatArray) -> float:
    return float(weights.sum() ** 2 / (weights**2).sum())


def _batch_means(losses: TokenLosses, batch: Batch) -> Tensor:
    """Return the mean loss of each of this rank's sequences, ``(accumulation, micro batch)``."""
    return torch.stack([sequence_means(losses(tokens), tokens, batch) for tokens in batch.tokens])
