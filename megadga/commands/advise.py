"""`megadga advise`: what should be changed in a run, in sentences."""

import argparse
import json
import sys
from pathlib import Path
from textwrap import fill

from megadga.commands.command import Command
from megadga.report.advice import Finding, Unjudged, judge
from megadga.report.runs import RunHistory, read_run

_EPILOG = """\
example:
  megadga advise runs/example

Reads the run's folder only; the run may be training, stopped or finished. It looks for updates
that are noise, a step size that is too small or too large, domains that are memorised or run out,
a general loss that pays for the specific one, validation text in training data, and overhead
above what was predicted, in the recent part of the run, and says something only where the
evidence is beyond noise. The same findings are events in metrics.jsonl while the run trains, each
once. On standard error: what cannot be judged yet, and what it lacks.
"""


def _add_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("run", type=Path, metavar="RUN", help="the run's output folder")
    parser.add_argument("--json", action="store_true", help="print everything as JSON")


def _advise(options: argparse.Namespace) -> int:
    run = read_run(options.run)
    judged = judge(run)
    found = [each for each in judged if isinstance(each, Finding)]
    unjudged = [each for each in judged if isinstance(each, Unjudged)]
    earlier = _earlier(run, found)
    if options.json:
        of_kinds = {"findings": found, "earlier": earlier, "not_judged": unjudged}
        print(json.dumps({k: [vars(each) for each in v] for k, v in of_kinds.items()}, indent=2))
        return 0
    for each in found:
        print(fill(f"step {each.step}, {each.code}: {each.text}", 99, subsequent_indent="  "))
    for each in earlier:
        print(fill(f"earlier, {each.code}: {each.text}", 99, subsequent_indent="  "))
    if not found:
        print(f"{options.run}: nothing to change at step {run.last_step}")
    for each in unjudged:
        print(f"not judged: {each.code} (needs {each.text})", file=sys.stderr)
    return 0


def _earlier(run: RunHistory, found: list[Finding]) -> list[Finding]:
    """Return what was found while the run trained, and is not found any more."""
    codes = {each.code for each in found}
    events = (event for event in run.of_kind("advice") if event.values["finding"] not in codes)
    return [Finding(e.values["finding"], e.step, e.values["text"]) for e in events]


ADVISE = Command(
    "Say what should be changed in a run, in sentences with their numbers.",
    _add_options,
    _advise,
    epilog=_EPILOG,
)
