"""Commands that inspect a run: `megadga check`, `describe` and `plot`."""

import argparse
import os
from collections.abc import Sequence
from pathlib import Path

from tqdm import tqdm

from megadga.check import check, plan_leakage, plan_verification
from megadga.commands.command import Command, add_run, complain
from megadga.config.loading import load_config
from megadga.config.validation import describe
from megadga.console import shows_bars
from megadga.data.verify import FolderCheck, verify_shard
from megadga.errors import ConfigError, ShardError
from megadga.launch.plan import count
from megadga.prepare.leakage.search import (
    LeakageRule,
    LeakageSearch,
    describe_excess,
    render_leakage,
)
from megadga.prepare.workers import open_processes
from megadga.train.models import describe_size
from megadga.train.resume_check import describe_resume

_LEAKAGE = 1
"""Exit code if the check completed and found more leakage than allowed."""


def _add_check_options(parser: argparse.ArgumentParser) -> None:
    add_run(parser)
    add = parser.add_argument
    add(
        "--resume",
        action="store_true",
        help="show what resuming from the latest checkpoint would do: domains that were added, "
        "grew, left or were replaced, windows that count as seen, tokens left, and weights before "
        "and after",
    )
    add("--world-size", type=count, metavar="N", help="number of ranks to check for")
    add(
        "--verify",
        action="store_true",
        help="read the shards completely and compare checksums and counts with the manifests",
    )
    add(
        "--leakage",
        action="store_true",
        help="search all training tokens for the specific sets' validation documents",
    )
    add(
        "--max-leakage",
        type=float,
        metavar="F",
        help=f"with --leakage: exit code {_LEAKAGE} if more than this share of a set's n-grams, "
        "in [0, 1], is in a domain, in all of them together or in the set's own training split",
    )


def _check(options: argparse.Namespace) -> int:
    if options.max_leakage is not None and not options.leakage:
        raise ConfigError("--max-leakage: expected --leakage beside it, found none")
    rule = LeakageRule(max_overlap=1.0 if options.max_leakage is None else options.max_leakage)
    config = load_config(options.config, options.overrides)
    lines = list(check(config, world_size=options.world_size))
    searches = plan_leakage(config, rule) if options.leakage else ()
    if options.resume:
        lines += ["", *describe_resume(config)]
    print("\n".join(lines), flush=True)
    if options.verify:
        _verify(plan_verification(config))
    return _look_for_leakage(searches) if searches else 0


def _verify(folders: Sequence[FolderCheck]) -> None:
    """Compare shards with their manifests; print warnings and a summary."""
    checks = [check for folder in folders for check in folder.shards]
    problems = [line for folder in folders for line in folder.problems]
    total = sum(check.num_bytes for check in checks)
    with (
        open_processes(max(1, min(len(checks), os.cpu_count() or 1))) as pool,
        tqdm(total=total, unit="B", unit_scale=True, desc="verifying", disable=None) as bar,
    ):
        for report in pool.map_in_order(verify_shard, checks):
            complain("\n".join(report.warnings))
            problems += report.problems
            bar.update(report.num_bytes)
    if problems:
        raise ShardError("\n".join(problems))
    print(f"\n{len(checks):,} shards, {total:,} bytes: all match their manifests")


def _look_for_leakage(searches: Sequence[LeakageSearch]) -> int:
    """Print how much of each specific set's validation split occurs in training text."""
    total = sum(search.num_tokens for search in searches)
    with tqdm(total=total, unit=" tokens", unit_scale=True, disable=not shows_bars()) as bar:
        found = [search.run(bar.update) for search in searches]
    for leakage in found:
        print("", *render_leakage(leakage), sep="\n")
    complaints = list(filter(None, map(describe_excess, found)))
    complain("\n".join(complaints))
    return _LEAKAGE if complaints else 0


def _describe(options: argparse.Namespace) -> int:
    config = load_config(options.config, options.overrides)
    print("\n".join(describe(config)))
    print(f"\n{describe_size(config)}")
    return 0


def _add_plot_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("run", type=Path, metavar="FOLDER", help="the run's output folder")


def _plot(options: argparse.Namespace) -> int:
    from megadga.report.plots import plot_run  # noqa: PLC0415

    print("\n".join(map(str, plot_run(options.run / "metrics.jsonl", options.run))))
    return 0


CHECK = Command(
    "Validate a run and its shards; start nothing.", _add_check_options, _check, on_ranks=True
)
DESCRIBE = Command("Explain a run key by key.", add_run, _describe, on_ranks=True)
PLOT = Command(
    "Draw a run's weights, and alignments within their standard errors, as PNG.",
    _add_plot_options,
    _plot,
    on_ranks=True,
)
