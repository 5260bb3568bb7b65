"""What AdamW divides a gradient by, in the layout of gradient shards. Knows no probe.

AdamW moves a parameter by ``-lr m / (sqrt(v_hat) + eps)`` with ``v_hat = v / (1 - beta2^t)``, so
to first order its step along a gradient ``g`` lowers a loss with gradient ``h`` by
``lr <h, g / D>`` with ``D = sqrt(v_hat) + eps``.
"""

from dataclasses import dataclass
from typing import Any

import torch
from deepspeed.utils import safe_get_local_optimizer_state
from torch import Tensor, nn

from megadga.errors import UnsupportedEngineError
from megadga.zero.engine import is_partitioned
from megadga.zero.layout import ShardedSum
from megadga.zero.passes import ProbePasses

_MOMENT = "exp_avg_sq"
_PARTITIONED = ("DeepSpeedZeroOptimizer", "DeepSpeedZeroOptimizer_Stage3")
_UNFUSED = "FP16_UnfusedOptimizer"  # also what keeps bf16 under ZeRO-0


def check_moments(engine: Any) -> None:
    """Refuse an optimizer whose second moments are not known to be read right.

    Raises:
        UnsupportedEngineError: If it is none of the Adam family, is wrapped in an unknown way, or
            has groups with other betas or epsilons.
    """
    basic, wrapper = engine.basic_optimizer, engine.optimizer
    if "adam" not in type(basic).__name__.lower():
        raise UnsupportedEngineError(
            "score adam: expected an optimizer with second moments (Adam, AdamW), "
            f"found {type(basic).__name__}"
        )
    known = (*_PARTITIONED, _UNFUSED)
    if wrapper is not basic and type(wrapper).__name__ not in known:
        raise UnsupportedEngineError(
            f"score adam: expected second moments kept by one of {', '.join(known)}, found "
            f'{type(wrapper).__name__} ("torch_adam": true in the optimizer\'s params avoids it)'
        )
    if len({(group["betas"], group["eps"]) for group in basic.param_groups}) > 1:
        raise UnsupportedEngineError(
            "score adam: expected the same betas and eps in every parameter group, found several"
        )


def denominators(passes: ProbePasses) -> Tensor | None:
    """Return this rank's shard of ``D``; None before the optimizer has taken a step.

    It is 0 where the optimizer keeps nothing: in padding, and for parameters that no loss has
    reached. Collective under ZeRO-1 and -2, whose optimizers cut their states elsewhere.
    """
    engine: Any = passes.engine
    rule = _Rule.of(engine)
    if rule is None:
        return None
    if is_partitioned(engine):
        moments = [safe_get_local_optimizer_state(p, _MOMENT) for p in passes.parameters]
        return torch.cat([rule.denominator(m).to(engine.device).flatten() for m in moments])
    if type(engine.optimizer).__name__ in _PARTITIONED:
        return _from_fragments(passes, rule)
    return _from_whole(passes, rule)


@dataclass(frozen=True)
class _Rule:
    """How AdamW makes ``D`` of its second moments after a number of steps, as it counts them."""

    steps: int
    beta: float
    epsilon: float
    bias_correction: bool

    @classmethod
    def of(cls, engine: Any) -> "_Rule | None":
        optimizer = engine.basic_optimizer
        group = optimizer.param_groups[0]
        # One that this wrapper takes with gradients of zero, to have the states made.
        before_training = int(type(engine.optimizer).__name__ == _UNFUSED)
        for state in optimizer.state.values():
            steps = int(state.get("step", group.get("step", 0)))
            if _MOMENT in state and steps > before_training:
                correction = group.get("bias_correction", True)  # FusedAdam's name
                return cls(steps, group["betas"][1], group["eps"], correction)
        return None

    def denominator(self, moment: Tensor) -> Tensor:
        correction = 1.0 - self.beta**self.steps if self.bias_correction else 1.0
        return (moment.float() / correction).sqrt_().add_(self.epsilon)


def _from_fragments(passes: ProbePasses, rule: _Rule) -> Tensor:
    """Collect what ZeRO-1 and -2 keep on each rank: a stretch of some parameters. Collective."""
    device = passes.engine.device
    total = ShardedSum(passes.layout, passes.collective, device=device)
    for index, parameter in reversed(list(enumerate(passes.parameters))):  # see ``ShardedSum``
        values = torch.zeros(parameter.numel(), device=device)
        mapping: Any = parameter._hp_mapping  # pyright: ignore[reportAttributeAccessIssue]
        if mapping is not None:
            address = mapping.lp_fragment_address
            moment = mapping.get_optim_state_fragment(_MOMENT)
            values[address.start :][: address.numel] = rule.denominator(moment).to(device)
        total.add(index, values)
    return total.finish().values


def _from_whole(passes: ProbePasses, rule: _Rule) -> Tensor:
    """Cut this rank's shard out of what ZeRO-0 keeps on every rank."""
    engine: Any = passes.engine
    states, owners = engine.basic_optimizer.state, _state_keys(engine)
    shard = torch.zeros(passes.layout.offsets[-1], device=engine.device)
    for part, parameter in zip(passes.layout.parts(shard), passes.parameters, strict=True):
        state = states.get(owners.get(parameter, parameter), {})
        if _MOMENT in state:
            start = passes.collective.rank * part.numel()
            own = rule.denominator(state[_MOMENT]).flatten()[start:][: part.numel()]
            part[: own.numel()] = own
    return shard


def _state_keys(engine: Any) -> dict[nn.Parameter, Tensor]:
    """Return by which float32 copy the optimizer knows each bf16 parameter; {} if by itself."""
    wrapper = engine.optimizer
    if type(wrapper).__name__ != _UNFUSED:
        return {}
    return {
        parameter: copy
        for group, copies in zip(wrapper.fp16_groups, wrapper.fp32_groups, strict=True)
        for parameter, copy in zip(group, copies, strict=True)
    }
