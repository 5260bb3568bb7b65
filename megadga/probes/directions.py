"""The direction of an update: the specific gradient, sharded, optionally preconditioned."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol, final

import numpy as np
import torch
from deepspeed.utils import safe_get_local_optimizer_state
from torch import Tensor, nn

from megadga.errors import UnsupportedEngineError
from megadga.mixers.probing import WithoutMoments
from megadga.probes.engine import is_partitioned
from megadga.probes.gathering import GatheredDirection, gathered
from megadga.probes.gradients import (
    Direction,
    GradientShard,
    ResidentDirection,
    ShardedSum,
    storage_scale,
)
from megadga.probes.passes import ProbePasses
from megadga.probes.sequences import PackedSequences


def spread_direction(passes: ProbePasses, shard: GradientShard) -> Direction:
    """Return the direction whose shards the ranks hold, in the parameters' own dtypes.

    Collective.
    """
    (squared,) = passes.collective.agreed_sum(np.array([shard.dot(shard)]))
    scale = storage_scale(passes.parameters, float(np.sqrt(squared)))
    parts = dict(zip(passes.parameters, passes.layout.parts(shard.values), strict=True))
    own = {
        parameter: (part if scale == 1.0 else part * scale).to(parameter.dtype)
        for parameter, part in parts.items()
    }
    if is_partitioned(passes.engine):
        return GatheredDirection(own, passes.collective, passes.piece_order, scale=scale)
    return ResidentDirection(gathered(list(own), own, passes.collective), scale=scale)


MOMENT = "exp_avg_sq"
"""Name of the second moments in Adam's states."""


PARTITIONED = ("DeepSpeedZeroOptimizer", "DeepSpeedZeroOptimizer_Stage3")
"""DeepSpeed's optimizers of which each rank keeps a part of the states."""


_UNFUSED = "FP16_UnfusedOptimizer"  # also what keeps bf16 under ZeRO-0


def check_moments(engine: Any, *, needed_by: str = "score adam") -> None:
    """Refuse optimizers whose second moments are not known to be read correctly.

    Args:
        engine: DeepSpeed's.
        needed_by: What reads them, for the error.

    Raises:
        UnsupportedEngineError: If it is none of the Adam family, is wrapped in an unknown way, has
            parameters in another order than its states, or groups with other betas or epsilons.
    """
    basic, wrapper = engine.basic_optimizer, engine.optimizer
    if "adam" not in type(basic).__name__.lower():
        raise UnsupportedEngineError(
            f"{needed_by}: expected an optimizer with second moments (Adam, AdamW), "
            f"found {type(basic).__name__}"
        )
    known = (*PARTITIONED, _UNFUSED)
    if wrapper is not basic and type(wrapper).__name__ not in known:
        raise UnsupportedEngineError(
            f"{needed_by}: expected second moments kept by one of {', '.join(known)}, found "
            f'{type(wrapper).__name__} ("torch_adam": true in the optimizer\'s params avoids it)'
        )
    if getattr(wrapper, "round_robin_gradients", False):
        # DeepSpeed's links from parameters to their states ignore the order that it makes.
        raise UnsupportedEngineError(
            f"{needed_by}: expected zero_optimization.round_robin_gradients false, found true"
        )
    if len({(group["betas"], group["eps"]) for group in basic.param_groups}) > 1:
        raise UnsupportedEngineError(
            f"{needed_by}: expected the same betas and eps in every parameter group, found several"
        )


def denominators(passes: ProbePasses) -> Tensor | None:
    """Return this rank's shard of ``D``; None before the optimizer has taken a step.

    It is 0 where the optimizer keeps nothing: in padding, and for parameters that no loss has
    reached. Collective under ZeRO-1 and -2, whose optimizers cut their states elsewhere.
    """
    engine: Any = passes.engine
    rule = MomentRule.of(engine)
    if rule is None:
        return None
    if is_partitioned(engine):
        moments = [safe_get_local_optimizer_state(p, MOMENT) for p in passes.parameters]
        return torch.cat([rule.denominator(m).to(engine.device).flatten() for m in moments])
    if type(engine.optimizer).__name__ in PARTITIONED:
        return _from_fragments(passes, rule)
    return _from_whole(passes, rule)


@dataclass(frozen=True)
class MomentRule:
    """How AdamW computes ``D`` from its second moments after a number of steps.

    Attributes:
        steps: That it has taken.
        beta: Decay of the second moments.
        epsilon: Added to their root.
        bias_correction: Whether moments are divided by ``1 - beta ** steps``.
    """

    steps: int
    beta: float
    epsilon: float
    bias_correction: bool

    @classmethod
    def of(cls, engine: Any) -> "MomentRule | None":
        """Return that of an engine's optimizer; None before it has taken a step."""
        optimizer = engine.basic_optimizer
        group = optimizer.param_groups[0]
        # One that this wrapper takes with gradients of zero, to have the states made.
        before_training = int(type(engine.optimizer).__name__ == _UNFUSED)
        for state in optimizer.state.values():
            steps = int(state.get("step", group.get("step", 0)))
            if MOMENT in state and steps > before_training:
                correction = group.get("bias_correction", True)  # FusedAdam's name
                return cls(steps, group["betas"][1], group["eps"], correction)
        return None

    def denominator(self, moment: Tensor) -> Tensor:
        """Return what AdamW divides by."""
        correction = 1.0 - self.beta**self.steps if self.bias_correction else 1.0
        return (moment.float() / correction).sqrt_().add_(self.epsilon)


