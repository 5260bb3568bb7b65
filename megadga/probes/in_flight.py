"""The in-flight probe: derivatives of the training batch's own sequences.

The hooks add zeros to activations and pass gradients on unchanged, so training keeps its bits.
"""

from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from typing import Any, final

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from megadga.arrays import FloatArray, IntArray
from megadga.errors import UnsupportedEngineError
from megadga.mixers.base import Alignments
from megadga.probes.check import ProbeCheck
from megadga.probes.directions import DirectionSource
from megadga.probes.engine import eager, hold_gathered, loss_scale
from megadga.probes.gradients import Direction
from megadga.probes.hooks import SequenceHooks, hooked
from megadga.probes.layouts import Layouts
from megadga.probes.passes import ProbePasses
from megadga.probes.protocols import InFlightStart, MeasuredSequences, TrainingProbe
from megadga.probes.sequence_rows import SequenceSums
from megadga.probes.sequences import (
    PackedSequences,
    ProbeSequences,
    ProbeSequenceSampler,
    TrainedBatch,
)
from megadga.probes.statistics import Estimates, domain_alignments, unmeasured, updated_estimates

_CLOSE = 1e-2  # relative difference up to which a scale counts as the expected one, rounded


@final
class SeenScale:
    """Weight of each sequence in the loss of a backward pass.

    It is read from the gradients of what a module has returned: of a mean loss (a scalar), of one
    loss a token, shape ``(b, S)``, or of logits, shape ``(b, S, V)``, of which a cross-entropy is
    taken. Of other outputs nothing is known, nor if gradients reach more than one.

    Args:
        outputs: A module's, before the backward pass.
        num_items: What the module was told to divide its summed loss by to get a scalar, as models
            of ``transformers`` are by ``num_items_in_batch``; None: the micro-batch's targets.
    """

    def __init__(self, outputs: Any, num_items: Tensor | float | None = None) -> None:
        self._num_items = num_items
        self._found: list[tuple[Tensor, Tensor]] = []
        for leaf in pytree.tree_leaves(outputs):
            if isinstance(leaf, Tensor) and leaf.requires_grad:
                leaf.register_hook(self._taker(_few(leaf.detach())))

    def weights(self, num_sequences: int, sequence_length: int) -> Tensor | None:
        """Return the weight of each sequence's mean loss, float64, shape ``(b,)``; None: unknown.

        It is 0 where targets of a sequence count for more than others.
        """
        if len(self._found) != 1:
            return None
        ((output, gradient),) = self._found
        output, gradient = output.cpu(), gradient.double().cpu()
        if output.ndim == 0:
            targets = num_sequences * sequence_length
            counted = targets if self._num_items is None else float(self._num_items)
            return (gradient * (sequence_length / counted)).expand(num_sequences)
        if output.shape == (num_sequences, sequence_length):
            least, most = gradient.min(dim=1).values, gradient.max(dim=1).values
            even = (most - least).abs() <= _CLOSE * most.abs()
            return gradient.sum(dim=1) * even
        if output.ndim == 3 and output.shape[0] == num_sequences:
            return _of_cross_entropy(output[:, 0], gradient[:, 0], sequence_length)
        return None

    def _taker(self, output: Tensor) -> Any:
        def take(gradient: Tensor) -> None:
            self._found.append((output, _few(gradient.detach())))

        return take


def _few(tensor: Tensor) -> Tensor:
    """Return the part of a tensor that determines the scale: logits of the first position."""
    return tensor[:, :1].clone() if tensor.ndim == 3 else tensor


