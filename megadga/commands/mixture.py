"""`megadga mixture`: weights that are set, frozen and released by hand while a run trains."""

import argparse
import json
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from tabulate import tabulate

from megadga.commands.command import Command
from megadga.console import count
from megadga.errors import ConfigError
from megadga.report.domains import DomainInfo, read_domain_info
from megadga.report.sampling import last_domain_weights, read_sampling, weighted_names
from megadga.run_folder import CONFIG_FILE, METRICS_FILE
from megadga.run_folder.lock import living_owner
from megadga.run_folder.requests import Action, Answer, Request, RequestFolder

_POLL_S = 0.2
_TOLD_AFTER_S = 3.0
_GRACE_S = 5.0

_COMMON = """\
The request is a file in the run's folder, which rank 0 polls every second. It is
applied after the step that is being trained, on all ranks at once, and logged in metrics.jsonl
as an event: who, when, and the weights before and after. The command waits until then, and
prints the step. After Ctrl-C, or --timeout, the request is withdrawn, and nothing has changed.

The state is in checkpoints: a run that is stopped and continues, goes on as it was. After a
crash, the steps since the last checkpoint are repeated, and so are the requests that were
applied to them, after the same steps. Going back by --from discards them with the steps.
"""
_SET_EPILOG = f"""\
example:
  megadga mixture set runs/example code=0.2 web=0.1

The named domains get these averaged weights; the others share the rest in proportion to what
they have. With mixing.basis the names are those of basis distributions. The rule goes on from
these weights at its next update; its own limits (floor, epoch_budget, max_change) hold again
from then on. To keep the weights as they are, freeze the mixture as well. Under a schedule,
which says the weights of every step, weights can be set only while the mixture is frozen.

{_COMMON}"""
_FREEZE_EPILOG = f"""\
example:
  megadga mixture freeze runs/example

The weights stay as they are. Updates are not measured; each is counted as skipped, with an event.
`megadga mixture release` ends it.

{_COMMON}"""
_RELEASE_EPILOG = f"""\
example:
  megadga mixture release runs/example

The rule goes on from the weights as they are now, also those that were set by hand; a schedule
goes on at its own.

{_COMMON}"""
_SHOW_EPILOG = """\
example:
  megadga mixture show runs/example --num 5
  megadga mixture show runs/example --groups

Reads the run's folder only; the run may be training, stopped or finished. Beside the names are
the labels of `megadga data label`. With mixing.basis the weights are those of the basis
distributions, which the rule moves, and below them those of the domains that follow from these.
"""


def _weight(text: str) -> tuple[str, float]:
    """Parse ``NAME=WEIGHT``; a name may hold ``=`` itself."""
    name, _, number = text.rpartition("=")
    try:
        weight = float(number)
    except ValueError:
        weight = float("nan")
    if not name or not 0.0 <= weight <= 1.0:
        raise argparse.ArgumentTypeError(
            f"expected NAME=WEIGHT with a weight in [0, 1], found {text[:80]!r}"
        )
    return name, weight


