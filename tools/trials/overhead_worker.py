"""Trains several runs in turns, an interval at a time, on the ranks that a launcher started."""

import json
import sys
import time
from contextlib import ExitStack
from dataclasses import asdict, replace
from pathlib import Path

import torch
import torch.distributed as dist

from megadga.config.loading import load_config
from megadga.console import run_program
from megadga.train.assembly import open_run
from megadga.train.loop import Run, train
from megadga.train.ranks import process_group
from trials.collectives import counted_collectives
from trials.interleaving import PLAIN, Segment, order_of_round


def time_interval(name: str, run: Run, steps: int) -> Segment:
    """Train some steps. Collective."""
    dist.barrier()
    start, used = time.perf_counter(), time.process_time()
    train(replace(run, total_steps=run.mixture.step + steps))
    processor_s = torch.tensor(time.process_time() - used, dtype=torch.float64)
    dist.barrier()
    seconds = time.perf_counter() - start
    dist.all_reduce(processor_s)
    return Segment(name, seconds, float(processor_s))


def count_collectives(run: Run, steps: int) -> int:
    """Train some steps and return how many collectives that took. Collective."""
    with counted_collectives() as count:
        train(replace(run, total_steps=run.mixture.step + steps))
    return count.own


def main(output: str, interval: str, rounds: str, *configs: str) -> None:
    """Write the segments of every round, after three intervals of each run that are counted."""
    paths = {Path(config).stem: Path(config) for config in configs}
    timed: list[list[Segment]] = []
    with process_group(), ExitStack() as stack:
        runs = {
            name: stack.enter_context(open_run(load_config(path))) for name, path in paths.items()
        }
        collectives: dict[str, float] = {}
        for name, run in runs.items():
            once, twice = (count_collectives(run, n * int(interval)) for n in (1, 2))
            collectives[name] = (twice - once) / int(interval)  # without what ends a run
        for number in range(int(rounds)):
            order = order_of_round([name for name in paths if name != PLAIN], number)
            timed.append([time_interval(name, runs[name], int(interval)) for name in order])
            if dist.get_rank() == 0:
                print(", ".join(f"{each.name} {each.seconds:.2f} s" for each in timed[-1]))
                sys.stdout.flush()
        if dist.get_rank() == 0:
            segments = [[asdict(segment) for segment in segments] for segments in timed]
            record = {"segments": segments, "collectives_per_step": collectives}
            Path(output).write_text(json.dumps(record))


if __name__ == "__main__":
    run_program(lambda: main(*sys.argv[1:]))
