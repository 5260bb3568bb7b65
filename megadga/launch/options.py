"""Options that name a run, and those that all launchers share; what a user asks of a launcher."""

import argparse
import re
import sys
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from megadga.console import count, non_negative_int, parse_whole_number

MAX_MACHINES = 1 << 20


MAX_RANKS = 4096
"""On one machine: more than any has accelerators or cores."""


_DURATION = re.compile(r"(?:(\d{1,5})-)?(\d{1,3}):([0-5]\d):([0-5]\d)", re.ASCII)


@dataclass(frozen=True)
class LaunchRequest:
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
        allowed: Dotted keys that may differ from the checkpoint's, beyond those that always may.
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
    allowed: tuple[str, ...] = ()

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
        return ("-m", "megadga.cli", "train", *self._run(), *self.allow())

    def allow(self) -> tuple[str, ...]:
        """Return the options that allow keys to differ from the checkpoint's."""
        return tuple(f"--allow={key}" for key in self.allowed)

    def _run(self) -> tuple[str, ...]:
        return (str(self.config), *(f"--set={override}" for override in self.overrides))


def add_run(parser: argparse.ArgumentParser) -> None:
    """Add the run's configuration file and ``--set``."""
    parser.add_argument("config", type=Path, metavar="CONFIG", help="the run's YAML file")
    add_overrides(parser)


def add_overrides(parser: argparse.ArgumentParser) -> None:
    """Add ``--set``."""
    parser.add_argument(
        "--set",
        dest="overrides",
        action="append",
        default=[],
        metavar="KEY=VALUE",
        help="override a dotted key with a YAML value, as mixing.step_size=0.5; paths in it are "
        "relative to the working directory, those in CONFIG to its folder; repeatable",
    )


def add_from(parser: argparse.ArgumentParser, *, condition: str = "") -> None:
    """Add ``--from``, as ``resume_from``.

    Args:
        parser: Of a command that resumes a run.
        condition: What the option needs, at the start of its help.
    """
    parser.add_argument(
        "--from",
        dest="resume_from",
        metavar="NAME",
        help=f"{condition}continue from this checkpoint, e.g. step-00000500, or best "
        "(checkpoint.keep_best), and not from the latest; later steps are discarded",
    )


def add_allow(parser: argparse.ArgumentParser, *, condition: str = "") -> None:
    """Add ``--allow``, as ``allowed``.

    Args:
        parser: Of a command that resumes a run.
        condition: What the option needs, at the start of its help.
    """
    parser.add_argument(
        "--allow",
        dest="allowed",
        action="append",
        default=[],
        metavar="KEY",
        help=f"{condition}continue although this dotted key, as mixing.floor, is not what it was "
        "in the checkpoint; many keys may change without it, some never may "
        "(docs/reliability.md); repeatable",
    )


def common_parser(
    prog: str,
    description: str,
    *,
    hosts: bool = False,
    nodes: bool = True,
    restarts: bool = True,
    sees_output: bool = True,
) -> argparse.ArgumentParser:
    """Return a parser of what launchers have in common.

    Args:
        prog: What it is called by.
        description: What it does.
        hosts: It takes a hostfile.
        nodes: It can use several machines.
        restarts: It starts a run that failed again by itself.
        sees_output: The run's folder lies under the same path where it runs itself.
    """
    parser = argparse.ArgumentParser(prog=prog, description=description, allow_abbrev=False)
    add = parser.add_argument
    add_run(parser)
    add_allow(parser)
    if nodes:
        add("--nodes", type=machines, default=1, metavar="N", help="machines (1)")
    add(
        "--accelerators-per-node",
        type=ranks,
        metavar="N",
        help="ranks on each machine, one per accelerator, or else CPU processes",
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
            type=non_negative_int,
            default=0,
            metavar="N",
            help="start a run that failed again, from its last checkpoint, N times at most (0)",
        )
    if sees_output:
        add_from(parser)
    add("--dry-run", action="store_true", help="print exactly what would run; run nothing")
    return parser


def to_request(parser: argparse.ArgumentParser, options: argparse.Namespace) -> LaunchRequest:
    """Return what the common options say; what contradicts itself ends the program with code 2."""
    values = vars(options)
    if options.time is not None and options.time <= options.time_to_save:
        parser.error(
            f"argument --time: expected more than --time-to-save ({options.time_to_save} s), "
            f"found {options.time} s"
        )
    return LaunchRequest(
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
        allowed=tuple(options.allowed),
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


machines = partial(parse_whole_number, least=1, most=MAX_MACHINES)
"""Parses a number of machines, at least 1."""


ranks = partial(parse_whole_number, least=1, most=MAX_RANKS)
"""Parses a number of ranks on one machine, at least 1."""
