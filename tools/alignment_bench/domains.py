"""Seconds of an update against the number of domains, of as many sequences. Collective."""

from collections.abc import Callable
from statistics import median

import numpy as np

from megadga.probes.sequences import PackedSequences, ProbeSequenceSampler

from .case import Case, Row
from .cost import Seconds
from .workbench import Workbench

DRAWING = "drawing and reading"
_SHARDED_UP_TO = 64  # domains; its cost is linear in them


def domain_variants(bench: Workbench) -> dict[str, Callable[[], object]]:
    """Return whole updates to time, and what they do before any pass, by ``PROBE/K``."""
    case = bench.case
    variants: dict[str, Callable[[], object]] = {}
    for probe in ("directional", "sharded"):
        for count in case.num_domains:
            if probe == "directional" or count <= _SHARDED_UP_TO:
                measurement = bench.measurement_of(probe, count, case.total_sequences)
                variants[f"{probe}/{count}"] = lambda each=measurement: each.measure(0)
    for count in case.num_domains:
        draws = bench.draws_of(count, case.total_sequences)
        variants[f"{DRAWING}/{count}"] = lambda each=draws: draw_and_read(each, case.micro_batch)
    return variants


def draw_and_read(draws: ProbeSequenceSampler, micro_batch: int) -> None:
    """Draw an update's sequences and read them, as its passes do."""
    packed = PackedSequences(draws.all_measured(0))
    for start in range(0, packed.num_targets.size, micro_batch):
        packed.read(np.arange(start, min(start + micro_batch, packed.num_targets.size)))


def domain_rows(case: Case, seconds: Seconds) -> list[Row]:
    """Return a row a probe and number of domains."""
    rows: list[Row] = []
    for name, own in seconds.items():
        probe, count = name.split("/")
        fewest = seconds[f"{probe}/{min(case.num_domains)}"]
        rows.append(
            {
                "probe": probe,
                **case.labels(),
                "num_domains": int(count),
                "probe_sequences": case.total_sequences,
                "seconds_per_update": median(own),
                "seconds_per_probe_sequence": median(own) / case.total_sequences,
                "ratio_to_fewest": median(a / b for a, b in zip(own, fewest, strict=True)),
            }
        )
    return rows
