"""What an update holds and what it sends, counted on this rank. Collective throughout."""

import gc
from collections.abc import Callable, Sequence
from typing import Any

import torch

from megadga.probes.protocols import Measurement

from .case import PROBES, Row
from .storages import LiveStorages
from .traffic import Traffic
from .workbench import Workbench


def update_of(bench: Workbench, measurement: Measurement, probe: str) -> Callable[[int], None]:
    """Return what runs a whole update; in flight, with the step that it is measured on."""

    def run(update: int) -> None:
        measurement.prepare(update, bench.trained)
        if probe.startswith("in_flight"):
            bench.train()
        measurement.measure(update)

    return run


def peak_bytes(device: torch.device, warm: Callable[[], Any], run: Callable[[], Any]) -> int:
    """Return the most that is held while ``run`` runs, beyond what was before ``warm``.

    What ``warm`` leaves behind counts.
    """
    gc.collect()
    if device.type == "cuda":
        before = torch.cuda.memory_allocated(device)
        warm()
        gc.collect()
        torch.cuda.reset_peak_memory_stats(device)
        run()
        return torch.cuda.max_memory_allocated(device) - before
    with LiveStorages() as storages:
        warm()
        gc.collect()
        storages.peak = storages.live
        run()
    return storages.peak


def memory_rows(bench: Workbench, probes: Sequence[str] = PROBES) -> list[Row]:
    """Return the peak of an update of each probe, and how it compares with a step's."""
    device, size = bench.engine.device, bench.num_parameter_bytes
    plain = peak_bytes(device, bench.train, bench.train)
    rows: list[Row] = []
    for probe in probes:
        run: list[Callable[[int], None]] = []

        def warm(probe: str = probe, run: list[Callable[[int], None]] = run) -> None:
            run.append(update_of(bench, bench.measurement(probe), probe))
            run[0](0)  # checks the hooks as well, which happens once

        peak = peak_bytes(device, warm, lambda run=run: run[0](1))
        rows.append(
            {
                "probe": probe,
                **bench.case.labels(),
                "parameter_bytes": size,
                "peak_bytes": peak,
                "training_peak_bytes": plain,
                "extra_bytes": peak - plain,
                "extra_in_parameters": (peak - plain) / size,
            }
        )
    return rows


def communication_rows(bench: Workbench) -> list[Row]:
    """Return what an update of each probe sends; of a step that trains as well, what is added."""
    bench.train()
    with Traffic() as plain:
        bench.train()
    rows: list[Row] = []
    for probe in PROBES:
        run = update_of(bench, bench.measurement(probe), probe)
        run(0)
        with Traffic() as traffic:
            run(1)
        if probe.startswith("in_flight"):
            traffic.others.subtract(plain.others)
        rows.append(
            {
                "probe": probe,
                **bench.case.labels(),
                "communicated_bytes": traffic.own.total(),
                "communicated": dict(traffic.own),
                "deepspeed_bytes": traffic.others.total(),
                "deepspeed": dict(traffic.others),
                "training_bytes": plain.others.total(),
                "parameter_bytes": bench.num_parameter_bytes,
            }
        )
    rows[0]["expected_reduce_scatter_bytes"] = expected_sharded_bytes(bench)
    return rows


def expected_sharded_bytes(bench: Workbench) -> int:
    """Return what the sharded probe has to reduce, worked out by hand.

    A float32 gradient of all parameters, each padded to a multiple of the ranks, for every
    micro-batch of the specific set and of each domain.
    """
    ranks, at_once = bench.case.ranks, bench.case.ranks * bench.case.micro_batch
    sizes = [getattr(p, "ds_numel", p.numel()) for p in bench.passes.parameters]
    padded = sum(-(-size // ranks) * ranks for size in sizes)
    (per_domain, specific), num_domains = bench.budget, len(bench.domains)
    of_domain = -(-per_domain // at_once)
    micro_batches = -(-specific // at_once) + num_domains * of_domain
    return 4 * padded * micro_batches
