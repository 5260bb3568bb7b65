"""`megadga sweep`: small runs of one configuration at many fixed mixtures."""

import argparse
import os
from pathlib import Path

from megadga.commands.command import Command
from megadga.console import count
from megadga.launch.hosts import count_devices
from megadga.launch.supervision import STOPPED, StopSignal
from megadga.sweep.config import load_sweep
from megadga.sweep.planning import plan_sweep
from megadga.sweep.pool import Slots
from megadga.sweep.training import check_outcome, sweep_table, train_sweep

_EPILOG = f"""\
SWEEP.yaml, whole (paths are relative to its folder):
  run: proxy.yaml             # a complete run; its mixing, seed and output are replaced
  set: [training.steps=200]   # what else is not as in that file
  output: runs/sweep          # a folder for each run in it: m000-seed0, m001-seed0, ...
  mixtures: {{type: dirichlet, number: 32}}
                              # around a prior, as RegMix: prior (tokens to the power of 0.5) and
                              # strength ([0.1, 5.0]); or {{type: halving, number: 32}}: weights of
                              # cap, cap/2, cap/4, ..., as data mixing laws; or {{type: listed,
                              # weights: [uniform, {{web: 0.7, code: 0.3}}]}}
  seed: 0                     # of the mixtures
  seeds: [0]                  # of the runs
  max_epochs: 4               # weights are capped so that no domain is read more often
  target_tokens: 20000000000  # nor in the run that the sweep is for
  match_repetition: true      # read as much less of each domain as the runs are shorter than that

examples:
  megadga sweep SWEEP.yaml --dry-run      # the mixtures, and what is left to train
  megadga sweep SWEEP.yaml --jobs 4
  megadga law fit runs/sweep/m*-seed*/ --output law.json

Every run is a normal one: `megadga compare`, `report` and `train runs/sweep/m003-seed0.yaml` take
it. Stopped, the same command goes on with what is left, each run from its checkpoint; exit code
{STOPPED} says so. A run that fails is named at the end; the others are trained all the same.
"""


def _add_options(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("config", type=Path, metavar="SWEEP", help="the sweep's YAML file")
    add(
        "--jobs",
        type=count,
        metavar="N",
        help="runs at a time (default: one for each accelerator, or for each core)",
    )
    add("--dry-run", action="store_true", help="print the runs; train nothing")


def _sweep(options: argparse.Namespace) -> int:
    sweep = plan_sweep(load_sweep(options.config))
    if options.dry_run:
        for run in sweep.runs:
            weights = run.config.mixing.model_dump()["weights"]
            shown = ", ".join(f"{name} {weight:.3f}" for name, weight in weights.items())
            print(f"{run.name}  {'finished' if run.is_finished else 'to train'}  {shown}")
        return 0
    sweep.write(_report)
    with StopSignal() as stop:
        outcome = train_sweep(
            sweep.runs,
            _slots(options.jobs),
            stop_requested=stop.requested,
            environment=os.environ,
            report=_report,
        )
    if outcome.finished:
        print(f"\n{sweep_table(outcome.finished)}")
    if outcome.stopped:
        print("stopped; the same command continues")
        return STOPPED
    check_outcome(outcome)
    return 0


def _report(line: str) -> None:
    print(line, flush=True)


def _slots(jobs: int | None) -> Slots:
    number, kind = count_devices()
    places = number if jobs is None else jobs
    if kind == "accelerators":
        return Slots.on_accelerators(min(places, number), os.environ.get("CUDA_VISIBLE_DEVICES"))
    return Slots.on_cores(places, os.environ)


SWEEP = Command(
    "Train small runs of one configuration at many fixed mixtures, several at a time, as laws of "
    "mixtures are fitted to.",
    _add_options,
    _sweep,
    epilog=_EPILOG,
    continues=True,
)
