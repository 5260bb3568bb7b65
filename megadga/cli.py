"""The command line `megadga`: finds the command that is asked for, imports it and runs it.

Commands import torch, numpy and much else. None is imported before it is chosen, so that help and
a mistyped name take no time.
"""

import argparse
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from importlib import import_module
from typing import Any, Protocol, cast

from megadga.console import run_main


class Program(Protocol):
    """What a command's name stands for."""

    def __call__(self, arguments: Sequence[str], *, prog: str) -> int:
        """Run with what follows the name, which is ``prog``; return the exit code."""
        ...


@dataclass(frozen=True)
class Entry:
    """A command, or a group of commands.

    Attributes:
        summary: What it is for, in one line.
        program: Where its `Program` is, as ``module:name``; empty: it is a group.
        commands: Those of a group, by name.
    """

    summary: str
    program: str = ""
    commands: Mapping[str, "Entry"] = field(default_factory=dict[str, "Entry"])


_DATA = {
    "tokenizer": Entry("train a sentencepiece tokenizer", "megadga.commands.text:TOKENIZER"),
    "build": Entry("turn text into shards of domains", "megadga.commands.build:BUILD"),
    "inspect": Entry("show what is in shards", "megadga.commands.shards:INSPECT"),
    "label": Entry("say in words what is in domains", "megadga.commands.label:LABEL"),
    "verify": Entry("say everything that is wrong with shards", "megadga.commands.shards:VERIFY"),
    "leakage": Entry(
        "look for validation text in training domains", "megadga.commands.shards:LEAKAGE"
    ),
    "merge": Entry("make one domain of several", "megadga.commands.shards:MERGE"),
    "score": Entry("score documents", "megadga.commands.score:SCORE"),
    "select": Entry(
        "keep documents by their scores, or tiers of them", "megadga.commands.select:SELECT"
    ),
    "append": Entry("add new shards to a domain", "megadga.commands.append:APPEND"),
    "adopt": Entry("take over shards that Megatron has built", "megadga.commands.shards:ADOPT"),
    "convert": Entry("make shards of flat files of token ids", "megadga.commands.convert:CONVERT"),
    "cluster": Entry("train clusters, as domains", "megadga.commands.text:CLUSTER"),
    "histogram": Entry(
        "measure the share of reference sets in each cluster", "megadga.commands.text:HISTOGRAM"
    ),
}
_LAUNCH = {
    "local": Entry("on this machine", "megadga.launch.local:main"),
    "torchrun": Entry("under torchrun, on one or more hosts", "megadga.launch.torchrun:main"),
    "mpi": Entry("with Open MPI's mpirun", "megadga.launch.mpi:main"),
    "ssh": Entry("with DeepSpeed's launcher, over pdsh and ssh", "megadga.launch.ssh:main"),
    "slurm": Entry("as a job of SLURM", "megadga.launch.slurm:main"),
    "k8s": Entry("as pods of Kubernetes", "megadga.launch.kubernetes:main"),
}
_MIXTURE = {
    "set": Entry("set the weights of some domains", "megadga.commands.mixture:SET"),
    "freeze": Entry("keep the weights as they are", "megadga.commands.mixture:FREEZE"),
    "release": Entry("let the rule go on", "megadga.commands.mixture:RELEASE"),
    "show": Entry("print the weights, largest first", "megadga.commands.mixture:SHOW"),
}
_LAW = {
    "fit": Entry("fit losses to the runs of a sweep", "megadga.commands.law:FIT"),
    "predict": Entry("predict the losses of a mixture", "megadga.commands.law:PREDICT"),
    "optimise": Entry("find the mixture of the lowest loss", "megadga.commands.law:OPTIMISE"),
}
MEGADGA = Entry(
    "online data mixing for language-model pretraining",
    commands={
        "init": Entry("write a commented run into a new folder", "megadga.commands.init:INIT"),
        "data": Entry("turn text into shards, and look after them", commands=_DATA),
        "check": Entry("validate a run and its shards", "megadga.commands.check:CHECK"),
        "describe": Entry("explain a run key by key", "megadga.commands.check:DESCRIBE"),
        "plan": Entry("predict what a run costs on a cluster", "megadga.commands.plan:PLAN"),
        "calibrate": Entry(
            "measure what a cluster reaches, for plan", "megadga.commands.plan:CALIBRATE"
        ),
        "launch": Entry("train a run on one machine or a cluster", commands=_LAUNCH),
        "train": Entry("train a run in this process", "megadga.commands.train:TRAIN"),
        "sweep": Entry("train small runs at many mixtures", "megadga.commands.sweep:SWEEP"),
        "law": Entry("fit losses to mixtures, and choose one", commands=_LAW),
        "batch": Entry("print the sequences of a run's step", "megadga.commands.batch:BATCH"),
        "value": Entry(
            "say what trained text was worth for a target", "megadga.commands.value:VALUE"
        ),
        "mixture": Entry("set a run's weights by hand while it trains", commands=_MIXTURE),
        "evaluate": Entry(
            "measure a model's losses, or its answers", "megadga.commands.evaluate:EVALUATE"
        ),
        "generate": Entry("continue a text with a model", "megadga.commands.generate:GENERATE"),
        "export": Entry(
            "write a run's model as a Hugging Face folder", "megadga.commands.export:EXPORT"
        ),
        "compare": Entry("print runs side by side", "megadga.commands.compare:COMPARE"),
        "advise": Entry("say what to change in a run", "megadga.commands.advise:ADVISE"),
        "report": Entry("show runs side by side as a page", "megadga.commands.report:REPORT"),
        "doctor": Entry("ask hosts whether they are fit", "megadga.commands.doctor:DOCTOR"),
        "demo": Entry("train on text of this machine", "megadga.commands.train:DEMO"),
    },
)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command and return the exit code.

    Args:
        arguments: What follows the program's name; None: this process's own.
    """
    return run_main(
        lambda: _run(MEGADGA, sys.argv[1:] if arguments is None else arguments, prog="megadga")
    )


def _run(entry: Entry, arguments: Sequence[str], *, prog: str) -> int:
    if entry.program:
        module, _, name = entry.program.partition(":")
        program = cast("Program", getattr(import_module(module), name))
        return program(arguments, prog=prog)
    chosen, *rest = _parser(entry, prog).parse_args(arguments).command
    return _run(entry.commands[chosen], rest, prog=f"{prog} {chosen}")


def _parser(group: Entry, prog: str) -> argparse.ArgumentParser:
    """Return a parser of a command's name; all that follows the name is the command's own."""
    lines = (f"  {name:<11}{command.summary}" for name, command in group.commands.items())
    parser = argparse.ArgumentParser(
        prog=prog,
        description=group.summary,
        epilog="\n".join(("commands:", *lines)),
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    if group is MEGADGA:
        parser.add_argument("--version", action=_Version, nargs=0, help="print the version")
        # DeepSpeed's launcher puts it before everything else; LOCAL_RANK says the same.
        parser.add_argument("--local_rank", type=int, help=argparse.SUPPRESS)
    parser.add_argument(
        "command",
        nargs=argparse.PARSER,
        choices=group.commands,
        metavar="COMMAND",
        help="see below; COMMAND --help lists its options",
    )
    return parser


class _Version(argparse.Action):
    """Prints the version, which is looked up only then, and ends the program."""

    def __call__(self, parser: argparse.ArgumentParser, *_: Any) -> None:
        from megadga import __version__  # noqa: PLC0415

        print(f"megadga {__version__}")
        parser.exit()


if __name__ == "__main__":
    sys.exit(main())
