"""`megadga data build`: its options, and what they ask to build."""

import argparse
from collections.abc import Iterator, Sequence
from pathlib import Path

from megadga.commands.command import Command
from megadga.data.create import SHARD_TOKENS
from megadga.data.inspection import render_table, summarize
from megadga.errors import ConfigError
from megadga.prepare.classifier import Classifier
from megadga.prepare.pipeline.build import Build, BuildResult, build_shards, format_names
from megadga.prepare.pipeline.corpus import Corpus, Recipe, corpus_by_input, corpus_of_files
from megadga.prepare.pipeline.merging import BuildOutput
from megadga.prepare.pipeline.stages import MEMORY_BYTES, Execution
from megadga.prepare.progress import ProgressBars, Stages
from megadga.prepare.reading.inputs import (
    describe_skipped,
    expand_inputs,
    plan_domains,
    plan_files,
)
from megadga.prepare.reading.records import Keys, MaxBad
from megadga.prepare.tokenizer import load_tokenizer
from megadga.prepare.workers import Workers, open_workers

_EPILOG = """\
examples:
  megadga data build --input 'text/*.jsonl.gz' --tokenizer web.model --output shards
  mpirun -n 65 megadga data build --input 'crawl/**/*.parquet' \\
      --domain-key meta.source --tokenizer web.model --output shards
  megadga data build --input 'text/*.jsonl.zst' --clusters clusters --level 4096 \\
      --tokenizer web.model --output shards/clustered

Inputs are files (.jsonl, .jsonl.gz, .jsonl.zst, .parquet, .txt) and folders of files. Each is a
domain, text/novels.jsonl.gz becomes shards/novels/, unless a key of the records or a clustering
says. A pair qa.train.jsonl, qa.valid.jsonl becomes the two splits of shards/qa/, as do files of a
folder that say train and validation; what says test is left out. Of any other input a fraction
of the documents, chosen by their text, is held out for validation.

Killed, it goes on where it was when the same command is run again. The bytes that come out are the
same for any number of workers, ranks and interruptions. Under mpirun one rank hands out the work.
"""
_MEGABYTE = 1 << 20


def _add_options(parser: argparse.ArgumentParser) -> None:
    """Add all options of a build to a parser."""
    add = parser.add_argument_group("what is built").add_argument
    add("--input", nargs="+", required=True, metavar="GLOB", help="files or folders of documents")
    add(
        "--tokenizer",
        type=Path,
        required=True,
        metavar="FILE",
        help="a sentencepiece .model or a Hugging Face tokenizer.json",
    )
    add("--eod", metavar="TOKEN", help="what ends documents, if the tokenizer leaves a choice")
    add(
        "--output",
        type=Path,
        required=True,
        metavar="FOLDER",
        help="gets one folder per domain; --grouped: is the folder that all of them share",
    )
    add(
        "--text-key",
        default="text",
        metavar="KEY",
        help="of the text in records; dots go into objects (%(default)s)",
    )
    add("--id-key", metavar="KEY", help="of an id that is kept beside each document")
    add("--domain-key", metavar="KEY", help="of the domain's name, as meta.source")
    add(
        "--clusters",
        type=Path,
        metavar="FOLDER",
        help="domains are clusters (megadga data cluster); implies --grouped",
    )
    add("--level", type=int, metavar="K", help="number of clusters (the most there are)")
    add("--embedder", type=Path, metavar="FOLDER", help="where the clusters' model is now")
    add("--grouped", action="store_true", help="one folder of shards for all domains")
    add("--piece-tokens", type=int, metavar="N", help="cut documents into pieces of N tokens")
    add(
        "--valid-fraction",
        type=float,
        default=0.05,
        metavar="F",
        help="held out, in [0, 1); a domain of which that would be all is trained on whole "
        "(%(default)s)",
    )
    add("--seed", type=int, default=0, metavar="N", help="of the shuffle (%(default)s)")
    add(
        "--shard-tokens",
        type=int,
        default=SHARD_TOKENS,
        metavar="N",
        help="tokens of a shard, about (%(default)s)",
    )
    add = parser.add_argument_group("how").add_argument
    add(
        "--max-bad",
        default="0",
        metavar="N",
        help="bad records to leave out, or N%%; they are "
        "listed beside the output with file, line and reason (%(default)s)",
    )
    add(
        "--memory",
        type=int,
        default=MEMORY_BYTES // _MEGABYTE,
        metavar="MB",
        help="tokens that a worker holds; at terabytes, take what there is (%(default)s)",
    )
    add("--workers", type=int, metavar="N", help="processes (a core each); not under mpirun")


