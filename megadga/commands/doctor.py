"""`megadga doctor`: checks whether hosts are ready for a run."""

import argparse
from pathlib import Path

from megadga.commands.command import Command
from megadga.config.loading import load_config
from megadga.console import parse_whole_number
from megadga.launch.doctor.diagnosis import run_doctor
from megadga.launch.options import add_overrides, machines, ranks

_UNFIT = 1
"""Exit code if a check failed."""


def _add_doctor_options(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add(
        "config",
        type=Path,
        nargs="?",
        metavar="CONFIG",
        help="a run, whose output folder all hosts must share",
    )
    add_overrides(parser)
    add(
        "--hostfile",
        type=Path,
        metavar="FILE",
        help="lines of NAME slots=N; default: the hosts of this SLURM job, or this machine",
    )
    add("--nodes", type=machines, metavar="N", help="check only the first N hosts")
    add(
        "--accelerators-per-node",
        type=ranks,
        metavar="N",
        help="ranks per host (default: its slots)",
    )
    add(
        "--deadline",
        type=_deadline,
        default=60,
        metavar="S",
        help="timeout of collectives in seconds (%(default)s)",
    )
    add(
        "--no-all-reduce",
        dest="all_reduce",
        action="store_false",
        help="skip the all-reduce over all ranks; takes seconds",
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
    "Check whether hosts are ready for a run, and run an all-reduce over all ranks.",
    _add_doctor_options,
    _doctor,
    on_ranks=True,
)
