"""Commands that inspect a run before it starts: `megadga check` and `describe`."""

import argparse
import os
from collections.abc import Sequence

from tqdm import tqdm

from megadga.check import check, plan_leakage, plan_verification
from megadga.commands.command import Command, complain
from megadga.config.loading import load_config
from megadga.config.run import RunConfig
from megadga.config.validation import describe
from megadga.console import count, shows_bars
from megadga.data.verify import FolderCheck, verify_shard
from megadga.errors import ConfigError, ShardError
from megadga.launch.options import add_allow, add_from, add_run
from megadga.launch.quiet import quieten
from megadga.launch.ranks import rank_for_messages
from megadga.prepare.leakage.search import (
    LeakageRule,
    LeakageSearch,
    describe_excess,
    render_leakage,
)
from megadga.prepare.workers import open_processes
from megadga.resume_check import check_resume
from megadga.train.models import describe_size

_LEAKAGE = 1
"""Exit code if the check completed and found more leakage than allowed."""


def _add_check_options(parser: argparse.ArgumentParser) -> None:
    add_run(parser)
    add = parser.add_argument
    add("--world-size", type=count, metavar="N", help="number of ranks to check for")
    add(
        "--resume",
        action="store_true",
        help="report what the run would do with its latest checkpoint: what has changed since, "
        "with old and new values and what becomes of it, and what is refused",
    )
    add_from(parser, condition="with --resume: ")
    add_allow(parser, condition="with --resume: ")
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
    if (options.allowed or options.resume_from is not None) and not options.resume:
        given = "--allow" if options.allowed else "--from"
        raise ConfigError(f"{given}: expected --resume beside it, found none")
    quieten(os.environ, rank=rank_for_messages(os.environ))
    rule = LeakageRule(max_overlap=1.0 if options.max_leakage is None else options.max_leakage)
    config = load_config(options.config, options.overrides)
    lines = list(check(config, world_size=options.world_size))
    searches = plan_leakage(config, rule) if options.leakage else ()
    print("\n".join(lines), flush=True)
    if options.resume:
        print()
        _check_resume(config, options)
    if options.verify:
        _verify(plan_verification(config))
    return _look_for_leakage(searches) if searches else 0


def _check_resume(config: RunConfig, options: argparse.Namespace) -> None:
    """Print what a resume would change; raise what it would refuse."""
    for line in check_resume(
        config,
        world_size=options.world_size,
        resume_from=options.resume_from,
        allowed=options.allowed,
    ):
        print(line, flush=True)


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


CHECK = Command(
    "Validate a run and its shards; start nothing.", _add_check_options, _check, on_ranks=True
)
DESCRIBE = Command("Explain a run key by key.", add_run, _describe, on_ranks=True)
