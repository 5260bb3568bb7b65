"""`megadga doctor`: asks hosts whether they are fit for a run."""

import argparse
from pathlib import Path

from megadga.commands.command import Command, add_overrides
from megadga.config.loading import load_config
from megadga.console import parse_whole_number
from megadga.launch.doctor.diagnosis import run_doctor
from megadga.launch.plan import machines, ranks

_UNFIT = 1
"""Exit code of a diagnosis that found something that would fail."""


def _add_doctor_options(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("config", type=Path, nargs="?", metavar="CONFIG", help="whose output all must share")
    add_overrides(parser)
    add(
        "--hostfile",
        type=Path,
        metavar="FILE",
        help="lines of NAME slots=N; without it: the hosts of this SLURM job, or this machine",
    )
    add("--nodes", type=machines, metavar="N", help="the first N hosts alone")
    add("--accelerators-per-node", type=ranks, metavar="N", help="ranks on each; its slots")
    add(
        "--deadline",
        type=_deadline,
        default=60,
        metavar="S",
        help="seconds that ranks wait for each other; 60",
    )
    add(
        "--no-all-reduce",
        dest="all_reduce",
        action="store_false",
        help="ask the hosts, and do not try all ranks together: seconds",
    )


def _deadline(text: str) -> int:
    return parse_whole_number(text, least=1, most=86_400)


def _doctor(options: argparse.Namespace) -> int:
    failures = run_doctor(
        load_config(options.config, options.overrides) if options.config else None,
        hostfile=options.hostfile,
        nodes=options.nodes,
        accelerators_per_node=options.accelerators_per_node,
        deadline_s=options.deadline,
        all_reduce=options.all_reduce,
    )
    return _UNFIT if failures else 0


DOCTOR = Command(
    "Ask hosts whether they are fit for a run, and try all ranks together.",
    _add_doctor_options,
    _doctor,
    on_ranks=True,
)
