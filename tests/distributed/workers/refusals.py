"""Registers the plugin with what is not supported; notes what it says."""

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import deepspeed
from deepspeed.moe.layer import MoE
from deepspeed.pipe import PipelineModule
from torch import nn

from megadga.errors import UnsupportedEngineError
from megadga.mixers.base import AlignmentNeeds
from megadga.mixers.probing import InFlight, Probe, Sharded
from megadga.plugin import MixturePlugin, Sampling
from megadga.probes.supported import check_supported
from megadga.train.ranks import destroy_process_group
from tests.distributed.workers import exactness
from tests.support.engines import build_engine, init_ranks, settings
from tests.support.probe_cases import ProbeCase
from tests.support.probed_models import mixtral, small
from tests.support.probes import METHODS
from tests.support.schedulers import FrozenProbing
from tests.support.shards import open_sets
from tests.support.trainings import Training, start_training

UNTESTED: dict[str, dict[str, Any]] = {
    "activation_checkpointing": settings(
        "0", "fp32", activation_checkpointing={"cpu_checkpointing": True}
    ),
    "torch_autocast.dtype": settings(
        "1", "fp32", torch_autocast={"enabled": True, "dtype": "float16"}
    ),
    "zero_optimization.zero_quantized_gradients": settings(
        "3", "fp32", zero_optimization={"stage": 3, "zero_quantized_gradients": True}
    ),
}


def complaint_of(act: Callable[[], Any]) -> str:
    try:
        act()
    except (UnsupportedEngineError, ValueError) as error:
        return f"{type(error).__name__}: {error}"
    return ""


def refusal(
    folder: Path,
    config: dict[str, Any],
    build: Callable[[], nn.Module] = small,
    **compiled: Any,
) -> str:
    """What an engine's settings are answered; with options of DeepSpeed's, it is compiled."""
    domains, specific = open_sets(folder)
    engine = build_engine(build, config)
    if compiled:
        engine.compile(backend="aot_eager", **compiled)
    sampling, scheduler = Sampling(seed=5), FrozenProbing(len(domains))
    found = complaint_of(
        lambda: MixturePlugin(engine, domains, specific, scheduler, sampling=sampling)
    )
    engine.destroy()
    return found


def of_settings(folder: Path) -> dict[str, str]:
    messages = {name: refusal(folder, config) for name, config in UNTESTED.items()}
    messages["compiled_autograd_enabled"] = refusal(
        folder, settings("0", "fp32"), compiled_autograd_enabled=True
    )
    messages["leaf module"] = refusal(folder, settings("3", "fp32"), mixtral)
    messages["nothing"] = refusal(folder, settings("0", "fp32", fp16={"enabled": False}))
    return messages


def of_parallelism() -> dict[str, str]:
    """What engines are told whose layers or stages DeepSpeed divides among ranks."""
    initialize: Any = deepspeed.initialize
    settings_of_all = settings("0", "fp32")
    experts = MoE(hidden_size=8, expert=nn.Linear(8, 8), num_experts=2, ep_size=1)
    stages = PipelineModule([nn.Linear(8, 8)], num_stages=1, loss_fn=nn.MSELoss())
    engines = {
        name: initialize(
            model=module, model_parameters=list(module.parameters()), config=settings_of_all
        )[0]
        for name, module in {"experts": experts, "stages": stages}.items()
    }
    return {
        name: complaint_of(lambda e=engine: check_supported(e)) for name, engine in engines.items()
    }


def of_hidden_parameters(folder: Path) -> dict[str, str]:
    """Measure a model that multiplies by its tied matrix in passing, in every way."""
    training = start_training(folder, ProbeCase("1", "fp32", "small-hidden"))

    def measure(method: Probe) -> None:
        measurement = training.measurement(method)
        if isinstance(method, InFlight):
            training.measured_in_flight(measurement, 0)
        else:
            measurement.measure(0)

    return {name: complaint_of(lambda m=m: measure(m)) for name, m in METHODS.items()}


def of_unusual_models(folder: Path) -> dict[str, dict[str, Any]]:
    """How far off measurements are of models whose sequences lie in unusual places."""
    report: dict[str, dict[str, Any]] = {}
    for name in ("packed-row", "mixtral", "routed", "out-of-sight"):
        training = start_training(folder, ProbeCase("1", "fp32", name, "examples"))
        training.train_step()
        try:
            training.measurement(InFlight())  # the first one: it is checked
        except UnsupportedEngineError as error:
            in_flight: Any = str(error)
        else:
            in_flight = exactness.in_flight(training, update=0)["errors"]["alignments"]
        found = exactness.between_steps(training, "directional", update=0)["errors"]
        report[name] = {**found, "in_flight": in_flight}
        training.engine.destroy()
    return report


def of_contradictions(folder: Path) -> dict[str, str]:
    training = start_training(folder, ProbeCase("0", "fp32"))
    sgd = {"type": "SGD", "params": {"lr": 1e-2}}
    without_moments = start_training(
        folder, ProbeCase("1", "fp32"), optimizer=sgd, zero_allow_untested_optimizer=True
    )
    preconditioned = AlignmentNeeds(preconditioned=True)

    def asked(of: Training, method: Probe, needs: AlignmentNeeds) -> str:
        return complaint_of(lambda: of.measurement(method, needs))

    return {
        "norms in flight": asked(training, InFlight(), AlignmentNeeds(norms=True)),
        "SGD": asked(without_moments, Sharded(), preconditioned),
    }


def main(output: str, folder: str) -> None:
    init_ranks()
    root = Path(folder)
    report = {
        "hidden": of_hidden_parameters(root),
        "unusual": of_unusual_models(root),
        "contradictions": of_contradictions(root),
        "settings": of_settings(root),
        "parallelism": of_parallelism(),
    }
    Path(output).write_text(json.dumps(report))
    destroy_process_group()


if __name__ == "__main__":
    main(*sys.argv[1:])
