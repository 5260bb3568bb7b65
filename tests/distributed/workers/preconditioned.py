"""Compares preconditioned alignments with float64 and the optimizer's own full states."""

import dataclasses
from pathlib import Path
from typing import Any

import torch
from deepspeed.utils import safe_get_full_optimizer_state
from torch import Tensor, nn

from megadga.errors import UnsupportedEngineError
from megadga.mixers.base import AlignmentNeeds, Alignments
from megadga.mixers.probing import Directional, InFlight, LowRank, Probe
from megadga.probes.directions import Preconditioning
from megadga.probes.factored import FactoredGradient
from megadga.probes.passes import ProbePasses
from tests.distributed.workers.exactness import measured_numbers
from tests.distributed.workers.low_rank import as_vector, bits, pieces
from tests.support.probe_cases import ProbeCase
from tests.support.probes import METHODS
from tests.support.trainings import SEED, Training, start_training

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
RANK = LowRank(rank=2)


def full_denominators(training: Training) -> Tensor:
    """Return AdamW's ``sqrt(v / (1 - beta2^t)) + eps`` of all parameters in one vector.

    Collective. Of the steps that were trained and the settings above; nothing is asked of the
    optimizer but its moments, by DeepSpeed's public function where it has one.
    """
    engine = training.engine
    parameters = [p for p in engine.module.parameters() if p.requires_grad]
    moments = [_full_moment(engine, p).double().flatten() for p in parameters]
    steps = engine.global_steps
    if engine.zero_optimization_stage() == 0 and engine.optimizer is not engine.basic_optimizer:
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
    divisors = full_denominators(training)
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


def along_factors(training: Training, name: str, method: Probe, update: int) -> dict[str, Any]:
    """Measure along factors of ``v / D``; compare with float64 along the same, and with all."""
    source = factored_gradient(training)
    toward = source.direction(update, training.packed_specific(update))
    d, reference = as_vector(pieces(training, toward.direction)), training.reference()
    specific = training.drawn_of_specific(update)
    whole = reference.gradient(specific) / full_denominators(training)
    resumed = factored_gradient(training)
    resumed.load_state_dict(source.state_dict())
    again = resumed.direction(update + 1, training.packed_specific(update + 1))
    measurement = training.measurement(method, NEEDS)
    if name == "in_flight":
        found, domains = training.measured_in_flight(measurement, update)
    else:
        found = measurement.measure(update)
        domains = [training.drawn_of_domain(update, i) for i in range(len(training.domains))]
    gradients = [reference.gradient(tokens) for tokens in domains]
    errors = [
        abs(dot - float(g @ d)) / float(g.norm() * d.norm())
        for dot, g in zip(found.dots, gradients, strict=True)
    ]
    return {
        "probe": f"{name}-low-rank",
        "error": max(errors),
        "energy": toward.energy,
        "true_energy": float(d.square().sum() / whole.square().sum()),
        "best_energy": best_energy(training, whole),
        "age": again.age,
        "kept": bits(training, again.direction) == bits(training, toward.direction),
        "preconditioned": found.preconditioned,
        "numbers": measured_numbers(found),
    }


def factored_gradient(training: Training) -> FactoredGradient:
    passes = ProbePasses(training.engine, loss=training.probed.loss)
    preconditioning = Preconditioning(asked=True)
    return FactoredGradient(passes, RANK, interval=2, seed=SEED, preconditioning=preconditioning)


def best_energy(training: Training, whole: Tensor) -> float:
    """The largest share of its squared norm that as many columns of each matrix can hold."""
    parameters = training.reference().parameters
    held = 0.0
    parts = whole.split([p.numel() for p in parameters])
    for parameter, part in zip(parameters, parts, strict=True):
        shape = parameter.shape
        if len(shape) == 2 and RANK.most * sum(shape) < part.numel():
            values = torch.linalg.svdvals(part.view(shape))
            held += float(values[: RANK.most].square().sum())
        else:
            held += float(part.square().sum())
    return held / float(whole.square().sum())


def results_of(folder: Path, case: ProbeCase) -> list[dict[str, Any]]:
    """Measure before the first step, and after a few."""
    training = start_training(folder, case, checked=True, optimizer=OPTIMIZER)
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
    if case.precision == "fp32":
        for name, method in {
            "directional": Directional(direction=RANK),
            "in_flight": InFlight(direction=RANK),
        }.items():
            found = along_factors(training, name, method, update=3)
            results.append({**dataclasses.asdict(case), "before_a_step": first, **found})
    training.engine.destroy()
    return results
