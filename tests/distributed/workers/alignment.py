"""Measures alignments in every way on one number of ranks, and says how far off they are."""

import json
import sys
from pathlib import Path
from typing import Any

import torch

from megadga.train.ranks import destroy_process_group
from tests.distributed.workers import exactness, gathering, low_rank, preconditioned
from tests.support.engines import init_ranks
from tests.support.probe_cases import (
    architecture_cases,
    exactness_cases,
    factored_cases,
    gathered_cases,
    preconditioned_cases,
    wide_kinds,
)

PARTS = ("exactness", "preconditioned", "factored", "wide", "gathered")


def main(output: str, folder: str, family: str) -> None:
    root = Path(folder)
    world_size = init_ranks()
    results: dict[str, list[dict[str, Any]]] = {name: [] for name in PARTS}
    for case in (*exactness_cases(world_size, family), *architecture_cases(world_size, family)):
        results["exactness"] += exactness.results_of(root, case)
    for case in preconditioned_cases(world_size, family):
        results["preconditioned"] += preconditioned.results_of(root, case)
    for case in factored_cases(world_size, family):
        results["factored"] += low_rank.errors_along_factors(root, case)
    for kind in wide_kinds(world_size, family):
        results["wide"] += low_rank.results_of_wide(root, kind)
    for case in gathered_cases(world_size, family):
        results["gathered"].append(gathering.results_of(root, case))
    everyone: list[Any] = [None] * world_size
    numbers = {name: [each["numbers"] for each in found] for name, found in results.items()}
    torch.distributed.all_gather_object(everyone, numbers)
    if torch.distributed.get_rank() == 0:
        report = {**results, "equal_bits": [of_rank == everyone[0] for of_rank in everyone]}
        Path(output).write_text(json.dumps(report))
    destroy_process_group()


if __name__ == "__main__":
    main(*sys.argv[1:])
