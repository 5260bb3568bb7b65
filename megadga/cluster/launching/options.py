"""What every launcher takes, by the same names. Knows no kind of cluster."""

import argparse
import re
import sys
from dataclasses import dataclass
from pathlib import Path

from megadga.console import whole_number

MOST_MACHINES = 1 << 20
MOST_RANKS = 4096
"""On one machine: more than any has accelerators or cores."""
_DURATION = re.compile(r"(?:(\d{1,5})-)?(\d{1,3}):([0-5]\d):([0-5]\d)", re.ASCII)


@dataclass(frozen=True)
class Request:
    """What a user asked of a launcher.

    Attributes:
        config: The run's YAML file.
        overrides: ``KEY=VALUE`` each, as `load_config` takes them.
        nodes: Machines, at least 1.
        accelerators_per_node: Ranks on each, at least 1; None: as the hostfile or the machine has.
        time_s: Seconds until the run must have ended, above ``save_s``; None: no limit.
        hostfile: Where the machines are listed; None: no hostfile.
        save_s: Seconds that a stopped run has to save, at least 1.
        max_restarts: How often a run that failed is started again, from its last checkpoint.
        dry_run: Print what would run, and run nothing.
        resume_from: Name of the checkpoint that the run goes back to; None: none.
    """

    config: Path
    overrides: tuple[str, ...] = ()
    nodes: int = 1
    accelerators_per_node: int | None = None
    time_s: int | None = None
    hostfile: Path | None = None
    save_s: int = 120
    max_restarts: int = 0
    dry_run: bool = False
    resume_from: str | None = None

    def train(self, python: str = sys.executable) -> tuple[str, ...]:
        """Return the command that every launcher ends in.

        Args:
            python: The interpreter, by its absolute path: on another machine a bare name would be
                the system's.
        """
        return (python, "-u", *self.module())

    def doctor(self, python: str) -> tuple[str, ...]:
        """Return the command that looks at the hosts of a job, without trying all ranks."""
        ranks = f"--accelerators-per-node={self.accelerators_per_node}"
        return (python, "-m", "megadga.cli", "doctor", "--no-all-reduce", ranks, *self._run())

    def module(self) -> tuple[str, ...]:
        """Return it from ``-m`` on, for launchers that name the interpreter themselves."""
        return ("-m", "megadga.cli", "train", *self._run())

    def _run(self) -> tuple[str, ...]:
        return (str(self.config), *(f"--set={override}" for override in self.overrides))


def common_parser(
    name: str,
    description: str,
    *,
    hosts: bool = False,
    nodes: bool = True,
    restarts: bool = True,
    sees_output: bool = True,
) -> argparse.ArgumentParser:
    """Return a parser of what launchers have in common.

    Args:
        name: The executable's.
        description: What it does.
        hosts: It takes a hostfile.
        nodes: It can use several machines.
        restarts: It starts a run that failed again by itself.
        sees_output: The run's folder lies under the same path where it runs itself.
    """
    parser = argparse.ArgumentParser(prog=name, description=description, allow_abbrev=False)
    add = parser.add_argument
    add("config", type=Path, metavar="CONFIG", help="the run's YAML file")
    add(
        "--set",
        dest="overrides",
        action="append",
        default=[],
        metavar="KEY=VALUE",
        help="override a dotted key of CONFIG with a YAML value; paths in it are relative to the "
        "working directory, those in CONFIG to its folder; repeatable",
    )
    if nodes:
        add("--nodes", type=machines, default=1, metavar="N", help="machines (1)")
    add(
        "--accelerators-per-node",
        type=ranks,
        metavar="N",
        help="ranks on each machine, one an accelerator; without accelerators, one a CPU process",
    )
    add(
        "--time",
        type=duration,
        metavar="[D-]HH:MM:SS",
        help="wall-clock limit; the run is asked to save before, and ends with code 75",
    )
    if hosts:
        add("--hostfile", type=Path, metavar="FILE", help="lines of NAME slots=N; N: accelerators")
    add(
        "--time-to-save",
        type=count,
        default=120,
        metavar="SECONDS",
        help="from the request to stop until the run is killed (120)",
    )
    if restarts:
        add(
            "--max-restarts",
            type=whole,
            default=0,
            metavar="N",
            help="start a run that failed again, from its last checkpoint, N times at most (0)",
        )
    if sees_output:
        add(
            "--from",
            dest="resume_from",
            metavar="NAME",
            help="continue from this checkpoint, as step-00000500, and not from the latest; what "
            "was trained beyond it is left behind",
        )
    add("--dry-run", action="store_true", help="print exactly what would run; run nothing")
    return parser


def to_request(parser: argparse.ArgumentParser, options: argparse.Namespace) -> Request:
    """Return what the common options say; what contradicts itself ends the program with code 2."""
    values = vars(options)
    if options.time is not None and options.time <= options.time_to_save:
        parser.error(
            f"argument --time: expected more than --time-to-save ({options.time_to_save} s), "
            f"found {options.time} s"
        )
    return Request(
        config=options.config,
        overrides=tuple(options.overrides),
        nodes=values.get("nodes", 1),
        accelerators_per_node=options.accelerators_per_node,
        time_s=options.time,
        hostfile=values.get("hostfile"),
        save_s=options.time_to_save,
        max_restarts=values.get("max_restarts", 0),
        dry_run=options.dry_run,
        resume_from=values.get("resume_from"),
    )


def duration(text: str) -> int:
    """Return the seconds of ``HH:MM:SS`` or ``D-HH:MM:SS``."""
    match = _DURATION.fullmatch(text)
    if match is None:
        raise argparse.ArgumentTypeError(f"expected HH:MM:SS or D-HH:MM:SS, found {text!r}")
    days, hours, minutes, seconds = (int(part or 0) for part in match.groups())
    return ((days * 24 + hours) * 60 + minutes) * 60 + seconds


def shown_duration(seconds: int) -> str:
    """Return ``HH:MM:SS``, or ``D-HH:MM:SS`` from a day on."""
    minutes, second = divmod(seconds, 60)
    hours, minute = divmod(minutes, 60)
    days, hour = divmod(hours, 24)
    clock = f"{hour:02d}:{minute:02d}:{second:02d}"
    return f"{days}-{clock}" if days else clock


def count(text: str) -> int:
    """Return a whole number of at least 1, below 2^31."""
    return whole_number(text, least=1)


def whole(text: str) -> int:
    """Return a whole number from 0, below 2^31."""
    return whole_number(text, least=0)


def machines(text: str) -> int:
    """Return a number of machines, at least 1."""
    return whole_number(text, least=1, most=MOST_MACHINES)


def ranks(text: str) -> int:
    """Return a number of ranks on one machine, at least 1."""
    return whole_number(text, least=1, most=MOST_RANKS)
