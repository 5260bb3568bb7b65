"""Commands that train: `megadga train` and `demo`.

Torch and DeepSpeed are imported only after the configuration has been validated: it takes seconds.
"""

import argparse
import gc
import os
import sys
from contextlib import ExitStack, suppress
from pathlib import Path

from megadga.commands.command import Command
from megadga.config.loading import load_config
from megadga.config.run import RunConfig
from megadga.console import count
from megadga.errors import MegadgaError
from megadga.launch.options import add_allow, add_from, add_run, ranks
from megadga.launch.quiet import library_prints, quieten
from megadga.launch.ranks import rank_for_messages, read_ranks
from megadga.launch.supervision import STOPPED, StopSignal
from megadga.report.runs import read_run
from megadga.report.summary import summarize, summary_lines
from megadga.run_folder.checkpoints import checkpoint_path
from megadga.run_folder.failures import record_failures, record_start
from megadga.run_folder.markers import RunFinishedError, finished_step


def _add_train_options(parser: argparse.ArgumentParser) -> None:
    add_run(parser)
    add_from(parser)
    add_allow(parser)


def _train(options: argparse.Namespace) -> int:
    with StopSignal.from_environment(os.environ) as stop:
        config = load_config(options.config, options.overrides)
        ranks = read_ranks(os.environ)  # refuses before torch is imported
        # torchrun restarts ranks with the same arguments: go back only once.
        again = int(os.environ.get("TORCHELASTIC_RESTART_COUNT", "0")) > 0
        resume_from = None if again else options.resume_from
        # With several ranks, rank 0 decides for all of them.
        if ranks.world_size == 1 and resume_from is None:
            step = finished_step(config)
            if step is not None:
                return _nothing_left(config, step)
        rank = rank_for_messages(os.environ)
        quieten(os.environ, rank=rank)
        # What is imported is no garbage: to look through it takes a tenth of a second each time,
        # and DeepSpeed collects often.
        gc.disable()
        from megadga.train.assembly import open_run  # noqa: PLC0415
        from megadga.train.loop import train  # noqa: PLC0415

        gc.freeze()
        gc.enable()

        try:
            with record_failures(config.output, rank=rank), ExitStack() as stack:
                with library_prints(os.environ, rank=rank):
                    opening = open_run(
                        config,
                        stop_requested=stop.requested,
                        resume_from=resume_from,
                        allowed=options.allowed,
                    )
                    run = stack.enter_context(opening)
                record_start(config.output, rank=rank)
                finished = train(run)
                saved = _saved(run.mixture.step, run.checkpoints.newest)
        except RunFinishedError as done:
            return _nothing_left(config, done.step)
    if rank == 0:
        told = _summary(config.output)
        if not finished:
            told.append(f"{config.output}: {saved}; the same command continues")
        with suppress(OSError):  # the terminal may be closed
            print("\n".join(told), file=sys.stderr)
    # torchrun's agents would restart ranks that do not exit with 0.
    return 0 if finished or ranks.launcher == "torchrun" else STOPPED


def _summary(output: Path) -> list[str]:
    """Return what the run has come to, from its folder: also what was before a resume."""
    try:
        return ["", *summary_lines(summarize(read_run(output)))]
    except (MegadgaError, OSError) as error:  # the run itself is saved
        return [f"{output}: expected to summarise the run, found {error}"]


def _nothing_left(config: RunConfig, step: int) -> int:
    if rank_for_messages(os.environ) == 0:
        print(f"{config.output}: finished after step {step}; nothing is left to train")
    return 0


def _saved(step: int, newest: Path | None) -> str:
    """Describe where a stopped run will continue; it may not have saved its last step."""
    if newest is not None and newest.name == checkpoint_path(newest.parent, step).name:
        return f"saved at step {step}"
    kept = "no checkpoint" if newest is None else newest.name
    why = "not finite, or its file system failed"
    return f"stopped at step {step}, which is not saved ({why}); there is {kept}"


def _add_demo_options(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("--output", type=Path, default=Path("runs/demo"), metavar="FOLDER", help="runs/demo")
    add("--steps", type=count, metavar="N", help="optimizer steps of each run")
    add("--seed", type=int, default=0, metavar="N", help="seed of both runs")
    add("--ranks", type=ranks, default=2, metavar="N", help="processes")
    add("--fresh", action="store_true", help="delete the output of an earlier demo first")


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


TRAIN = Command(
    "Train or continue a run as a single rank; `megadga launch` starts several.\n"
    f"Exit code {STOPPED}: stopped by a signal after saving.",
    _add_train_options,
    _train,
    on_ranks=True,
)
DEMO = Command(
    "Train on text found on this machine, with DGA and with uniform weights, and compare.",
    _add_demo_options,
    _demo,
    on_ranks=True,
)
