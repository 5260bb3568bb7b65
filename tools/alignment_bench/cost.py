"""Seconds of every probe against plain training, in turns. Collective throughout."""

import time
from collections.abc import Callable, Iterator, Mapping
from itertools import count
from statistics import median

import torch
import torch.distributed as dist

from megadga.mixers.probing import LowRank
from megadga.probes.directions import (
    Preconditioning,
    UpdateDirection,
    WholeGradient,
    specific_gradient,
)
from megadga.probes.in_flight import TrainingHooks
from megadga.probes.low_rank import LowRankGradient
from megadga.probes.sequences import PackedSequences

from .case import Case, Row
from .workbench import Workbench

PLAIN = "plain training"
AGAIN = "plain training again"
Seconds = dict[str, list[float]]


def time_rounds(
    variants: Mapping[str, Callable[[], object]], rounds: int, device: torch.device
) -> Iterator[Seconds]:
    """Run every variant once in each of ``rounds``.

    Every second round goes backwards, so that a machine that gets slower favours none.

    Yields:
        After each round, the seconds of each variant until all ranks were done, in every round.
    """
    seconds: Seconds = {name: [] for name in variants}
    for number in range(rounds):
        for name in list(variants)[:: -1 if number % 2 else 1]:
            seconds[name].append(_seconds(variants[name], device))
        yield seconds


def _seconds(run: Callable[[], object], device: torch.device) -> float:
    _wait(device)
    start = time.perf_counter()
    run()
    _wait(device)
    return time.perf_counter() - start


def _wait(device: torch.device) -> None:
    if device.type != "cpu":
        torch.accelerator.synchronize(device)
    dist.barrier()


def cost_variants(bench: Workbench) -> Mapping[str, Callable[[], object]]:
    """Return what is timed: each on as many sequences as an optimizer step trains on."""
    passes, specific = bench.passes, bench.specific()
    drawn, packed = bench.drawn(), PackedSequences(bench.drawn())
    whole_source = WholeGradient(passes, Preconditioning())
    thin_source = LowRankGradient(passes, LowRank(rank=bench.case.rank), seed=0)
    whole, thin = whole_source.direction(0, specific), thin_source.direction(0, specific)
    target = specific_gradient(passes, specific, Preconditioning()).shard
    updates = count(1)  # a low-rank direction is kept for the same update
    sequence_hooks = TrainingHooks(passes)

    def sharded() -> None:
        for each in drawn:
            gradient = passes.gradient(PackedSequences([each]))
            gradient.dot(target)
            gradient.dot(gradient)

    def in_flight(toward: UpdateDirection) -> None:
        sequence_hooks.start(toward.direction, passes.layouts(packed))
        bench.train()
        sequence_hooks.finish(bench.trained)

    return {
        PLAIN: bench.train,
        "directional": lambda: passes.derivatives(packed, whole.direction),
        "directional low rank": lambda: passes.derivatives(packed, thin.direction),
        "sharded": sharded,
        "in_flight": lambda: in_flight(whole),
        "in_flight low rank": lambda: in_flight(thin),
        "specific gradient": lambda: whole_source.direction(next(updates), specific),
        "specific gradient low rank": lambda: thin_source.direction(next(updates), specific),
        AGAIN: bench.train,
    }


def cost_rows(case: Case, num_domains: int, seconds: Seconds) -> list[Row]:
    """Return a row a probe, and one for plain steps at the other end of each round.

    The ``ratio`` of those would be 1 on a quiet machine; others are to be trusted no further than
    it is. ``ratio`` leaves the specific gradient out, ``ratio_with_specific`` counts it and as
    many specific sequences; of what is measured in flight it is what a step with an update takes.
    """
    plain = seconds[PLAIN]
    rows: list[Row] = []
    for probe in (name for name in seconds if name != PLAIN):
        own = seconds[probe]
        row: Row = {
            "probe": probe,
            **case.labels(),
            "num_domains": num_domains,
            "probe_sequences": case.global_batch,
            "seconds_per_probe_sequence": median(own) / case.global_batch,
            "seconds_per_training_sequence": median(plain) / case.global_batch,
            "ratio": median(a / b for a, b in zip(own, plain, strict=True)),
            "ratios": [a / b for a, b in zip(own, plain, strict=True)],
        }
        if probe.startswith(("directional", "in_flight")):
            thin = probe.endswith("low rank")
            aims = seconds["specific gradient low rank" if thin else "specific gradient"]
            passes = 1 if probe.startswith("in_flight") else 2
            row["ratio_with_specific"] = median(
                (a + s) / (passes * b) for a, s, b in zip(own, aims, plain, strict=True)
            )
        rows.append(row)
    return rows