def _of_cross_entropy(logits: Tensor, gradient: Tensor, sequence_length: int) -> Tensor | None:
    """Return weights from each sequence's first position; None if that is no cross-entropy.

    Its gradient is ``w / S * softmax(logits)``, but less at the target.
    """
    probabilities = logits.double().softmax(dim=-1)
    others = (gradient > 0.0) & (probabilities > 1e-6)
    ratios = torch.where(others, gradient / probabilities, torch.nan)
    middle = ratios.nanmedian(dim=-1, keepdim=True).values
    even = ((ratios / middle - 1.0).abs() < 2 * _CLOSE) | ~others
    if not bool(even.all()) or bool(middle.isnan().any()):
        return None
    return middle[:, 0] * sequence_length


@final
class TrainingHooks:
    """Derivatives of the sequences that one optimizer step trains on.

    The loss that the engine's backward pass gets must be the mean over the targets of a
    micro-batch, none of them padding, times whatever number: by how much it was scaled is seen at
    the module's output (see ``SeenScale``).

    Args:
        passes: On the engine that trains.
    """

    def __init__(self, passes: ProbePasses) -> None:
        self._passes, self._engine = passes, passes.engine
        self._collective = passes.collective
        self._open: ExitStack | None = None
        self._hooks: SequenceHooks | None = None
        self._sums: list[SequenceSums] = []
        self._scales: list[SeenScale] = []
        self._loss_scale = self._direction_scale = 1.0

    def start(self, direction: Direction, layouts: Layouts) -> None:
        """Hook every forward and backward pass from here on. A compiled module runs eagerly.

        Raises:
            UnsupportedEngineError: If the sequences of a micro-batch cannot be told from one
                another in the outputs of every module.
        """
        self.stop()
        _check_distinguishable(self._passes)
        self._loss_scale, self._direction_scale = loss_scale(self._engine), direction.scale
        with ExitStack() as stack:
            stack.enter_context(eager(self._engine))
            hold, following = partial(hold_gathered, self._engine), self._passes.following
            sequence_hooks = stack.enter_context(
                hooked(self._engine.module, direction, layouts, hold=hold, following=following)
            )
            hook = self._engine.module.register_forward_pre_hook(
                self._begin(direction, sequence_hooks), prepend=True
            )
            stack.callback(hook.remove)
            seen = self._engine.module.register_forward_hook(self._see, with_kwargs=True)
            stack.callback(seen.remove)
            self._open, self._hooks = stack.pop_all(), sequence_hooks

    def stop(self) -> None:
        """Take all hooks off, if there are any."""
        if self._open is not None:
            self._open.close()
        self._open, self._hooks, self._sums, self._scales = None, None, [], []

    def finish(self, batch: TrainedBatch) -> FloatArray:
        """Take the hooks off and return the derivative of each sequence's summed loss, ``(B,)``.

        Collective; equal bits on every rank.

        Raises:
            ValueError: If the step trained on another number of micro-batches.
            UnsupportedEngineError: If targets of a sequence did not all count for the same, or a
                module has returned what it had not before, and the sequences in it cannot be told
                from one another.
        """
        micro_batches, scales, sequence_hooks = self._sums, self._scales, self._hooks
        self.stop()
        if len(micro_batches) != len(batch.rows):
            raise ValueError(
                f"in-flight probe: expected the {len(batch.rows)} micro-batches of the step to "
                f"pass through the engine, found {len(micro_batches)}"
            )
        # Two more: what was refused or cannot be told apart, which every rank is to know.
        numbers = torch.zeros(batch.domains.size + 2, dtype=torch.float64)
        # engine.backward divides the mean loss of a micro-batch by the number of micro-batches,
        # and multiplies it in fp16.
        expected = self._loss_scale / batch.rows.size
        scale = batch.sequence_length / expected / self._direction_scale
        for rows, sums, seen in zip(
            torch.from_numpy(batch.rows), micro_batches, scales, strict=True
        ):
            if (total := sums.total()) is None:
                continue
            weights = seen.weights(len(rows), batch.sequence_length)
            of_rows = total.cpu() * scale
            if weights is not None and not bool((weights / expected - 1.0).abs().max() < _CLOSE):
                of_rows = of_rows * (expected / weights)
                numbers[-2] += float(not bool((weights != 0.0).all()))
            numbers[rows] = of_rows
        unknown = {} if sequence_hooks is None else sequence_hooks.unknown
        numbers[-1] = len(unknown)
        *along, num_refused, num_unknown = self._collective.agreed_sum(numbers.numpy())
        if num_unknown:
            raise UnsupportedEngineError(_cannot_tell(unknown))
        if num_refused:
            raise UnsupportedEngineError(
                "in-flight probe: expected training's loss to be the mean over the targets of a "
                "micro-batch, found targets that count for more than others of their sequence; "
                "measure with probe type directional"
            )
        return np.array(along)

    def _see(
        self, _: nn.Module, __: tuple[Any, ...], keywords: dict[str, Any], outputs: Any
    ) -> None:
        if torch.is_grad_enabled():
            self._scales.append(SeenScale(outputs, keywords.get("num_items_in_batch")))

    def _begin(self, direction: Direction, sequence_hooks: SequenceHooks) -> Any:
        size, device = self._engine.train_micro_batch_size_per_gpu(), self._engine.device

        def begin(_: nn.Module, positional: tuple[Any, ...]) -> None:
            if torch.is_grad_enabled():
                tokens = positional[0] if positional else None
                known = isinstance(tokens, Tensor) and len(tokens) == size
                direction.begin_pass()
                if self._sums:
                    self._sums[-1].total()  # of the micro-batch before, which holds memory
                self._sums.append(sequence_hooks.begin(size, device, tokens if known else None))

        return begin


