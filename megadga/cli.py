"""The command line: parses, calls, prints. Knows no more than what each subcommand is called with.

Torch and DeepSpeed take seconds to import: only the subcommands that train do so, and only once
the configuration has turned out sound.
"""

import argparse
import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from tqdm import tqdm

from megadga.build.shape import describe_size
from megadga.check import check, plan_leakage
from megadga.cluster.failures import failures_noted
from megadga.cluster.markers import finished_step
from megadga.cluster.ranks import rank_to_tell, read_ranks
from megadga.cluster.stopping import STOPPED, StopSignal
from megadga.config.describe import describe
from megadga.config.loading import load_config
from megadga.errors import ConfigError, DivergedError, MegadgaError
from megadga.prepare.leakage.report import complain, render_leakage
from megadga.prepare.leakage.search import LeakageRule, LeakageSearch

USER_ERROR = 2
"""Exit code for what the user can mend, as argparse has it."""
LEAKAGE = 1
"""Exit code of a check that ran and found more leakage than the user allows."""
UNFIT = 1
"""Exit code of a diagnosis that found something that would fail."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one subcommand and return the exit code.

    Args:
        arguments: What follows the program's name; None: this process's own.
    """
    options = _parser().parse_args(arguments)
    try:
        return options.command(options)
    except DivergedError as error:  # the same on every rank
        if rank_to_tell(os.environ) == 0:
            _complain(str(error))
        return USER_ERROR
    except MegadgaError as error:
        _complain(str(error))
        return USER_ERROR


def _complain(message: str) -> None:
    """Print a line for each mistake; under a launcher, ranks other than the first say who."""
    rank = rank_to_tell(os.environ)
    prefix = "" if rank == 0 else f"[rank {rank}] "
    for line in message.splitlines():
        print(f"{prefix}{line}", file=sys.stderr)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="megadga",
        description="Online data mixing for language-model pretraining.",
        allow_abbrev=False,
    )
    # DeepSpeed's launcher puts it before everything else; LOCAL_RANK says the same.
    parser.add_argument("--local_rank", type=int, help=argparse.SUPPRESS)
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    _add_run(
        commands,
        "train",
        _train,
        f"train a run, or continue it where it stopped; exit code {STOPPED}: a signal ended it, "
        "and it has saved",
    )
    checking = _add_run(commands, "check", _check, "validate a run and its shards; start nothing")
    checking.add_argument("--world-size", type=_count, metavar="N", help="ranks it is meant for")
    checking.add_argument(
        "--leakage",
        action="store_true",
        help="read all training tokens, and look for the specific sets' held-out documents there",
    )
    checking.add_argument(
        "--max-leakage",
        type=float,
        metavar="F",
        help=f"with --leakage: exit code {LEAKAGE} if more than this share of a set's n-grams, "
        "in [0, 1], is in a domain, in all of them together or in the set's own training split",
    )
    _add_run(commands, "describe", _describe, "explain a run key by key")
    plotting = commands.add_parser(
        "plot", help="draw a run's weights, and alignments within their standard errors, as PNG"
    )
    plotting.set_defaults(command=_plot)
    plotting.add_argument("run", type=Path, metavar="FOLDER", help="the run's output folder")
    _add_doctor(commands)
    demo = commands.add_parser(
        "demo", help="train on text found on this machine, with DGA and with uniform weights"
    )
    demo.set_defaults(command=_demo)
    demo.add_argument(
        "--output", type=Path, default=Path("runs/demo"), metavar="FOLDER", help="runs/demo"
    )
    demo.add_argument("--steps", type=_count, metavar="N", help="optimizer steps of each run")
    demo.add_argument("--seed", type=int, default=0, metavar="N", help="seed of both runs")
    demo.add_argument("--ranks", type=_count, default=2, metavar="N", help="processes")
    demo.add_argument(
        "--fresh", action="store_true", help="remove what an earlier demo made there"
    )
    return parser


def _add_run(
    commands: Any, name: str, command: Callable[[argparse.Namespace], int], summary: str
) -> argparse.ArgumentParser:
    """Add a subcommand that reads a run's configuration."""
    parser: argparse.ArgumentParser = commands.add_parser(name, help=summary, allow_abbrev=False)
    parser.set_defaults(command=command)
    parser.add_argument("config", type=Path, metavar="CONFIG", help="the run's YAML file")
    _add_overrides(parser)
    return parser


def _add_overrides(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--set",
        dest="overrides",
        action="append",
        default=[],
        metavar="KEY=VALUE",
        help="override a dotted key with a YAML value, as mixing.step_size=0.5; repeatable",
    )


