"""Trains with DeepSpeed's features for large models, measures, saves and resumes."""

import json
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import deepspeed
import torch

from megadga.errors import UnsupportedEngineError
from megadga.mixers.dga import Dga
from megadga.mixers.static import uniform_weights
from megadga.plugin import MixturePlugin, Sampling
from megadga.probes.engine import loss_scale
from megadga.probes.supported import check_supported
from megadga.probes.weights_only import WeightsOnlyEngine
from megadga.train.ranks import destroy_process_group
from tests.distributed.workers import exactness, low_rank, preconditioned
from tests.distributed.workers.saving import collect, write
from tests.support.engines import fingerprint, full_parameters, init_ranks, settings
from tests.support.probe_cases import ProbeCase
from tests.support.probed_models import hf_llama, llama
from tests.support.probes import METHODS, sized
from tests.support.scale_cases import QUICK, THOROUGH
from tests.support.trainings import SEED, start_training

TAG = "step-00000002"


def main(output: str, folder: str, scratch: str, directions: str, *names: str) -> None:
    init_ranks()
    of_case = {"v": along_v, "all": along_all}[directions]
    cases = {**QUICK, **THOROUGH}
    report: dict[str, Any] = {
        name: {
            **of_case(Path(folder), cases[name]),
            **saved_and_resumed(Path(folder), cases[name], Path(scratch, str(nth))),
        }
        for nth, name in enumerate(names)
        if name in cases
    }
    if "faint" in names:
        report["faint"] = faint(Path(folder))
    if "overflowing" in names:
        report["overflowing"] = overflowing(Path(folder))
    if "refused" in names:  # last: DeepSpeed keeps the groups that it makes
        report["refused"] = refused()
    if torch.distributed.get_rank() == 0:
        Path(output).write_text(json.dumps(report))
    destroy_process_group()


def faint(folder: Path) -> dict[str, float]:
    """Measure a loss whose gradients float16 cannot hold unless they are scaled."""
    fp16 = {"enabled": True, "initial_scale_power": 20}
    given = start_training(folder, ProbeCase("1", "fp16", "llama"), fp16=fp16)
    loss = given.probed.loss
    probed = replace(given.probed, loss=lambda *call: loss(*call) * 2.0**-20)
    training = replace(given, probed=probed)
    results = [exactness.between_steps(training, name, 1) for name in ("sharded", "directional")]
    training.engine.destroy()
    return {each["probe"]: each["errors"]["alignments"] for each in results}


def refused() -> dict[str, str]:
    """What engines are told whose ranks divide matrices or sequences among themselves."""
    initialize: Any = deepspeed.initialize
    given = settings("1", "fp32")
    report: dict[str, str] = {}
    for name, build, config, more in (
        ("sequences", llama, given, {"mesh_param": (2, 2)}),
        ("matrices", hf_llama, {**given, "tensor_parallel": {"autotp_size": 2}}, {}),
    ):
        module = build()
        engine, *_ = initialize(
            model=module, model_parameters=list(module.parameters()), config=config, **more
        )
        try:
            check_supported(engine)
        except UnsupportedEngineError as error:
            report[name] = str(error)
        engine.destroy()
    return report


def overflowing(folder: Path) -> list[list[Any]]:
    """Train in fp16 from a loss scale that overflows, and measure in flight.

    Of each step: the scale, whether parameters have changed, the steps that DeepSpeed has skipped
    so far, and whether the mixture was updated.
    """
    fp16 = {"enabled": True, "initial_scale_power": 20, "hysteresis": 1}
    training = start_training(folder, ProbeCase("1", "fp16", "llama"), fp16=fp16)
    engine, num_domains = training.engine, len(training.domains)
    plugin = MixturePlugin(
        engine,
        training.domains,
        training.specific,
        Dga(uniform_weights(num_domains), 1.0),
        sampling=Sampling(SEED),
        interval=1,
        probe=sized(METHODS["in_flight"], 2, 3),
    )
    steps: list[list[Any]] = []
    for step in range(1, 9):
        before, scale = fingerprint(full_parameters(engine)), loss_scale(engine)
        for tokens in plugin.next_batch().tokens:
            training.train_micro_batch(tokens)
        recorded = plugin.after_step(step)
        changed = fingerprint(full_parameters(engine)) != before
        steps.append([scale, changed, engine.skipped_steps, "update" in recorded])
    plugin.close()
    engine.destroy()
    return steps


def along_v(folder: Path, case: ProbeCase) -> dict[str, Any]:
    """Measure in each way along ``v``."""
    exact = exactness.results_of(folder, case)
    errors = {each["probe"]: max(each["errors"].values()) for each in exact}
    return {"errors": errors, "equal_bits": equal_bits(exact)}


def along_all(folder: Path, case: ProbeCase) -> dict[str, Any]:
    """Measure in each way along ``v``, ``v / D`` and factors of ``v``."""
    exact = along_v(folder, case)
    adam = preconditioned.results_of(folder, case)
    factored = low_rank.errors_along_factors(folder, case)
    others = equal_bits([*adam, *factored])
    return {
        "errors": exact["errors"],
        "errors along v / D": {each["probe"]: each["error"] for each in adam},
        "errors along factors": {each["probe"]: each["error"] for each in factored},
        "equal_bits": [a and b for a, b in zip(exact["equal_bits"], others, strict=True)],
    }


def equal_bits(results: list[dict[str, Any]]) -> list[bool]:
    """Whether each rank has measured the first one's numbers. Collective."""
    by_rank: list[Any] = [None] * torch.distributed.get_world_size()
    torch.distributed.all_gather_object(by_rank, [each["numbers"] for each in results])
    return [of_rank == by_rank[0] for of_rank in by_rank]


def saved_and_resumed(folder: Path, case: ProbeCase, checkpoints: Path) -> dict[str, Any]:
    """Save after two steps, train a third, and train it again after loading."""
    training = start_training(folder, case)
    for _ in range(2):
        training.train_step()
    state = {"plugin": training.batches.state_dict()}
    write(checkpoints, collect(WeightsOnlyEngine(training.engine), state, copies=True))
    trained = [fingerprint(full_parameters(training.engine))]
    training.train_step()
    trained.append(fingerprint(full_parameters(training.engine)))
    training.engine.destroy()
    torch.distributed.barrier()
    again = start_training(folder, case)
    _, loaded = WeightsOnlyEngine(again.engine).load_checkpoint(str(checkpoints), TAG)
    again.batches.load_state_dict(loaded["plugin"])
    resumed = [fingerprint(full_parameters(again.engine))]
    again.train_step()
    resumed.append(fingerprint(full_parameters(again.engine)))
    again.engine.destroy()
    return {"trained": trained, "resumed": resumed}


if __name__ == "__main__":
    main(*sys.argv[1:])
