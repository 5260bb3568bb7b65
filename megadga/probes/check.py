"""Checks at construction that a probe is exact on this module and loss.

Along the direction given by its own gradient, the derivatives of a loss are known: for each
parameter ``p``, ``<v_p, d_p>``, from the shards. A sequence's derivatives must not depend on the
others of its micro-batch, nor a mean over targets on the division into micro-batches.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, final

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from megadga.arrays import FloatArray
from megadga.errors import MegadgaError, UnsupportedEngineError
from megadga.probes.directions import spread_direction
from megadga.probes.engine import uses_autocast
from megadga.probes.gradients import GradientShard
from megadga.probes.passes import ProbePasses
from megadga.probes.sequences import (
    PackedSequences,
    ProbeSequences,
    ProbeSequenceSampler,
    SequenceSubset,
)
from megadga.probes.state import evaluating


@dataclass(frozen=True)
class _Tolerance:
    """Tolerances for rounding errors.

    Attributes:
        piece: To a parameter's ``<v_p, d_p>``, relative to ``|v_p||d_p|``.
        floor: To that of a parameter with hardly any gradient, relative to ``|v||d|``.
        sequence: To a sequence's derivatives, of all parameters, relative to their norm.
        gradient: To a gradient in other micro-batches, relative to its norm.
        loss: To a loss in other micro-batches, relative to itself.
    """

    piece: float
    floor: float
    sequence: float
    gradient: float
    loss: float


_TOLERANCES = {
    torch.float32: _Tolerance(1e-3, 1e-7, 1e-3, 1e-2, 1e-5),
    torch.bfloat16: _Tolerance(2e-2, 1e-5, 5e-2, 1e-1, 1e-2),
}


def checked_sequences(draws: Sequence[ProbeSequenceSampler], number: int) -> PackedSequences:
    """Return sequences of the first update, of each target and of domains in turns.

    Args:
        draws: One for each target, at least one; all of the same domains.
        number: How many.
    """
    sets: list[ProbeSequences] = []
    for place in range(number):
        turn, of_domain = divmod(place, 2)
        sampler = draws[turn % len(draws)]
        if of_domain:
            nth, domain = divmod(turn, sampler.num_measured)
            drawn = sampler.measured(0, domain)
        else:
            nth, drawn = turn // len(draws), sampler.target(0)
        sets.append(SequenceSubset(drawn, np.array([nth % len(drawn)], dtype=np.int64)))
    return PackedSequences(sets)


@final
class ProbeCheck:
    """Checks a probe once, on a few sequences of the target and of the domains. Collective.

    Args:
        passes: On the engine whose module is checked.
        draws: The sequences that updates are measured on, for each target.
        derivatives: Whether derivatives along directions are used, or gradients alone.

    Raises:
        UnsupportedEngineError: If the module or its loss cannot be measured, or not this way.
    """

    def __init__(
        self, passes: ProbePasses, draws: Sequence[ProbeSequenceSampler], *, derivatives: bool
    ) -> None:
        self._passes = passes
        self._size = passes.engine.train_micro_batch_size_per_gpu()
        world_size = passes.collective.world_size
        per_rank = max(2, self._size, -(-2 * len(draws) // world_size))
        self._sequences = checked_sequences(draws, world_size * per_rank)
        self._derivatives = derivatives
        self._parameters: list[nn.Parameter] = []
        self._unproven = True
        self._overflowed = False
        self._random = False  # in evaluation as well
        self._gradient: GradientShard | None = None
        dtypes = {parameter.dtype for parameter in passes.parameters}
        half = dtypes != {torch.float32} or uses_autocast(passes.engine)
        half |= passes.engine.device.type != "cpu" and _multiplies_coarsely()
        self._tolerance = _TOLERANCES[torch.bfloat16 if half else torch.float32]
        self._run(self._check_loss)
        if derivatives:
            self._run(self._check_parameters)
            self._run(self._check_sequences)
        self._gradient = None

    def refresh(self) -> None:
        """Check again if other parameters train now, or some had no gradient at first. Collective.

        Costs nothing otherwise.

        Raises:
            UnsupportedEngineError: As when it was made.
        """
        others_train = self._parameters is not self._passes.parameters
        if self._derivatives and (self._unproven or others_train):
            self._run(self._check_parameters)
            self._unproven = self._overflowed

    def _run(self, check: Callable[[], None]) -> None:
        """Run a check; an exception of the module's own becomes a refusal."""
        try:
            check()
        except (MegadgaError, ValueError):
            raise
        except Exception as error:
            what = "differentiated along a direction" if self._derivatives else "differentiated"
            advice = "; measure with probe type sharded" if self._derivatives else ""
            reason = " ".join(str(error).split())[:400]
            raise UnsupportedEngineError(
                f"probe: expected a module that can be {what} outside of training, found "
                f"{type(error).__name__}: {reason}{advice}"
            ) from error

    def _check_loss(self) -> None:
        """Check that the loss of a micro-batch is the mean over its targets."""
        if self._is_mean():
            return
        self._passes.watch_targets()
        if self._passes_counted() and self._is_mean():
            return
        raise UnsupportedEngineError(
            "loss: expected the mean over the targets of a micro-batch that are not padding, "
            "found a value for several sequences that is not such a mean of what each has alone; "
            "if it leaves out targets, return (losses, mask) of shape (b, S) or (sums, counts) of "
            "shape (b,); sequences must not depend on each other"
        )

    def _passes_counted(self) -> bool:
        self._passes.mean_loss(self._sequences)
        return self._passes.counts_targets

    def _is_mean(self) -> bool:
        passes, size = self._passes, max(2, self._size)
        with evaluating(passes.engine.module):
            together = passes.mean_loss(self._sequences, micro_batch_size=size)
            if not np.isfinite(together):
                return True  # of a loss that is not finite, nothing can be said
            alone = passes.mean_loss(self._sequences, micro_batch_size=1)
            if not abs(together - alone) <= self._tolerance.loss * abs(alone):
                self._random = self._is_random(together, size)
                return self._random  # the loss differs from call to call
            if self._size == 1:
                return True  # two sequences may not fit into memory with what a gradient needs
            one = passes.gradient(self._sequences, micro_batch_size=1)
            other = self._gradient = passes.gradient(self._sequences)
        difference = (one.values - other.values).double().square().sum()
        numbers = np.array([float(difference), one.dot(one)])
        off, squared = passes.collective.agreed_sum(numbers)
        return not off > self._tolerance.gradient**2 * squared

    def _is_random(self, found: float, size: int) -> bool:
        """Tell whether the loss depends on random numbers, also in evaluation mode."""
        again = self._passes.mean_loss(self._sequences, micro_batch_size=size, seed=1)
        return abs(again - found) > self._tolerance.loss * abs(found)

    def _check_parameters(self) -> None:
        """Check each parameter's derivative against its gradient."""
        passes, names = self._passes, self._passes.names
        self._parameters = passes.parameters
        gradient = passes.gradient(self._sequences)
        parts = passes.layout.parts(gradient.values)
        numbers = np.zeros((3, len(names)))
        direction = spread_direction(passes, gradient)
        for index, (parameter, part) in enumerate(zip(passes.parameters, parts, strict=True)):
            v, stored = part.double(), (part * direction.scale).to(parameter.dtype)
            d = stored.double() / direction.scale
            numbers[:, index] = [float(v @ d), float(v @ v), float(d @ d)]
        expected, squares, lengths = passes.collective.agreed_sum(numbers)
        found = passes.derivatives_per_parameter(self._sequences, direction)
        slopes = found.along.sum(axis=1) / max(1, found.num_targets.sum())
        whole = np.sqrt(squares.sum() * lengths.sum())
        if not np.isfinite(whole):  # as in fp16 until the loss scale has come down
            self._unproven = self._overflowed = True
            return
        self._overflowed = False
        allowed = self._tolerance.piece * np.sqrt(squares * lengths)
        wrong = ~(np.abs(slopes - expected) <= allowed + self._tolerance.floor * whole)
        self._unproven = bool((squares * lengths <= (self._tolerance.floor * whole) ** 2).any())
        if wrong.any():
            worst = int(np.argmax(np.where(wrong, np.abs(slopes - expected), -1.0)))
            raise UnsupportedEngineError(
                f"probe: expected a derivative of {expected[worst]:.6g} along {names[worst]!r}, "
                f"found {slopes[worst]:.6g}{_others(wrong, names)}: the module uses parameters "
                "where no hook on the module that owns them sees it; measure with probe type "
                "sharded"
            )

    def _check_sequences(self) -> None:
        """Check that a sequence's derivatives do not depend on the rest of its micro-batch."""
        passes = self._passes
        if self._size == 1 or passes.single or self._random:
            return
        with evaluating(passes.engine.module):
            gradient = self._gradient or passes.gradient(self._sequences)
            direction = spread_direction(passes, gradient)
            alone = self._of_sequences(direction, 1)
            scale = np.linalg.norm(alone, axis=0)
            for size in sorted({2, self._size}):
                together = self._of_sequences(direction, size)
                off = np.linalg.norm(together - alone, axis=0)
                if (
                    not np.isfinite(scale).all()
                    or (
                        off <= self._tolerance.sequence * np.maximum(scale, 1e-3 * scale.max())
                    ).all()
                ):
                    continue
                row = int(np.argmax(off / np.maximum(scale, 1e-300)))
                worst = int(np.argmax(np.abs(together - alone)[:, row]))
                raise UnsupportedEngineError(
                    f"probe: expected a sequence to have a derivative of {alone[worst, row]:.6g} "
                    f"along {passes.names[worst]!r}, as it has alone, found "
                    f"{together[worst, row]:.6g} in a micro-batch of {size}: the sequences cannot "
                    "be told apart in the outputs of a module, or depend on each other; measure "
                    "with probe type sharded, or with micro-batches of one sequence"
                )

    def _of_sequences(self, direction: Any, size: int) -> FloatArray:
        found = self._passes.derivatives_per_parameter(
            self._sequences, direction, micro_batch_size=size
        )
        return found.along


def _multiplies_coarsely() -> bool:
    """Tell whether float32 matrix products may use fewer bits (TensorFloat32)."""
    return torch.get_float32_matmul_precision() != "highest"


def _others(wrong: NDArray[np.bool_], names: list[str]) -> str:
    """Return the number of further wrong derivatives, as a phrase."""
    more = int(wrong.sum()) - 1
    return f" (and wrong ones along {more} more of {len(names)} parameters)" if more else ""
