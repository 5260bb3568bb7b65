"""Compares preconditioned alignments with float64 and the optimizer's own full states."""

import dataclasses
from pathlib import Path
from typing import Any

import torch
from deepspeed.utils import safe_get_full_optimizer_state
from torch import Tensor, nn

from megadga.errors import UnsupportedEngineError
from megadga.mixers.base import AlignmentNeeds, Alignments
from tests.distributed.workers.exactness import measured_numbers
from tests.support.probe_cases import ProbeCase
from tests.support.probes import METHODS
from tests.support.trainings import Training, start_training

NEEDS = AlignmentNeeds(preconditioned=True)
STEPS = 3
BETA2 = 0.9
# As large as many second moments' roots are here, so that it cannot be forgotten.
EPSILON = 1e-3
OPTIMIZER = {
    "type": "AdamW",
    "params": {"lr": 1e-2, "betas": [0.8, BETA2], "eps": EPSILON, "torch_adam": True},
}
WAYS = ("sharded", "directional", "in_flight")


def full_denominators(engine: Any) -> Tensor:
    """Return AdamW's ``sqrt(v / (1 - beta2^t)) + eps`` of all parameters in one vector.

    Collective. Of the steps that were trained and the settings above; nothing is asked of the
    optimizer but its moments, by DeepSpeed's public function where it has one.
    """
    parameters = [p for p in engine.module.parameters() if p.requires_grad]
    moments = [_full_moment(engine, p).double().flatten() for p in parameters]
    steps = STEPS
    if engine.zero_optimization_stage() == 0 and engine.bfloat16_enabled():
        steps += 1  # DeepSpeed takes one without gradients, which AdamW counts like any other
    return (torch.cat(moments) / (1.0 - BETA2**steps)).sqrt() + EPSILON


def _full_moment(engine: Any, parameter: nn.Parameter) -> Tensor:
    if engine.zero_optimization_stage() > 0:
        moment = safe_get_full_optimizer_state(parameter, "exp_avg_sq")
        assert moment is not None
        return moment
    # Under ZeRO-0 in bf16 the optimizer has float32 copies: the one that rounds to the parameter.
    for owner, state in engine.basic_optimizer.state.items():
        if owner.shape == parameter.shape and torch.equal(owner.to(parameter.dtype), parameter):
            return state["exp_avg_sq"]
    return torch.zeros(parameter.shape)  # no loss reaches it


def largest_error(training: Training, name: str, update: int) -> tuple[float, Alignments]:
    """Measure by one way; return the largest error relative to |g_i||v/D|, and what was found."""
    divisors = full_denominators(training.engine)
    reference, specific = training.reference(), training.drawn_of_specific(update)
    measurement = training.measurement(METHODS[name], NEEDS)
    if name == "in_flight":
        found, domains = training.measured_in_flight(measurement, update)
    else:
        found = measurement.measure(update)
        domains = [training.drawn_of_domain(update, i) for i in range(len(training.domains))]
    v = reference.gradient(specific)
    d = v / divisors
    errors = [abs(found.specific_squared_norm / float(v @ v) - 1.0)]
    for dot, tokens in zip(found.dots, domains, strict=True):
        g = reference.gradient(tokens)
        errors.append(abs(dot - float(g @ d)) / float(g.norm() * d.norm()))
    return max(errors), found


def before_a_step(training: Training) -> dict[str, Any]:
    """Ask for preconditioning when there are no moments yet: refused, or measured raw."""
    refusals: dict[str, str] = {}
    for name in WAYS:
        measurement = training.measurement(METHODS[name], NEEDS)
        try:
            if name == "in_flight":
                training.measured_in_flight(measurement, 0)
            else:
                measurement.measure(0)
            refusals[name] = ""
        except UnsupportedEngineError as error:
            refusals[name] = str(error)
    plain = training.measurement(METHODS["sharded"]).measure(0)
    raw = training.measurement(METHODS["sharded"], NEEDS, raw=True).measure(0)
    return {
        "refusals": refusals,
        "raw": raw.dots.tolist(),
        "plain": plain.dots.tolist(),
        "preconditioned": raw.preconditioned,
    }


def results_of(folder: Path, case: ProbeCase) -> list[dict[str, Any]]:
    """Measure before the first step, and after a few."""
    training = start_training(folder, case, optimizer=OPTIMIZER)
    first = before_a_step(training)
    for _ in range(STEPS):
        training.train_step()
    results: list[dict[str, Any]] = []
    for name in WAYS:
        error, found = largest_error(training, name, update=2)
        results.append(
            {
                **dataclasses.asdict(case),
                "probe": name,
                "error": error,
                "preconditioned": found.preconditioned,
                "before_a_step": first,
                "numbers": measured_numbers(found),
            }
        )
    training.engine.destroy()
    return results
