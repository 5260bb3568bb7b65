"""Makes sure that taps see all of a module. Knows no domain."""

import math
from typing import final

import torch

from megadga.alignment.packing import PackedSequences
from megadga.errors import UnsupportedEngineError
from megadga.zero.aim import Aim
from megadga.zero.engine import uses_autocast
from megadga.zero.passes import ProbePasses

_TOLERANCE = {torch.float32: 1e-3, torch.bfloat16: 1e-1}


@final
class TapsCheck:
    """Checks once, on the first direction that is measured, that derivatives along it are right.

    Along the direction that its own gradient gives, the derivative of the specific loss is known:
    ``<v, d>``, from the shards. A parameter that a module uses where no tap sees it (in another
    module's forward, say) would be missing from the derivative by as much as it has of ``<v, d>``.

    Args:
        passes: On the engine whose module is checked.
    """

    def __init__(self, passes: ProbePasses) -> None:
        self._passes = passes
        self._done = False

    def __call__(self, aim: Aim, specific: PackedSequences) -> None:
        """Check the taps on the sequences that the direction was measured on. Collective.

        Raises:
            UnsupportedEngineError: If the derivative, or the loss, is another one with taps.
        """
        if self._done or aim.age > 0 or not math.isfinite(aim.slope):
            return
        expected_loss = self._passes.mean_loss(specific)
        found = self._passes.derivatives(specific, aim.direction)
        slope = float(found.along.sum()) / int(specific.num_targets.sum())
        tolerance = max(_TOLERANCE[p.dtype] for p in self._passes.parameters)
        if uses_autocast(self._passes.engine):
            tolerance = _TOLERANCE[torch.bfloat16]
        wrong = abs(slope - aim.slope) > tolerance * math.sqrt(aim.squared_norm) * aim.length
        if wrong or abs(found.loss - expected_loss) > tolerance * abs(expected_loss):
            raise UnsupportedEngineError(
                f"probe: expected a derivative of {aim.slope:.6g} and a loss of "
                f"{expected_loss:.6g} on the specific set, found {slope:.6g} and "
                f"{found.loss:.6g}: the module uses parameters where no hook on the module that "
                "owns them sees it; measure with probe type sharded"
            )
        self._done = True
