"""The command line: parses, calls, prints.

Torch and DeepSpeed take seconds to import: only the subcommands that train do so, and only once
the configuration has turned out sound.
"""

import argparse
import os
import sys
from collections.abc import Callable, Sequence
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Any

from tqdm import tqdm

from megadga.check import check, plan_leakage, plan_verification
from megadga.config.loading import load_config
from megadga.config.run import RunConfig
from megadga.config.validation import describe
from megadga.console import parse_whole_number, run_main, shows_bars
from megadga.data.verify import FolderCheck, verify_shard
from megadga.errors import ConfigError, DivergedError, MegadgaError, ShardError
from megadga.launch.plan import count, machines, ranks
from megadga.launch.quiet import prints_of_first_rank, quieten
from megadga.launch.ranks import rank_for_messages, read_ranks
from megadga.launch.supervision import STOPPED, StopSignal
from megadga.prepare.leakage.search import (
    LeakageRule,
    LeakageSearch,
    describe_excess,
    render_leakage,
)
from megadga.prepare.workers import open_processes
from megadga.run_folder.checkpoints import CHECKPOINTS, checkpoint_path, latest_checkpoint
from megadga.run_folder.failures import record_failures, record_start
from megadga.run_folder.markers import RunFinishedError, finished_step
from megadga.train.data import no_checkpoint
from megadga.train.reference import describe_size

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
    return run_main(lambda: _run(arguments))


def _run(arguments: Sequence[str] | None) -> int:
    options = _parser().parse_args(arguments)
    try:
        return options.command(options)
    except DivergedError as error:  # the same on every rank
        if rank_for_messages(os.environ) == 0:
            _complain(str(error))
        return USER_ERROR
    except MegadgaError as error:
        _complain(str(error))
        return USER_ERROR


