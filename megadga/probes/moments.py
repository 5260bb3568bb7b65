"""Mean second moments of AdamW by parameter, whatever ZeRO stage keeps them."""

from typing import Any

import numpy as np
from deepspeed.utils import safe_get_local_optimizer_state
from torch import Tensor, nn

from megadga.arrays import FloatArray
from megadga.probes.collective import ProcessGroupCollective
from megadga.probes.directions import MOMENT, PARTITIONED, MomentRule, state_keys
from megadga.probes.engine import is_partitioned
from megadga.probes.gradients import full_shape


def mean_denominators(
    engine: Any, collective: ProcessGroupCollective, parameters: list[nn.Parameter]
) -> FloatArray:
    """Return ``sqrt(mean v) + epsilon`` of each parameter, by which AdamW divides; shape ``(P,)``.

    The mean over a parameter's elements of the second moments ``v``, corrected for their start at
    0, in place of each element's own, as in Adam-mini (arXiv 2406.16793) by blocks. Infinite
    where the optimizer keeps nothing. Collective under ZeRO 1 to 3: one all-reduce of ``P``
    numbers.

    Args:
        engine: A DeepSpeed engine that ``check_moments`` accepts, after a step.
        collective: Its ranks.
        parameters: Of its module.
    """
    rule = MomentRule.of(engine)
    if rule is None:
        return np.full(len(parameters), np.inf)
    sums = np.array([_local_sum(engine, each) for each in parameters])
    partitioned = is_partitioned(engine) or type(engine.optimizer).__name__ in PARTITIONED
    if partitioned:
        sums = collective.agreed_sum(sums)
    means = sums / np.array([np.prod(full_shape(each)) for each in parameters])
    correction = 1.0 - rule.beta**rule.steps if rule.bias_correction else 1.0
    return np.where(means > 0.0, np.sqrt(means / correction) + rule.epsilon, np.inf)


def _local_sum(engine: Any, parameter: nn.Parameter) -> float:
    """Return the sum of the second moments that this rank keeps of a parameter."""
    found: Tensor | None
    if is_partitioned(engine):
        found = safe_get_local_optimizer_state(parameter, MOMENT)
    elif type(engine.optimizer).__name__ in PARTITIONED:
        mapping: Any = parameter._hp_mapping  # pyright: ignore[reportAttributeAccessIssue]
        found = None if mapping is None else mapping.get_optim_state_fragment(MOMENT)
    else:
        owner = state_keys(engine).get(parameter, parameter)
        found = engine.basic_optimizer.state.get(owner, {}).get(MOMENT)
    return 0.0 if found is None else float(found.double().sum())
