"""Trains with DeepSpeed's features for large models, measures, saves and resumes."""

import json
import sys
from pathlib import Path
from typing import Any

import torch

from megadga.mixers.dga import Dga
from megadga.mixers.static import uniform_weights
from megadga.plugin import MixturePlugin, Sampling
from megadga.probes.engine import loss_scale
from megadga.probes.weights_only import WeightsOnlyEngine
from megadga.train.ranks import destroy_process_group
from tests.distributed.workers import exactness, preconditioned
from tests.distributed.workers.saving import collect, write
from tests.support.engines import fingerprint, full_parameters, init_ranks
from tests.support.probe_cases import ProbeCase
from tests.support.probes import METHODS, sized
from tests.support.scale_cases import QUICK, ScaleCase, thorough_cases
from tests.support.trainings import SEED, start_training

TAG = "step-00000002"


def main(output: str, folder: str, scratch: str, *names: str) -> None:
    init_ranks()
    cases = {**QUICK, **thorough_cases(Path(scratch))}
    report = {
        name: results_of(Path(folder), cases[name], Path(scratch, str(nth)))
        for nth, name in enumerate(names)
        if name in cases
    }
    if "overflowing" in names:
        report["overflowing"] = overflowing(Path(folder))
    if torch.distributed.get_rank() == 0:
        Path(output).write_text(json.dumps(report))
    destroy_process_group()


def overflowing(folder: Path) -> dict[str, Any]:
    """Train in fp16 from a loss scale that overflows; measure beside it, in flight and between.

    Of each step: the scale, the gradient's norm, whether parameters have changed, and what the
    plugin has recorded of an update.
    """
    fp16 = {"enabled": True, "initial_scale_power": 20, "hysteresis": 1}
    case = ProbeCase("1", "fp16", "llama")
    steps: dict[str, Any] = {}
    for name in ("directional", "in_flight"):
        training = start_training(folder, case, fp16=fp16)
        engine, num_domains = training.engine, len(training.domains)
        plugin = MixturePlugin(
            engine,
            training.domains,
            training.specific,
            Dga(uniform_weights(num_domains), 1.0),
            sampling=Sampling(SEED),
            interval=1,
            probe=sized(METHODS[name], 2, 3),
        )
        steps[name] = []
        for step in range(1, 11):
            before, scale = fingerprint(full_parameters(engine)), loss_scale(engine)
            for tokens in plugin.next_batch().tokens:
                training.train_micro_batch(tokens)
            recorded = plugin.after_step(step)
            changed = fingerprint(full_parameters(engine)) != before
            steps[name].append([scale, changed, engine.skipped_steps, "update" in recorded])
        plugin.close()
        engine.destroy()
    return steps


def results_of(folder: Path, of: ScaleCase, checkpoints: Path) -> dict[str, Any]:
    """Measure in each way, along ``v`` and ``v / D``; then save, train on, and resume."""
    exact = exactness.results_of(folder, of.case, **of.more)
    adam = preconditioned.results_of(folder, of.case, **of.more)
    by_rank: list[Any] = [None] * torch.distributed.get_world_size()
    torch.distributed.all_gather_object(by_rank, [each["numbers"] for each in (*exact, *adam)])
    return {
        "errors": {each["probe"]: max(each["errors"].values()) for each in exact},
        "errors along v / D": {each["probe"]: each["error"] for each in adam},
        "equal_bits": [of_rank == by_rank[0] for of_rank in by_rank],
        **saved_and_resumed(folder, of, checkpoints),
    }


def saved_and_resumed(folder: Path, of: ScaleCase, checkpoints: Path) -> dict[str, Any]:
    """Save after two steps, train a third, and train it again after loading."""
    training = start_training(folder, of.case, **of.more)
    for _ in range(2):
        training.train_step()
    state = {"plugin": training.batches.state_dict()}
    write(checkpoints, collect(WeightsOnlyEngine(training.engine), state, copies=True))
    trained = [fingerprint(full_parameters(training.engine))]
    training.train_step()
    trained.append(fingerprint(full_parameters(training.engine)))
    training.engine.destroy()
    torch.distributed.barrier()
    again = start_training(folder, of.case, **of.more)
    _, loaded = WeightsOnlyEngine(again.engine).load_checkpoint(str(checkpoints), TAG)
    again.batches.load_state_dict(loaded["plugin"])
    resumed = [fingerprint(full_parameters(again.engine))]
    again.train_step()
    resumed.append(fingerprint(full_parameters(again.engine)))
    again.engine.destroy()
    return {"trained": trained, "resumed": resumed}


if __name__ == "__main__":
    main(*sys.argv[1:])
