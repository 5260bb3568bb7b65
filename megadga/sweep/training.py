"""Trains what is left of a sweep, and says how far it is; one table of its runs at the end."""

import signal
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import final

from tabulate import tabulate

from megadga.errors import MegadgaError
from megadga.launch.options import shown_duration
from megadga.launch.supervision import STOPPED
from megadga.report.compare import GENERAL, UNKNOWN, Comparison, Group, compare
from megadga.report.runs import RunHistory, read_run
from megadga.sweep.planning import SweepRun
from megadga.sweep.pool import Job, JobEnded, Slots, Start, run_jobs, start_process

LOG = "output.log"
"""What the processes of a run of a sweep have written, in its folder."""
MAX_WEIGHTS = 12
"""Domains up to which the table has the weights of each."""
_NOT_BEGUN = 128 + signal.SIGTERM
"""Exit code of a run that is asked to stop while it imports what it needs."""


@final
@dataclass(frozen=True)
class SweepOutcome:
    """What became of a sweep.

    Attributes:
        finished: Runs that are.
        failed: What ended with an error.
        stopped: Whether it was asked to stop before all were trained.
    """

    finished: tuple[SweepRun, ...]
    failed: tuple[JobEnded, ...]
    stopped: bool


def train_sweep(
    runs: Sequence[SweepRun],
    slots: Slots,
    *,
    stop_requested: Callable[[], bool],
    environment: Mapping[str, str],
    report: Callable[[str], None],
    start: Start = start_process,
) -> SweepOutcome:
    """Train the runs that are not finished; those that were stopped go on from their checkpoints.

    A run that fails does not keep the others from being trained.

    Args:
        runs: Whose files are written.
        slots: Where they are trained.
        stop_requested: Asked for requests to stop.
        environment: All variables of the processes.
        report: Called with each line of progress.
        start: Starts a process.
    """
    left = [run for run in runs if not run.is_finished]
    report(f"{len(runs) - len(left)} of {len(runs)} runs are there")
    jobs = [
        Job(run.name, ("-m", "megadga.cli", "train", str(run.file)), run.config.output / LOG)
        for run in left
    ]
    failed: list[JobEnded] = []
    since, trained = time.monotonic(), 0
    for ended in run_jobs(
        jobs, slots, stop_requested=stop_requested, environment=environment, start=start
    ):
        match ended.code:
            case 0:
                trained += 1
                spent = time.monotonic() - since
                rest = len(left) - trained - len(failed)
                more = f", {shown_duration(round(spent / trained * rest))} left" if rest else ""
                report(
                    f"{ended.job.name}: trained in {ended.seconds:.0f} s, "
                    f"{len(runs) - len(left) + trained} of {len(runs)}{more}"
                )
            case code if code in (STOPPED, _NOT_BEGUN):
                how = "stopped, and saved" if code == STOPPED else "stopped before it began"
                report(f"{ended.job.name}: {how}")
            case code:
                failed.append(ended)
                report(f"{ended.job.name}: ended with {code}: {ended.job.log}")
    finished = tuple(run for run in runs if run.is_finished)
    stopped = len(finished) + len(failed) < len(runs)
    return SweepOutcome(finished, tuple(failed), stopped)


def check_outcome(outcome: SweepOutcome) -> None:
    """Raise if runs have failed.

    Raises:
        MegadgaError: With a line for each.
    """
    if outcome.failed and not outcome.stopped:
        raise MegadgaError(
            "\n".join(
                f"{each.job.log}: expected training to end with 0, found {each.code}"
                for each in outcome.failed
            )
        )


def sweep_table(runs: Sequence[SweepRun]) -> str:
    """Return finished runs as one table: a line a mixture, means over its seeds, best first.

    Losses are those of the last evaluation that all runs have; the order is that of the mean over
    the domains, or of the first specific set without one.

    Args:
        runs: At least one, finished.
    """
    found = compare([read_run(run.config.output) for run in runs])
    losses = [row for row in found.rows if row.measure.startswith("loss (")]
    losses.sort(key=lambda row: row.measure != f"loss ({GENERAL})")
    lines: list[tuple[float, list[str]]] = []
    for index, group in enumerate(found.groups):
        cells = [row.cells[index] for row in losses]
        key = next((cell.mean for cell in cells if cell is not None), float("inf"))
        shown = [
            UNKNOWN
            if cell is None
            else f"{cell.mean:.4f}"
            + ("" if cell.standard_error is None else f" ± {cell.standard_error:.4f}")
            for cell in cells
        ]
        lines.append((key, [group.name, *shown, *_weights(group)]))
    headers = ["mixture", *(row.measure for row in losses), *_weight_names(found)]
    rows = [line for _, line in sorted(lines, key=lambda each: each[0])]
    align = ("left", *("right" for _ in headers[1:]))
    return tabulate(rows, headers=headers, colalign=align, disable_numparse=True)


def _weight_names(found: Comparison) -> Sequence[str]:
    names = found.groups[0].runs[0].weights.names
    return names if len(names) <= MAX_WEIGHTS else ()


def _weights(group: Group) -> list[str]:
    run: RunHistory = group.runs[0]
    if len(run.weights.names) > MAX_WEIGHTS:
        return []
    return [f"{weight:.3f}" for weight in run.weights.weights[-1].tolist()]