def _add_doctor(commands: Any) -> None:
    summary = "ask hosts whether they are fit for a run, and try all ranks together"
    doctor = commands.add_parser("doctor", help=summary, description=summary, allow_abbrev=False)
    doctor.set_defaults(command=_doctor)
    doctor.add_argument(
        "config", type=Path, nargs="?", metavar="CONFIG", help="whose output all must share"
    )
    _add_overrides(doctor)
    doctor.add_argument(
        "--hostfile",
        type=Path,
        metavar="FILE",
        help="lines of NAME slots=N; without it: the hosts of this SLURM job, or this machine",
    )
    doctor.add_argument("--nodes", type=_count, metavar="N", help="the first N hosts alone")
    doctor.add_argument(
        "--accelerators-per-node", type=_count, metavar="N", help="ranks on each; its slots"
    )
    doctor.add_argument(
        "--deadline",
        type=_count,
        default=60,
        metavar="S",
        help="seconds that ranks wait for each other; 60",
    )
    doctor.add_argument(
        "--no-all-reduce",
        dest="all_reduce",
        action="store_false",
        help="ask the hosts, and do not try all ranks together: seconds",
    )


def _count(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"expected a number of at least 1, found {text!r}")
    return int(text)


def _train(options: argparse.Namespace) -> int:
    with StopSignal.of_environment(os.environ) as stop:
        config = load_config(options.config, options.overrides)
        if (step := finished_step(config)) is not None:
            if rank_to_tell(os.environ) == 0:
                print(f"{config.output}: finished after step {step}; nothing is left to train")
            return 0
        launcher = read_ranks(os.environ).launcher  # refuses before torch is imported
        from megadga.build.run import open_run  # noqa: PLC0415
        from megadga.train.loop import train  # noqa: PLC0415

        with (
            failures_noted(config.output, rank=rank_to_tell(os.environ)),
            open_run(config, stop_requested=stop.requested) as run,
        ):
            finished = train(run)
    # torchrun's agents would start again, at once, what does not end with 0.
    return 0 if finished or launcher == "torchrun" else STOPPED


def _check(options: argparse.Namespace) -> int:
    if options.max_leakage is not None and not options.leakage:
        raise ConfigError("--max-leakage: expected --leakage beside it, found none")
    rule = LeakageRule(max_overlap=1.0 if options.max_leakage is None else options.max_leakage)
    config = load_config(options.config, options.overrides)
    lines = list(check(config, world_size=options.world_size))
    searches = plan_leakage(config, rule) if options.leakage else ()
    print("\n".join(lines), flush=True)
    return _look_for_leakage(searches) if searches else 0


def _look_for_leakage(searches: Sequence[LeakageSearch]) -> int:
    """Print what of each specific set's validation split is in training text."""
    total = sum(search.num_tokens for search in searches)
    with tqdm(total=total, unit=" tokens", unit_scale=True, disable=None) as bar:
        found = [search.run(bar.update) for search in searches]
    for leakage in found:
        print("", *render_leakage(leakage), sep="\n")
    complaints = list(filter(None, map(complain, found)))
    _complain("\n".join(complaints))
    return LEAKAGE if complaints else 0


def _describe(options: argparse.Namespace) -> int:
    config = load_config(options.config, options.overrides)
    print("\n".join(describe(config)))
    print(f"\n{describe_size(config.model)}")
    return 0


def _plot(options: argparse.Namespace) -> int:
    from megadga.report.plots import plot_run  # noqa: PLC0415

    print("\n".join(map(str, plot_run(options.run / "metrics.jsonl", options.run))))
    return 0


def _doctor(options: argparse.Namespace) -> int:
    from megadga.doctor.command import run_doctor  # noqa: PLC0415

    return (
        UNFIT
        if run_doctor(
            load_config(options.config, options.overrides) if options.config else None,
            hostfile=options.hostfile,
            nodes=options.nodes,
            accelerators_per_node=options.accelerators_per_node,
            deadline_s=options.deadline,
            all_reduce=options.all_reduce,
        )
        else 0
    )


def _demo(options: argparse.Namespace) -> int:
    from megadga.demo.run import run_demo  # noqa: PLC0415
    from megadga.demo.runs import STEPS  # noqa: PLC0415

    run_demo(
        options.output,
        steps=options.steps or STEPS,
        seed=options.seed,
        ranks=options.ranks,
        fresh=options.fresh,
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
