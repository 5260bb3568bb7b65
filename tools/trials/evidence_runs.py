"""The runs under ``configs/evidence``: which there are, training them, and what came of them.

A finished run is not trained again.
"""

import argparse
import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import mean

from megadga.config.loading import load_config
from megadga.errors import MegadgaError
from megadga.launch.supervision import STOPPED, StopSignal
from megadga.report.records import read_metrics
from megadga.sweep.pool import Job, Slots, run_jobs
from megadga.sweep.training import LOG
from trials.agreement import markdown_table
from trials.evidence_data import targets_root
from trials.evidence_results import DEFAULT, HELD_BACK, TARGETS, Result, read_results

CONFIGS = Path("configs/evidence")
EXPERIMENTS = {
    "few_tokens": (
        *("uniform", "importance", "odm"),
        *("default", "capped", "dga", "dga_ema", "dga_capped"),
    ),
}
RULES = {
    "uniform": False,
    "proportional": False,
    "unimax": False,
    "odm": False,
    "importance": True,
    "matched": True,
    "doge": True,
    "paper": True,
    "dga": True,
    "dga_uniform": True,
}
"""Files of `targets`, and whether what they do depends on the target."""
LARGER = "8m"
"""Preset of the models of `larger`."""
QUICK_TARGETS = ("pubmedqa", "black_python")
QUICK_STEPS = 200
SENSITIVITY = {
    "step_size 0.33": ("mixing.step_size=0.33",),
    "step_size 3": ("mixing.step_size=3.0",),
    **{
        f"uniform_share {share}": (f"mixing.initial={{type: matched, uniform_share: {share}}}",)
        for share in (0.0167, 0.033, 0.1, 0.15, 0.3)
    },
    "overhead 0.0033": ("mixing.overhead=0.0033",),
    "overhead 0.03": ("mixing.overhead=0.03",),
    "epoch_budget 1.33": ("mixing.epoch_budget=1.33",),
    "epoch_budget 12": ("mixing.epoch_budget=12.0",),
    "repeat_decay 0.67": ("mixing.repeat_decay=0.67",),
    "repeat_decay 6": ("mixing.repeat_decay=6.0",),
}
"""What is changed in ``targets/dga``, one thing at a time and by a factor of up to 3, or 6."""


def add_run_options(parser: argparse.ArgumentParser) -> None:
    """Add the options that all experiments have: ``--corpus``, ``--seeds`` and ``--jobs``."""
    add = parser.add_argument
    add("--corpus", type=Path, required=True, metavar="FOLDER", help="of documents")
    add("--seeds", type=int, nargs="+", default=[0, 1, 2], metavar="N", help="(0 1 2)")
    add("--jobs", type=int, default=2, metavar="N", help="runs at a time (%(default)s)")


@dataclass(frozen=True)
class EvidenceRun:
    """One run.

    Attributes:
        kind: Experiment.
        config: Its file's name, without ending.
        seed: Of model, batches and probes.
        label: What tables call it.
        changes: Of the file, as ``--set`` takes them.
        tokens: Kept of each domain, of `TOKENS`; empty: what the file says.
        setting: What the changes are but for the data, as tables call it; empty: nothing.
    """

    kind: str
    config: str
    seed: int
    label: str
    changes: tuple[str, ...] = ()
    tokens: str = ""
    setting: str = ""

    @property
    def folder(self) -> Path:
        """Where its metrics go."""
        name = "-".join([*self.label.split(), str(self.seed)])
        return Path("build/evidence") / self.kind / "runs" / name

    @property
    def settings(self) -> tuple[str, ...]:
        """Return all that is set on the command line."""
        return (f"seed={self.seed}", f"output={self.folder}", *self.changes)

    @property
    def path(self) -> Path:
        """Its file."""
        return CONFIGS / self.kind / f"{self.config}.yaml"


def planned_runs(experiments: Sequence[str], seeds: Sequence[int]) -> list[EvidenceRun]:
    """Return all runs of some experiments: every rule with one seed before the next seed."""
    return [
        EvidenceRun(experiment, name, seed, name)
        for seed in seeds
        for experiment in experiments
        for name in EXPERIMENTS[experiment]
    ]


def train_all(runs: Sequence[EvidenceRun], *, jobs: int, report: Callable[[str], None]) -> None:
    """Train what is not finished as a sweep does, ``jobs`` at a time, each with its part of cores.

    Ctrl-C or SIGTERM saves those that train; the next call goes on.

    Raises:
        MegadgaError: If a run fails; its ``output.log`` says why.
        SystemExit: If it was asked to stop.
    """
    waiting = [run for run in runs if not is_finished(run)]
    report(f"{len(runs) - len(waiting)} of {len(runs)} runs are there")
    with StopSignal() as stop:
        ended_jobs = run_jobs(
            [_job(run) for run in waiting],
            Slots.on_cores(jobs, os.environ),
            stop_requested=stop.requested,
            environment=os.environ,
        )
        for done, ended in enumerate(ended_jobs, 1):
            if stop.requested():
                report(f"{ended.job.name}: stopped")
            elif ended.code:
                expected = f"expected training to end with 0, found {ended.code}"
                raise MegadgaError(f"{ended.job.log}: {expected}")
            else:
                report(f"{ended.job.name}: trained, {done} of {len(waiting)}")
        if stop.requested():
            report("stopped; the same command continues")
            raise SystemExit(STOPPED)


def _job(run: EvidenceRun) -> Job:
    settings = [part for each in run.settings for part in ("--set", each)]
    arguments = ("-m", "megadga.cli", "train", str(run.path), *settings)
    return Job(str(run.folder), arguments, run.folder / LOG)


