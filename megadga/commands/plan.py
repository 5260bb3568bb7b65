"""The commands `megadga plan` and `megadga calibrate`: what a run will cost, before it starts."""

import argparse
import json
import os
from pathlib import Path

from megadga.accelerators import ACCELERATORS, Accelerator
from megadga.commands.command import Command
from megadga.config.loading import load_config
from megadga.console import count, parse_positive
from megadga.errors import ConfigError
from megadga.launch.options import add_run
from megadga.launch.quiet import quieten
from megadga.planning.constants import Constants, assumed_constants, read_measured
from megadga.planning.duration import Cluster
from megadga.planning.prediction import fastest_that_fit, largest_micro_batch, predict
from megadga.planning.reading import read_planned_run
from megadga.planning.tables import as_record, render, render_alternatives

_EXAMPLES = """\
examples:
  megadga plan run.yaml --devices 256 --accelerator h100
  megadga plan run.yaml --devices 256 --accelerator h100 --compare
  megadga plan run.yaml --devices 64 --accelerator a100 --domains 4096   # before there are shards
  torchrun --nproc-per-node 8 -m megadga.cli calibrate constants.json    # on the cluster itself
  megadga plan run.yaml --devices 256 --accelerator h100 --constants constants.json

The model behind it, and how it compares with measured runs: docs/scale.md.
"""


def _add_plan_options(parser: argparse.ArgumentParser) -> None:
    add_run(parser)
    add = parser.add_argument
    add("--devices", type=count, required=True, metavar="N", help="ranks, one a device")
    add(
        "--accelerator",
        required=True,
        choices=sorted(ACCELERATORS),
        help="which devices they are: " + ", ".join(sorted(ACCELERATORS)),
        metavar="NAME",
    )
    add(
        "--gpus-per-node",
        type=count,
        metavar="N",
        help="devices of a node (default: those of the vendor's reference node)",
    )
    add(
        "--interconnect",
        type=parse_positive,
        metavar="GBITS",
        help="Gbit/s of the network between nodes, per device, as its data sheet has it (default: "
        "that of the vendor's reference node)",
    )
    add(
        "--storage",
        type=parse_positive,
        metavar="GB/S",
        help="GB/s that all ranks together write to the file system (default: 10)",
    )
    add(
        "--constants",
        type=Path,
        metavar="FILE",
        help="what `megadga calibrate`, or the GPU kit, has measured, in place of what is assumed",
    )
    add(
        "--domains",
        type=count,
        metavar="K",
        help="plan for so many domains, or basis distributions, without reading shards; "
        "model.vocabulary_size has to be a number then",
    )
    add(
        "--compare",
        action="store_true",
        help="every stage of ZeRO with and without activation checkpointing, each with the "
        "micro-batch that is fastest of those that fit",
    )
    add("--json", action="store_true", help="print JSON")


def _constants(options: argparse.Namespace, accelerator: Accelerator) -> Constants:
    constants = assumed_constants(accelerator)
    if options.constants is not None:
        constants = constants.with_values(read_measured(options.constants).values, "measured")
    given: dict[str, float] = {}
    if options.interconnect is not None:
        given["network_bandwidth"] = 0.8 * options.interconnect * 1e9 / 8
    if options.storage is not None:
        given["storage_bandwidth"] = options.storage * 1e9
    return constants.with_values(given, "given")


def _plan(options: argparse.Namespace) -> int:
    accelerator = ACCELERATORS[options.accelerator]
    constants = _constants(options, accelerator)
    quieten(os.environ, rank=0)
    config = load_config(options.config, options.overrides)
    run = read_planned_run(config, ranks=options.devices, num_domains=options.domains)
    cluster = Cluster(constants, options.gpus_per_node or accelerator.devices_per_node)
    if options.compare:
        found = fastest_that_fit(run, accelerator, cluster)
        if options.json:
            largest = None
            records = [as_record(each, accelerator, constants, largest) for each in found]
            print(json.dumps(records, indent=2))
        else:
            print("\n".join(render_alternatives(found)))
        return 0
    prediction = predict(run, accelerator, cluster)
    largest = largest_micro_batch(run, accelerator)
    if options.json:
        print(json.dumps(as_record(prediction, accelerator, constants, largest), indent=2))
    else:
        print("\n".join(render(prediction, accelerator, constants, largest)))
    return 0


def _add_calibrate_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("output", type=Path, metavar="FILE", help="JSON for `megadga plan`")


def _calibrate(options: argparse.Namespace) -> int:
    if not options.output.absolute().parent.is_dir():
        expected = "a file in an existing folder"
        raise ConfigError(f"{options.output}: expected {expected}, found none")
    from megadga.planning.calibration import calibrate  # noqa: PLC0415  (torch)

    for name, value in calibrate(options.output):
        print(f"{name:<24}{value:.4g}", flush=True)
    return 0


PLAN = Command(
    "Predict memory, time and communication of a run on a number of accelerators; start nothing.",
    _add_plan_options,
    _plan,
    epilog=_EXAMPLES,
)
CALIBRATE = Command(
    "Measure what this device and its links reach, for `megadga plan --constants`. Started on "
    "several ranks, as by torchrun, it measures collectives too. It takes a minute.",
    _add_calibrate_options,
    _calibrate,
    on_ranks=True,
)
