"""Measures domains against their own mean in both ways that see norms; then users' modules."""

import json
import sys
from pathlib import Path
from typing import Any

import torch

from megadga.mixers.base import AlignmentNeeds, Alignments
from megadga.mixers.probing import Directional, Probe, Sharded
from megadga.train.ranks import destroy_process_group
from tests.distributed.workers import foreign
from tests.distributed.workers.exactness import measured_numbers
from tests.support.engines import init_ranks
from tests.support.probe_cases import ProbeCase
from tests.support.references import Reference
from tests.support.trainings import Training, start_training

NEEDS = AlignmentNeeds(norms=True, target="domains")
METHODS: dict[str, Probe] = {"sharded": Sharded(), "directional": Directional()}
UPDATE = 3


def main(output: str, folder: str, kind: str) -> None:
    init_ranks()
    kinds = (kind, f"{kind}-released") if kind == "3" else (kind,)
    report: dict[str, Any] = {"among": {each: results_of(Path(folder), each) for each in kinds}}
    # What follows needs two ranks too, and is put into the process group that there is.
    report["foreign"] = foreign.results_of(Path(folder), kind)
    if torch.distributed.get_rank() == 0:
        Path(output).write_text(json.dumps(report))
    destroy_process_group()


def results_of(folder: Path, kind: str) -> dict[str, Any]:
    """Measure in each way under one kind of ZeRO. Collective."""
    training = start_training(folder, ProbeCase(kind, "fp32"))
    training.train_step()
    found = {
        name: training.measurement(method, NEEDS).measure(UPDATE)
        for name, method in METHODS.items()
    }
    reference = training.reference()
    errors = {name: largest_error(each, reference, training) for name, each in found.items()}
    numbers = {name: measured_numbers(each) for name, each in found.items()}
    everyone: list[Any] = [None] * torch.distributed.get_world_size()
    torch.distributed.all_gather_object(everyone, numbers)
    training.engine.destroy()
    return {
        "errors": errors,
        "equal_bits": [of_rank == everyone[0] for of_rank in everyone],
        "dots": {name: each.dots.tolist() for name, each in found.items()},
        "scale": scale(found),
    }


def largest_error(found: Alignments, reference: Reference, training: Training) -> float:
    """The largest deviation from float64, relative to |g_i||v| (or |g_i|^2), with v the mean."""
    domains = range(len(training.domains))
    gradients = [reference.gradient(training.drawn_of_domain(UPDATE, i)) for i in domains]
    v = torch.stack(gradients).mean(0)
    assert found.squared_norms is not None
    errors = [abs(found.specific_squared_norm / float(v @ v) - 1.0)]
    for g, dot, square in zip(gradients, found.dots, found.squared_norms, strict=True):
        errors.append(abs(dot - float(g @ v)) / float(g.norm() * v.norm()))
        errors.append(abs(square / float(g @ g) - 1.0))
    return max(errors)


def scale(found: dict[str, Alignments]) -> list[float]:
    """``|g_i||v|`` of each domain, as measured."""
    sharded = found["sharded"]
    assert sharded.squared_norms is not None
    return ((sharded.squared_norms * sharded.specific_squared_norm) ** 0.5).tolist()


if __name__ == "__main__":
    main(*sys.argv[1:])