def result_table(experiment: str, runs: Sequence[EvidenceRun]) -> str:
    """Return a table in Markdown of finished runs, a line a rule: its losses, seed by seed."""
    labels = list(dict.fromkeys(run.label for run in runs))
    seeds = sorted({run.seed for run in runs})
    rows: list[list[str]] = []
    for label in labels:
        found = [_losses(run) for run in runs if run.label == label]
        best, last = [min(losses) for losses in found], [losses[-1] for losses in found]
        rows.append([label, *map(_shown, (best, last))])
    of_seeds = ", ".join(map(str, seeds))
    titles = (experiment, f"best (seeds {of_seeds})", f"at the end (seeds {of_seeds})")
    return markdown_table(titles, rows)


def planned_targets(
    seeds: Sequence[int], tokens: Sequence[str], rules: Sequence[str], targets: Sequence[str]
) -> list[EvidenceRun]:
    """Return runs of `targets`: everything with one seed before the next seed.

    A rule that does not depend on the target is trained once, and evaluated on all of them.
    """
    return [
        run
        for seed in seeds
        for kept in tokens
        for rule in rules
        for run in _with_rule(rule, kept, targets, seed)
    ]


def sensitivity_runs(
    seeds: Sequence[int], tokens: Sequence[str], targets: Sequence[str]
) -> list[EvidenceRun]:
    """Return runs of DGA as it is by default but for one setting, each of `SENSITIVITY`."""
    return [
        _changed(run, setting)
        for run in planned_targets(seeds, tokens, (DEFAULT,), targets)
        for setting in SENSITIVITY
    ]


def recorded_runs(results: Sequence[Result]) -> list[EvidenceRun]:
    """Return the runs of `targets` and `sensitivity` that results are of, each once.

    Those with one seed come before those with the next.
    """
    runs: dict[EvidenceRun, None] = {}
    for result in sorted(results, key=lambda each: each.seed):
        for run in _with_rule(result.rule, result.tokens, (result.target,), result.seed):
            runs[_changed(run, result.setting) if result.setting else run] = None
    return list(runs)


def _changed(run: EvidenceRun, setting: str) -> EvidenceRun:
    return replace(
        run,
        label=f"{run.label} {setting}",
        changes=(*run.changes, *SENSITIVITY[setting]),
        setting=setting,
    )


def larger_runs(runs: Sequence[EvidenceRun]) -> list[EvidenceRun]:
    """Return the same runs of a model of the preset `LARGER`."""
    preset = f"model.preset={LARGER}"
    return [
        replace(run, label=f"{run.label} {LARGER}", changes=(*run.changes, preset)) for run in runs
    ]


def quick_runs() -> list[EvidenceRun]:
    """Return a few short ones: both fixed alternatives, and DGA for two targets."""
    planned = [
        *planned_targets([0], ("20k",), ("uniform", "dga"), QUICK_TARGETS),
        *planned_targets([0], ("20k",), ("importance",), QUICK_TARGETS[:1]),
        *planned_targets([0], ("all",), ("uniform", "dga"), QUICK_TARGETS),
    ]
    short = f"training.steps={QUICK_STEPS}"
    return [
        replace(run, label=f"quick {run.label}", changes=(*run.changes, short)) for run in planned
    ]


def _with_rule(rule: str, tokens: str, targets: Sequence[str], seed: int) -> Iterator[EvidenceRun]:
    changes = [f"data.domains={targets_root(tokens) / 'domains'}"]
    if tokens == "all":
        changes.append("evaluation.interval=200")  # on every domain too
    if not RULES[rule]:
        every = f"data.specific={{{', '.join(map(_specific, (*TARGETS, *HELD_BACK)))}}}"
        yield EvidenceRun("targets", rule, seed, f"{tokens} {rule}", (*changes, every), tokens)
        return
    for target in targets:
        own = [f"data.specific={{{_specific(target)}}}"]
        if rule == "importance":
            own.append(f"mixing.histogram={targets_root(tokens)}/histograms/{target}.json")
        label = f"{tokens} {rule} {target}"
        yield EvidenceRun("targets", rule, seed, label, (*changes, *own), tokens)


def _specific(target: str) -> str:
    return f"{target}: {{path: build/evidence/targets/specific/{target}}}"


def finished_results(runs: Sequence[EvidenceRun]) -> list[Result]:
    """Return the results of those runs of `targets` that are finished."""
    return [
        result
        for run in runs
        if is_finished(run)
        for result in read_results(
            run.folder / "metrics.jsonl",
            rule=run.config,
            tokens=run.tokens,
            seed=run.seed,
            setting=run.setting,
        )
    ]


def is_finished(run: EvidenceRun) -> bool:
    """Tell whether a run was evaluated at its last step."""
    metrics = run.folder / "metrics.jsonl"
    if not metrics.exists():
        return False
    last_step = load_config(run.path, run.settings).training.steps
    return any(record["step"] == last_step for record in read_metrics(metrics).of("evaluation"))


def _losses(run: EvidenceRun) -> list[float]:
    """Return the loss of the run's specific set at each evaluation."""
    records = read_metrics(run.folder / "metrics.jsonl").of("evaluation")
    return [loss for record in records for loss in record["specific"].values()]


def _shown(losses: Sequence[float]) -> str:
    each = ", ".join(f"{loss:.3f}" for loss in losses)
    return f"{mean(losses):.3f} ({each})" if len(losses) > 1 else each