def _add_run(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("run", type=Path, metavar="RUN", help="the run's output folder")


def _add_request_options(parser: argparse.ArgumentParser) -> None:
    _add_run(parser)
    parser.add_argument(
        "--timeout",
        type=count,
        default=600,
        metavar="S",
        help="seconds to wait for the end of the step (%(default)s)",
    )


def _add_set_options(parser: argparse.ArgumentParser) -> None:
    _add_request_options(parser)
    parser.add_argument(
        "weights", type=_weight, nargs="+", metavar="NAME=WEIGHT", help="new averaged weight"
    )


def _set(options: argparse.Namespace) -> int:
    weights = dict(options.weights)
    if len(weights) < len(options.weights):
        raise ConfigError("NAME=WEIGHT: expected each name once, found one twice")
    return _request(options, "set", weights)


def _change(options: argparse.Namespace, *, action: Action) -> int:
    return _request(options, action, {})


def _request(options: argparse.Namespace, action: Action, weights: Mapping[str, float]) -> int:
    """Make a request, wait until it is answered, and print the answer."""
    run: Path = options.run
    _check_run(run)
    if living_owner(run) is None:
        raise ConfigError(f"{run}: expected a run that is training, found none that trains there")
    folder = RequestFolder(run)
    try:
        number = folder.submit(action, weights)
    except OSError as error:
        raise ConfigError(
            f"{run}: expected a folder that can be written, found {error.strerror}"
        ) from None
    try:
        answer = _wait(folder, run, number, timeout_s=options.timeout)
    except KeyboardInterrupt:
        answer = _withdraw(folder, run, number, "interrupted")
    if answer.error:
        raise ConfigError(f"{run}: refused after step {answer.step}: {answer.error}")
    done = {"set": "weights set", "freeze": "mixture frozen", "release": "mixture released"}
    told = ", ".join(f"{name} {weight:.6g}" for name, weight in answer.weights.items())
    print(f"{run}: {done[action]} after step {answer.step:,}" + (f": {told}" if told else ""))
    return 0


def _wait(folder: RequestFolder, run: Path, number: int, *, timeout_s: int) -> Answer:
    """Return the answer to a request; withdraw it if the run ends or takes too long."""
    began = time.monotonic()
    told = False
    while (answer := folder.answer(number)) is None:
        waited = time.monotonic() - began
        if waited > timeout_s:
            return _withdraw(folder, run, number, f"no step ended within {timeout_s} s")
        if living_owner(run) is None:
            return _withdraw(folder, run, number, "the run has ended")
        if not told and waited > _TOLD_AFTER_S:
            told = True
            print(
                f"{run}: waiting for the end of the step; Ctrl-C withdraws the request",
                file=sys.stderr,
            )
        time.sleep(_POLL_S)
    return answer


def _withdraw(folder: RequestFolder, run: Path, number: int, reason: str) -> Answer:
    """Withdraw a request, or return the answer if the run has been faster.

    Raises:
        ConfigError: Says that it was withdrawn, or that it was taken and not answered.
    """
    if folder.withdraw(number):
        raise ConfigError(f"{run}: {reason}; the request was withdrawn, and nothing has changed")
    until = time.monotonic() + _GRACE_S
    while time.monotonic() < until:
        if (answer := folder.answer(number)) is not None:
            return answer
        time.sleep(_POLL_S)
    raise ConfigError(
        f"{run}: {reason}; request {number} was taken and not answered: it is applied when the "
        "run continues"
    )


def _add_show_options(parser: argparse.ArgumentParser) -> None:
    _add_run(parser)
    parser.add_argument(
        "--num", type=count, default=20, metavar="N", help="weights to print (%(default)s)"
    )
    parser.add_argument(
        "--groups",
        action="store_true",
        help="sum over data.groups, beside all other domains",
    )
    parser.add_argument("--json", action="store_true", help="print all of it as JSON")


def _show(options: argparse.Namespace) -> int:
    run: Path = options.run
    _check_run(run)
    metrics = run / METRICS_FILE
    log = read_sampling(metrics, None)
    names = weighted_names(metrics, log)
    weights = dict(zip(names, log.weights.tolist(), strict=True))
    info = read_domain_info(run)
    tables = [Weights(weights, log.last_step)]
    if info.basis and (of_domains := last_domain_weights(metrics)):
        tables.append(Weights(of_domains[1], of_domains[0]))
    if options.groups:
        tables[-1] = _grouped(run, tables[-1], info)
    pending = RequestFolder(run).pending()
    owner = living_owner(run)
    if options.json:
        content = {
            "step": log.last_step,
            "training": owner is not None,
            "frozen": log.frozen,
            **_weights_and_labels(tables, info),
            "pending": [vars(request) for request in pending],
        }
        print(json.dumps(content, ensure_ascii=False))
        return 0
    state = "not training" if owner is None else f"training ({owner})"
    print(f"{run}: step {log.last_step:,}, {state}; mixture {'' if log.frozen else 'not '}frozen")
    for place, table in enumerate(tables):
        if place:
            print(f"domains, as logged at step {table.step:,}:")
        print("\n".join(_lines(table, info, options.num)))
    for request in pending:
        print(f"pending: {_described(request)}")
    return 0


@dataclass(frozen=True)
class Weights:
    """Averaged weights of domains, groups or basis distributions.

    Attributes:
        by_name: The weights.
        step: After which they were these.
    """

    by_name: Mapping[str, float]
    step: int

    def largest_first(self) -> dict[str, float]:
        """Return them by name, the largest first."""
        return dict(sorted(self.by_name.items(), key=lambda item: -item[1]))


def _grouped(run: Path, weights: Weights, info: DomainInfo) -> Weights:
    """Return the weights of the groups of domains."""
    names = tuple(weights.by_name)
    if not info.groups:
        raise ConfigError(f"{run}: expected data.groups in the run's configuration, found none")
    if info.basis and set(names) == {*info.basis}:
        raise ConfigError(
            f"{run}: expected weights of domains, to sum over groups, found those of the basis "
            f"alone: {run / METRICS_FILE} has none of so many domains"
        )
    groups = info.group(names)
    sums = groups.sum(np.array(list(weights.by_name.values())))
    return Weights(dict(zip(groups.names, sums.tolist(), strict=True)), weights.step)


def _weights_and_labels(tables: Sequence[Weights], info: DomainInfo) -> dict[str, Any]:
    """Return tables of weights and the labels of what is in them, as JSON takes them."""
    first, *below = tables
    content: dict[str, Any] = {"weights": first.largest_first()}
    for table in below:
        content["domains"] = {"step": table.step, "weights": table.largest_first()}
    names = {name for table in tables for name in table.by_name}
    labels = {name: text for name, text in info.labels.items() if name in names}
    return {**content, "labels": labels} if labels else content


def _lines(weights: Weights, info: DomainInfo, limit: int) -> Iterator[str]:
    """Yield a table of the largest weights, with labels where there are some, and the rest."""
    listed = list(weights.largest_first().items())
    rows = [(name, f"{weight:.6f}", info.labels.get(name, "")) for name, weight in listed[:limit]]
    yield tabulate(
        rows if any(row[2] for row in rows) else [row[:2] for row in rows],
        tablefmt="plain",
        disable_numparse=True,
        colalign=("left", "right"),
    )
    if len(listed) > limit:
        rest = sum(weight for _, weight in listed[limit:])
        yield f"and {len(listed) - limit:,} more with {rest:.6f} together"


def _described(request: Request) -> str:
    weights = " ".join(f"{name}={weight:g}" for name, weight in request.weights.items())
    what = request.invalid or f"{request.action} {weights}".rstrip()
    return f"request {request.number}, {what}, by {request.by} at {request.at}"


def _check_run(run: Path) -> None:
    if not (run / CONFIG_FILE).is_file():
        raise ConfigError(
            f"{run}: expected the output folder of a run, found no {run / CONFIG_FILE}"
        )


SET = Command(
    "Set the averaged weights of some domains of a run that is training.",
    _add_set_options,
    _set,
    epilog=_SET_EPILOG,
)
FREEZE = Command(
    "Keep the weights of a run that is training as they are.",
    _add_request_options,
    partial(_change, action="freeze"),
    epilog=_FREEZE_EPILOG,
)
RELEASE = Command(
    "Let the rule of a frozen mixture go on from the weights as they are.",
    _add_request_options,
    partial(_change, action="release"),
    epilog=_RELEASE_EPILOG,
)
SHOW = Command(
    "Print the weights of a run, largest first, and what has been asked of it.",
    _add_show_options,
    _show,
    epilog=_SHOW_EPILOG,
)
