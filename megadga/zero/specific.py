"""The specific gradient as shards, as it is or preconditioned. Knows no domain and no tap."""

from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch

from megadga.alignment.gradient import GradientShard
from megadga.alignment.packing import PackedSequences
from megadga.errors import UnsupportedEngineError
from megadga.zero.moments import denominators
from megadga.zero.passes import ProbePasses

WithoutMoments = Literal["refuse", "raw"]


@dataclass(frozen=True)
class Preconditioning:
    """Whether the specific gradient is divided by AdamW's denominators.

    Attributes:
        asked: Whether the score asks for it.
        without_moments: What happens while there are none: ``refuse`` or ``raw``.
    """

    asked: bool = False
    without_moments: WithoutMoments = "refuse"


@dataclass(frozen=True, eq=False)
class SpecificGradient:
    """This rank's shard of the direction ``d`` that the specific gradient ``v`` gives.

    Attributes:
        shard: Of ``d``, which is ``v`` or ``v / D``.
        squared_norm: ``|v|^2``.
        slope: ``<v, d>``, the derivative of the specific loss along ``d``.
        length: ``|d|``.
        preconditioned: Whether ``d`` is ``v / D``.
    """

    shard: GradientShard
    squared_norm: float
    slope: float
    length: float
    preconditioned: bool


def specific_gradient(
    passes: ProbePasses, specific: PackedSequences, preconditioning: Preconditioning
) -> SpecificGradient:
    """Measure the gradient of the mean specific loss. Collective.

    Raises:
        UnsupportedEngineError: If preconditioning is asked for, the optimizer has not taken a step
            yet and that is refused.
    """
    gradient = passes.gradient(specific)
    divisor = denominators(passes) if preconditioning.asked else None
    if preconditioning.asked and divisor is None and preconditioning.without_moments == "refuse":
        raise UnsupportedEngineError(
            "score adam: expected an optimizer that has taken a step, found none; "
            "without_moments: raw measures along the specific gradient itself until then"
        )
    shard = gradient
    if divisor is not None:
        # Where there is no denominator there is no gradient either.
        divisor[divisor == 0.0] = torch.inf
        shard = GradientShard(gradient.values / divisor)
    local = (gradient.dot(gradient), gradient.dot(shard), shard.dot(shard))
    squared_norm, slope, squared_length = passes.collective.agreed_sum(np.array(local))
    return SpecificGradient(
        shard=shard,
        squared_norm=float(squared_norm),
        slope=float(slope),
        length=float(np.sqrt(squared_length)),
        preconditioned=divisor is not None,
    )