def _from_fragments(passes: ProbePasses, rule: MomentRule) -> Tensor:
    """Collect ``D`` from ZeRO-1 and -2, where ranks have fragments of parameters. Collective."""
    engine: Any = passes.engine
    device = engine.device
    # Otherwise done by the first step, which a probe in flight comes before in a resumed run.
    engine.optimizer._lazy_init_hp_params_optimizer_state()
    total = ShardedSum(passes.layout, passes.collective, device=device)
    for index, parameter in reversed(list(enumerate(passes.parameters))):  # see ``ShardedSum``
        values = torch.zeros(parameter.numel(), device=device)
        mapping: Any = parameter._hp_mapping  # pyright: ignore[reportAttributeAccessIssue]
        if mapping is not None:
            address = mapping.lp_fragment_address
            moment = mapping.get_optim_state_fragment(MOMENT)
            values[address.start :][: address.numel] = rule.denominator(moment).to(device)
        total.add(index, values)
    return total.finish().values


def _from_whole(passes: ProbePasses, rule: MomentRule) -> Tensor:
    """Return this rank's shard of ``D`` under ZeRO-0, where every rank has all of it."""
    engine: Any = passes.engine
    states, owners = engine.basic_optimizer.state, state_keys(engine)
    shard = torch.zeros(passes.layout.offsets[-1], device=engine.device)
    for part, parameter in zip(passes.layout.parts(shard), passes.parameters, strict=True):
        state = states.get(owners.get(parameter, parameter), {})
        if MOMENT in state:
            start = passes.collective.rank * part.numel()
            own = rule.denominator(state[MOMENT]).flatten()[start:][: part.numel()]
            part[: own.numel()] = own
    return shard


def state_keys(engine: Any) -> dict[nn.Parameter, Tensor]:
    """Map bf16 parameters to the optimizer's float32 copies; {} if it has none."""
    wrapper = engine.optimizer
    if type(wrapper).__name__ != _UNFUSED:
        return {}
    return {
        parameter: copy
        for group, copies in zip(wrapper.fp16_groups, wrapper.fp32_groups, strict=True)
        for parameter, copy in zip(group, copies, strict=True)
    }


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
        length: ``|d|``.
        preconditioned: Whether ``d`` is ``v / D``.
    """

    shard: GradientShard
    squared_norm: float
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
    local = (gradient.dot(gradient), shard.dot(shard))
    squared_norm, squared_length = passes.collective.agreed_sum(np.array(local))
    return SpecificGradient(
        shard=shard,
        squared_norm=float(squared_norm),
        length=float(np.sqrt(squared_length)),
        preconditioned=divisor is not None,
    )


@dataclass(frozen=True, eq=False)
class UpdateDirection:
    """A direction ``d`` and its properties.

    Attributes:
        direction: ``d``, in pieces.
        squared_norm: ``|v|^2`` of the specific gradient; an estimate if ``d`` holds a part of it.
        length: ``|d|``.
        energy: Share that ``d`` holds of the squared norm of what it was factored from (``v``, or
            ``v / D``), in ``[0, 1]``; for ``v`` an estimate below 1.
        age: Updates since it was measured.
        preconditioned: Whether ``d`` is ``v`` divided by AdamW's denominators.
    """

    direction: Direction
    squared_norm: float
    length: float
    energy: float = 1.0
    age: int = 0
    preconditioned: bool = False


class DirectionSource(Protocol):
    """Finds the direction of an update."""

    def direction(self, update: int, specific: PackedSequences) -> UpdateDirection:
        """Return the direction of an update. Collective; see each source for the memory."""
        ...

    def state_dict(self) -> dict[str, Any]:
        """Return what the next direction depends on: tensors and numbers, equal on every rank."""
        ...

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore ``state``."""
        ...


@final
class WholeGradient:
    """Takes the specific gradient itself, or preconditioned by AdamW's second moments.

    Memory: a shard, and under ZeRO 0-2 one whole gradient of the parameters' dtype.

    Args:
        passes: Measure it.
        preconditioning: Whether it is divided by AdamW's denominators.
    """

    def __init__(self, passes: ProbePasses, preconditioning: Preconditioning) -> None:
        self._passes = passes
        self._preconditioning = preconditioning

    def direction(self, update: int, specific: PackedSequences) -> UpdateDirection:  # noqa: ARG002  (no memory)
        """See ``DirectionSource``."""
        found = specific_gradient(self._passes, specific, self._preconditioning)
        return UpdateDirection(
            direction=spread_direction(self._passes, found.shard),
            squared_norm=found.squared_norm,
            length=found.length,
            preconditioned=found.preconditioned,
        )

    def state_dict(self) -> dict[str, Any]:
        """Return nothing: each update's direction is measured anew."""
        return {}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Do nothing: there is no state."""
