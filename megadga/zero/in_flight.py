"""Taps on training itself: domains are measured on the update's own batch. Knows no domain.

The identities behind the modules pass gradients on as they are, so training keeps its bits.
"""

from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from typing import Any, final

import numpy as np
import torch
from torch import Tensor, nn

from megadga.alignment.directions import Direction
from megadga.alignment.layouts import Layouts
from megadga.alignment.packing import PackedSequences
from megadga.alignment.protocols import Drawn, MeasuredSequences, TrainedBatch, Watch
from megadga.alignment.taps import Taps, tapped
from megadga.arrays import FloatArray
from megadga.errors import UnsupportedEngineError
from megadga.zero.aim import AimSource
from megadga.zero.engine import eager
from megadga.zero.passes import ProbePasses
from megadga.zero.sight import TapsCheck


@final
class TrainingTaps:
    """Derivatives of the sequences that one optimizer step trains on.

    The loss that the engine's backward pass gets must be the mean over the targets of a
    micro-batch, none of them padding.

    Args:
        passes: On the engine that trains.
    """

    def __init__(self, passes: ProbePasses) -> None:
        self._passes, self._engine = passes, passes.engine
        self._collective = passes.collective
        self._open: ExitStack | None = None
        self._taps: Taps | None = None
        self._epsilons: list[Tensor] = []

    def start(self, direction: Direction, layouts: Layouts) -> None:
        """Tap every forward and backward pass from here on. A compiled module runs eagerly.

        Raises:
            UnsupportedEngineError: If the sequences of a micro-batch cannot be told from one
                another in the outputs of every module.
        """
        self.stop()
        if self._passes.single:
            raise UnsupportedEngineError(_cannot_tell(layouts.unknown))
        with ExitStack() as stack:
            stack.enter_context(eager(self._engine))
            taps = stack.enter_context(
                tapped(self._engine.module, direction, layouts, following=self._passes.following)
            )
            hook = self._engine.module.register_forward_pre_hook(self._begin(taps), prepend=True)
            stack.callback(hook.remove)
            self._open, self._taps = stack.pop_all(), taps

    def stop(self) -> None:
        """Take all hooks off, if there are any."""
        if self._open is not None:
            self._open.close()
        self._open, self._taps, self._epsilons = None, None, []

    def finish(self, batch: TrainedBatch) -> FloatArray:
        """Take the hooks off and return the derivative of each sequence's summed loss, ``(B,)``.

        Collective; equal bits on every rank.

        Raises:
            ValueError: If the step trained on another number of micro-batches.
            UnsupportedEngineError: If a module of this rank has returned what it had not before,
                and the sequences in it cannot be told from one another.
        """
        epsilons, taps = self._epsilons, self._taps
        self.stop()
        if len(epsilons) != len(batch.rows):
            raise ValueError(
                f"in-flight probe: expected the {len(batch.rows)} micro-batches of the step to "
                f"pass through the engine, found {len(epsilons)}"
            )
        numbers = torch.zeros(batch.domains.size, dtype=torch.float64)
        # engine.backward divides the mean loss of a micro-batch by the number of micro-batches.
        scale = batch.rows.size * batch.sequence_length
        for rows, epsilon in zip(torch.from_numpy(batch.rows), epsilons, strict=True):
            if epsilon.grad is not None:
                numbers[rows] = epsilon.grad.cpu() * scale
        unknown = {} if taps is None else taps.unknown
        *along, num_unknown = self._collective.agreed_sum(np.append(numbers, len(unknown)))
        if num_unknown:
            raise UnsupportedEngineError(_cannot_tell(unknown))
        return np.array(along)

    def _begin(self, taps: Taps) -> Any:
        size, device = self._engine.train_micro_batch_size_per_gpu(), self._engine.device

        def begin(_: nn.Module, positional: tuple[Any, ...]) -> None:
            if torch.is_grad_enabled():
                tokens = positional[0] if positional else None
                known = isinstance(tokens, Tensor) and len(tokens) == size
                self._epsilons.append(taps.begin(size, device, tokens if known else None))

        return begin


def _cannot_tell(unknown: Mapping[str, tuple[int, ...]]) -> str:
    some = [f"{name!r} (an output of shape {shape})" for name, shape in unknown.items()]
    modules = ", ".join(some[:3]) + (f" and {len(some) - 3} more" if len(some) > 3 else "")
    return (
        "in-flight probe: expected every module to return the sequences of a micro-batch along an "
        f"axis, found no such axis in {modules or 'a module of another rank'}; measure with probe "
        "type directional or sharded, or train with micro-batches of one sequence"
    )


@final
class InFlightProbe:
    """Measures alignments on the sequences that an optimizer step trains on.

    Args:
        passes: Forward and backward passes on the engine that trains.
        source: Finds each update's direction.
    """

    def __init__(self, passes: ProbePasses, source: AimSource) -> None:
        self._passes = passes
        self._source = source
        self._check = TapsCheck(passes)
        self._taps = TrainingTaps(passes)

    def start(self, update: int, specific: Drawn, apart: Sequence[Drawn]) -> Watch:
        """See ``TrainingProbe``."""
        target = PackedSequences([specific])
        aim = self._source.aim(update, target)
        self._check(aim, target)
        measured = self._measured_apart(aim.direction, apart)
        self._taps.start(aim.direction, self._passes.layouts(target))
        return Watch(measured, aim.squared_norm, aim.energy, aim.preconditioned)

    def finish(self, batch: TrainedBatch) -> FloatArray:
        """See ``TrainingProbe``."""
        return self._taps.finish(batch)

    def close(self) -> None:
        """Take all hooks off, if there are any."""
        self._taps.stop()

    def state_dict(self) -> dict[str, Any]:
        """Return what the next direction depends on."""
        return self._source.state_dict()

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue from ``state``."""
        self._source.load_state_dict(state)

    def _measured_apart(self, direction: Direction, apart: Sequence[Drawn]) -> MeasuredSequences:
        if not apart:
            nothing = np.empty(0, dtype=np.int64)
            return MeasuredSequences(np.empty(0), nothing, nothing)
        packed = PackedSequences(apart)
        found = self._passes.derivatives(packed, direction)
        return MeasuredSequences(found.along, packed.num_targets, packed.sets_of_rows)