def _read_build(args: argparse.Namespace) -> Build:
    """Return what the options ask to build.

    Raises:
        ConfigError: If they contradict each other, or name something that is not there.
    """
    if args.clusters is not None and args.domain_key is not None:
        raise ConfigError("clusters, domain_key: expected one at most, found both")
    if args.clusters is None and (args.level is not None or args.embedder is not None):
        raise ConfigError("level, embedder: expected clusters with them, found none")
    return Build(
        corpus=_read_corpus(args),
        tokenizer=load_tokenizer(args.tokenizer, eod=args.eod),
        output=BuildOutput(args.output, grouped=args.grouped or args.clusters is not None),
        recipe=Recipe(
            Keys(args.text_key, args.id_key, args.domain_key),
            valid_fraction=args.valid_fraction,
            seed=args.seed,
            piece_tokens=args.piece_tokens,
            shard_tokens=args.shard_tokens,
        ),
        classifier=_read_classifier(args),
    )


def _read_execution(args: argparse.Namespace, workers: Workers, *, stages: Stages) -> Execution:
    """Return how the options ask to carry it out.

    Raises:
        ConfigError: If a number is out of range.
    """
    return Execution(workers, args.memory * _MEGABYTE, MaxBad.parse(args.max_bad), stages)


def _describe_exceptions(built: BuildResult) -> Iterator[str]:
    """Yield a line on what a build did not treat like the rest."""
    if built.whole:
        yield (
            f"held out nothing of {len(built.whole):,} domains, as it would have been all they "
            f"have: {format_names(built.whole)}"
        )
    if built.rejects is not None:
        bad = f"{built.num_bad:,} of {built.num_records:,} records"
        yield f"skipped {bad}, listed in {built.rejects}"


def _read_corpus(args: argparse.Namespace) -> Corpus:
    paths: Sequence[Path] = expand_inputs(args.input)
    if args.clusters is None and args.domain_key is None:
        return corpus_by_input(plan_domains(paths), valid_fraction=args.valid_fraction)
    return corpus_of_files(plan_files(paths), valid_fraction=args.valid_fraction)


def _read_classifier(args: argparse.Namespace) -> Classifier | None:
    if args.clusters is None:
        return None
    from megadga.prepare.clustering.clusters import Clustering  # noqa: PLC0415  (few need it)

    clustering = Clustering.load(args.clusters, embedder_path=args.embedder)
    return clustering.classifier(args.level or clustering.tree.levels[-1])


def _build(args: argparse.Namespace) -> int:
    """Build, and print a table of what was built."""
    with open_workers(args.workers) as workers:
        if workers is None:
            return 0  # a rank that has worked for the first one
        with ProgressBars() as bars:
            execution = _read_execution(args, workers, stages=bars)
            built = build_shards(_read_build(args), execution)
        skipped = describe_skipped(expand_inputs(args.input), pairs=True)
    table = render_table([line for one in built.manifests for line in summarize(one)])
    print(table, *skipped, *_describe_exceptions(built), sep="\n")
    return 0


BUILD = Command(
    "Turn text into shards of domains, on one machine or, under mpirun, on many.",
    _add_options,
    _build,
    epilog=_EPILOG,
    continues=True,
)