def _complain(message: str) -> None:
    """Print a line for each mistake; under a launcher, ranks other than the first say who."""
    rank = rank_for_messages(os.environ)
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
    training = _add_run(
        commands,
        "train",
        _train,
        f"train a run, or continue it where it stopped; exit code {STOPPED}: a signal ended it, "
        "and it has saved",
    )
    training.add_argument(
        "--from",
        dest="resume_from",
        metavar="NAME",
        help="continue from this checkpoint, as step-00000500, and not from the latest; what was "
        "trained beyond it is left behind",
    )
    _add_run(
        commands,
        "evaluate",
        _evaluate,
        "evaluate a run's latest checkpoint, on sets of its own or on new ones "
        "(evaluation.sets); train nothing",
    )
    checking = _add_run(commands, "check", _check, "validate a run and its shards; start nothing")
    checking.add_argument("--world-size", type=count, metavar="N", help="ranks it is meant for")
    checking.add_argument(
        "--verify",
        action="store_true",
        help="read every byte of the shards, and compare checksums and counts with the manifests",
    )
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
    demo.add_argument("--steps", type=count, metavar="N", help="optimizer steps of each run")
    demo.add_argument("--seed", type=int, default=0, metavar="N", help="seed of both runs")
    demo.add_argument("--ranks", type=ranks, default=2, metavar="N", help="processes")
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
        help="override a dotted key with a YAML value, as mixing.step_size=0.5; paths in it are "
        "relative to the working directory, those in CONFIG to its folder; repeatable",
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
    doctor.add_argument("--nodes", type=machines, metavar="N", help="the first N hosts alone")
    doctor.add_argument(
        "--accelerators-per-node", type=ranks, metavar="N", help="ranks on each; its slots"
    )
    doctor.add_argument(
        "--deadline",
        type=_deadline,
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


def _deadline(text: str) -> int:
    return parse_whole_number(text, least=1, most=86_400)


def _train(options: argparse.Namespace) -> int:
    with StopSignal.from_environment(os.environ) as stop:
        config = load_config(options.config, options.overrides)
        ranks = read_ranks(os.environ)  # refuses before torch is imported
        # torchrun starts ranks again with the same arguments: once is enough to go back.
        again = int(os.environ.get("TORCHELASTIC_RESTART_COUNT", "0")) > 0
        resume_from = None if again else options.resume_from
        # One rank of several must not decide that it is not needed: the first one does, for all.
        if ranks.world_size == 1 and resume_from is None:
            step = finished_step(config)
            if step is not None:
                return _nothing_left(config, step)
        rank = rank_for_messages(os.environ)
        quieten(os.environ, rank=rank)
        from megadga.train.assembly import open_run  # noqa: PLC0415
        from megadga.train.loop import train  # noqa: PLC0415

        try:
            with record_failures(config.output, rank=rank), ExitStack() as stack:
                with prints_of_first_rank(os.environ, rank=rank):
                    opening = open_run(
                        config, stop_requested=stop.requested, resume_from=resume_from
                    )
                    run = stack.enter_context(opening)
                record_start(config.output, rank=rank)
                finished = train(run)
                saved = _saved(run.mixture.step, run.checkpoints.newest)
        except RunFinishedError as done:
            return _nothing_left(config, done.step)
    if not finished and rank == 0:
        told = f"{config.output}: {saved}; the same command continues"
        with suppress(OSError):  # the terminal may be what is gone
            print(told, file=sys.stderr)
    # torchrun's agents would start again, at once, what does not end with 0.
    return 0 if finished or ranks.launcher == "torchrun" else STOPPED


def _nothing_left(config: RunConfig, step: int) -> int:
    if rank_for_messages(os.environ) == 0:
        print(f"{config.output}: finished after step {step}; nothing is left to train")
    return 0


def _saved(step: int, newest: Path | None) -> str:
    """Return where a run that was stopped goes on: a model that is not finite is not saved."""
    if newest is not None and newest.name == checkpoint_path(newest.parent, step).name:
        return f"saved at step {step}"
    kept = "no checkpoint" if newest is None else newest.name
    return f"stopped at step {step}, which is not finite and not saved; there is {kept}"


def _evaluate(options: argparse.Namespace) -> int:
    config = load_config(options.config, options.overrides)
    if config.evaluation is None:
        raise config.invalid("evaluation", expected="a section", found="null")
    # The first rank looks for all where there are several; one alone, before torch is imported.
    alone = read_ranks(os.environ).world_size == 1
    if alone and latest_checkpoint(config.output / CHECKPOINTS) is None:
        raise no_checkpoint(config)
    rank = rank_for_messages(os.environ)
    quieten(os.environ, rank=rank)
    from megadga.train.assembly import open_run  # noqa: PLC0415
    from megadga.train.loop import evaluate  # noqa: PLC0415
    from megadga.train.metrics import MetricsFile  # noqa: PLC0415

    with record_failures(config.output, rank=rank), ExitStack() as stack:
        with prints_of_first_rank(os.environ, rank=rank):
            run = stack.enter_context(open_run(config, evaluate_only=True))
        metrics, step = evaluate(run), run.mixture.step
    if rank == 0 and metrics:
        MetricsFile(config.output / "evaluations.jsonl").log(step, metrics)
        losses = {**metrics["evaluation"]["specific"], **metrics["evaluation"]["domains"]}
        print("\n".join(f"step {step}: {name} {loss:.4f}" for name, loss in losses.items()))
    return 0


def _check(options: argparse.Namespace) -> int:
    if options.max_leakage is not None and not options.leakage:
        raise ConfigError("--max-leakage: expected --leakage beside it, found none")
    rule = LeakageRule(max_overlap=1.0 if options.max_leakage is None else options.max_leakage)
    config = load_config(options.config, options.overrides)
    lines = list(check(config, world_size=options.world_size))
    searches = plan_leakage(config, rule) if options.leakage else ()
    print("\n".join(lines), flush=True)
    if options.verify:
        _verify(plan_verification(config))
    return _look_for_leakage(searches) if searches else 0


def _verify(folders: Sequence[FolderCheck]) -> None:
    """Compare shards with their manifests; print what is no more than a warning, and a summary."""
    checks = [check for folder in folders for check in folder.shards]
    problems = [line for folder in folders for line in folder.problems]
    total = sum(check.num_bytes for check in checks)
    with (
        open_processes(max(1, min(len(checks), os.cpu_count() or 1))) as pool,
        tqdm(total=total, unit="B", unit_scale=True, desc="verifying", disable=None) as bar,
    ):
        for report in pool.map_in_order(verify_shard, checks):
            _complain("\n".join(report.warnings))
            problems += report.problems
            bar.update(report.num_bytes)
    if problems:
        raise ShardError("\n".join(problems))
    print(f"\n{len(checks):,} shards, {total:,} bytes: all as their manifests say")


def _look_for_leakage(searches: Sequence[LeakageSearch]) -> int:
    """Print what of each specific set's validation split is in training text."""
    total = sum(search.num_tokens for search in searches)
    with tqdm(total=total, unit=" tokens", unit_scale=True, disable=not shows_bars()) as bar:
        found = [search.run(bar.update) for search in searches]
    for leakage in found:
        print("", *render_leakage(leakage), sep="\n")
    complaints = list(filter(None, map(describe_excess, found)))
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
    from megadga.launch.doctor.diagnosis import run_doctor  # noqa: PLC0415

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
    from megadga.demo.run import STEPS, run_demo  # noqa: PLC0415

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