def _check_distinguishable(passes: ProbePasses) -> None:
    """Refuse modules in whose outputs sequences cannot be distinguished within a micro-batch."""
    if passes.single:
        raise UnsupportedEngineError(_cannot_tell(passes.unknown))


def _cannot_tell(unknown: Mapping[str, tuple[int, ...]]) -> str:
    some = [f"{name!r} (an output of shape {shape})" for name, shape in unknown.items()]
    modules = ", ".join(some[:3]) + (f" and {len(some) - 3} more" if len(some) > 3 else "")
    return (
        "in-flight probe: expected every module to return the sequences of a micro-batch along an "
        f"axis, found no such axis in {modules or 'a module of another rank'}; measure with probe "
        "type directional or sharded, or train with micro-batches of one sequence"
    )


@final
class InFlightPasses:
    """Measures alignments on the sequences that an optimizer step trains on.

    Args:
        passes: Forward and backward passes on the engine that trains.
        source: Finds each update's direction.
        check: Has looked at the module.

    Raises:
        UnsupportedEngineError: If the sequences of a micro-batch cannot be told from one another
            in the outputs of every module.
    """

    def __init__(self, passes: ProbePasses, source: DirectionSource, check: ProbeCheck) -> None:
        _check_distinguishable(passes)
        self._passes = passes
        self._source = source
        self._check = check
        self._hooks = TrainingHooks(passes)

    def start(
        self, update: int, specific: ProbeSequences, separate: Sequence[ProbeSequences]
    ) -> InFlightStart:
        """See ``TrainingProbe``."""
        self._passes.refresh()
        self._check.refresh()
        target = PackedSequences([specific])
        toward = self._source.direction(update, target)
        measured = self._measure_separate(toward.direction, separate)
        self._hooks.start(toward.direction, self._passes.layouts(target))
        return InFlightStart(measured, toward.squared_norm, toward.energy, toward.preconditioned)

    def finish(self, batch: TrainedBatch) -> FloatArray:
        """See ``TrainingProbe``."""
        return self._hooks.finish(batch)

    def close(self) -> None:
        """Take all hooks off, if there are any."""
        self._hooks.stop()

    def state_dict(self) -> dict[str, Any]:
        """Return what the next direction depends on."""
        return self._source.state_dict()

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue from ``state``."""
        self._source.load_state_dict(state)

    def _measure_separate(
        self, direction: Direction, separate: Sequence[ProbeSequences]
    ) -> MeasuredSequences:
        if not separate:
            nothing = np.empty(0, dtype=np.int64)
            return MeasuredSequences(np.empty(0), nothing, nothing)
        packed = PackedSequences(separate)
        found = self._passes.derivatives(packed, direction)
        return MeasuredSequences(found.along, found.num_targets, packed.sets_of_rows)


@final
class InFlightMeasurement:
    """Estimates every domain's alignment, updated by the sequences of each batch.

    Domains that a batch did not draw keep their last estimate with a growing standard error, and
    are measured on sequences of their own at the first update and every ``refresh_every``.

    Args:
        probe: Watches the training step.
        draws: The sequences that directions and absent domains are measured on: of single domains,
            not of mixtures, as each sequence of a batch is of one domain.
        refresh_every: Updates between those at which domains that were not drawn are measured;
            None: they are not, and have an alignment of 0 until a batch draws them.
    """

    def __init__(
        self, probe: TrainingProbe, draws: ProbeSequenceSampler, *, refresh_every: int | None
    ) -> None:
        self._probe = probe
        self._draws = draws
        self._refresh_every = refresh_every
        self._estimates = unmeasured(draws.num_measured)
        self._prepared: _Prepared | None = None

    def prepare(self, update: int, batch: TrainedBatch) -> None:
        """Find the direction, measure the domains that are due, and hook the step. Collective."""
        absent = np.bincount(batch.domains, minlength=self._draws.num_measured) == 0
        due = absent & (self._estimates.counts == 0)
        if self._refresh_every is None:
            due = np.zeros_like(absent)
        elif update % self._refresh_every == 0:
            due = absent
        absent_due = np.flatnonzero(due)
        watch = self._probe.start(
            update,
            self._draws.target(update),
            self._draws.measured_each(update, absent_due),
        )
        self._prepared = _Prepared(batch, watch, absent_due)

    def measure(self, update: int) -> Alignments:  # noqa: ARG002  (the one that was prepared)
        """Return the estimates, updated by the trained batch. Collective.

        Estimates that are not finite are returned, but not kept.
        """
        assert self._prepared is not None
        batch, watch, domains = self._prepared.batch, self._prepared.watch, self._prepared.domains
        self._prepared = None
        along = np.concatenate([self._probe.finish(batch), watch.separate.along])
        num_targets = np.concatenate(
            [np.full(batch.domains.size, batch.sequence_length), watch.separate.num_targets]
        )
        owners = np.concatenate([batch.domains, domains[watch.separate.sets]])
        sampled = domain_alignments(along, num_targets, owners, self._draws.num_measured)
        estimates = updated_estimates(self._estimates, sampled)
        if np.isfinite(estimates.dots).all():
            self._estimates = estimates
        return Alignments(
            dots=estimates.dots,
            specific_squared_norm=watch.specific_squared_norm,
            standard_errors=estimates.current_errors(),
            counts=sampled.counts,
            direction_energy=watch.direction_energy,
            preconditioned=watch.preconditioned,
        )

    def close(self) -> None:
        """Remove the hooks of a step that was prepared but not trained."""
        self._probe.close()
        self._prepared = None

    def state_dict(self) -> dict[str, Any]:
        """Return what the next measurement depends on; equal on every rank."""
        arrays = self._estimates.state()
        return {
            "probe": self._probe.state_dict(),
            "estimates": {name: torch.from_numpy(array) for name, array in arrays.items()},
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue from ``state``."""
        self._probe.load_state_dict(state["probe"])
        arrays = {name: tensor.numpy() for name, tensor in state["estimates"].items()}
        self._estimates = Estimates.from_state(arrays)


@dataclass(frozen=True, eq=False)
class _Prepared:
    """An update between `prepare` and `measure`."""

    batch: TrainedBatch
    watch: InFlightStart
    domains: IntArray
