"""`megadga data build`: options and execution."""

import argparse
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from megadga.commands.command import Command
from megadga.data.create import SHARD_TOKENS
from megadga.data.inspection import render_table, summarize
from megadga.errors import ConfigError
from megadga.prepare.chat.encoding import ChatEncoder
from megadga.prepare.chat.template import CHATML
from megadga.prepare.pieces import Classifier
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
from megadga.prepare.tokenizers.loading import load_tokenizer
from megadga.prepare.workers import Workers, open_workers

_EPILOG = """\
examples:
  megadga data build --input 'text/*.jsonl.gz' --tokenizer web.model --output shards
  mpirun -n 65 megadga data build --input 'crawl/**/*.parquet' \\
      --domain-key meta.source --tokenizer web.model --output shards
  megadga data build --input 'text/*.jsonl.zst' --clusters clusters --level 4096 \\
      --tokenizer web.model --output shards/clustered
  megadga data build --chat --input 'mine/help.*.jsonl' --tokenizer qwen/ --eod '<|endoftext|>' \
      --output shards/specific

Inputs are files (.jsonl, .jsonl.gz, .jsonl.zst, .parquet, .txt) and folders of files. Each input
is one domain: text/novels.jsonl.gz becomes shards/novels/. With --domain-key or --clusters, each
record's domain is given by a key or by a clustering. A pair qa.train.jsonl, qa.valid.jsonl becomes
the two splits of shards/qa/, as do files in a folder whose names contain train and validation;
files named test are skipped. Of any other input a fraction of the documents, selected by a hash of
their text, is held out for validation.

With --chat each record is a dialogue, {"messages": [{"role": "user", "content": "..."}, ...]}. It
is rendered with the chat template of the tokenizer, and its shard notes which tokens are of the
assistant's turns: with `packing: chat` in a run's configuration, these alone are targets.

An interrupted build continues when the same command is run again. The output is identical for any
number of workers, ranks and interruptions. Under mpirun rank 0 distributes the work.
"""
_MEGABYTE = 1 << 20


def _add_options(parser: argparse.ArgumentParser) -> None:
    """Add all options of a build to a parser."""
    add = parser.add_argument_group("input and output").add_argument
    add("--input", nargs="+", required=True, metavar="GLOB", help="files or folders of documents")
    add(
        "--tokenizer",
        type=Path,
        required=True,
        metavar="FILE",
        help="a sentencepiece .model or a Hugging Face tokenizer.json",
    )
    add(
        "--eod",
        metavar="TOKEN",
        help="token that ends documents, if the tokenizer has several candidates",
    )
    add(
        "--output",
        type=Path,
        required=True,
        metavar="FOLDER",
        help="output: one folder per domain; with --grouped, one folder for all",
    )
    _add_record_options(add)
    _add_shard_options(add)
    _add_execution_options(parser.add_argument_group("execution").add_argument)


def _add_record_options(add: Callable[..., object]) -> None:
    """Add what says what is in a record, and of which domain it is."""
    add(
        "--text-key",
        metavar="KEY",
        help="key of the text in records; dots select nested keys (text; with --chat: messages)",
    )
    add("--chat", action="store_true", help="records are dialogues, with messages")
    add(
        "--chat-template",
        metavar="FILE",
        help=f"Jinja template of dialogues, or {CHATML} for a built-in one (default: the "
        "tokenizer's: chat_template.jinja or tokenizer_config.json beside it)",
    )
    add("--id-key", metavar="KEY", help="key of an id that is stored with each document")
    add("--domain-key", metavar="KEY", help="key of the domain's name, e.g. meta.source")
    add(
        "--clusters",
        type=Path,
        metavar="FOLDER",
        help="clustering whose clusters become domains (megadga data cluster); implies --grouped",
    )
    add("--level", type=int, metavar="K", help="number of clusters (default: the finest level)")
    add(
        "--embedder",
        type=Path,
        metavar="FOLDER",
        help="new location of the clustering's embedding model",
    )


def _add_shard_options(add: Callable[..., object]) -> None:
    """Add what says how documents are divided, shuffled and stored."""
    add("--grouped", action="store_true", help="one folder of shards for all domains")
    add("--piece-tokens", type=int, metavar="N", help="cut documents into pieces of N tokens")
    add(
        "--valid-fraction",
        type=float,
        default=0.05,
        metavar="F",
        help="share of documents to hold out, in [0, 1); a domain that would be held out whole is "
        "used for training (%(default)s)",
    )
    add("--seed", type=int, default=0, metavar="N", help="seed of the shuffle (%(default)s)")
    add(
        "--shard-tokens",
        type=int,
        default=SHARD_TOKENS,
        metavar="N",
        help="approximate tokens per shard (%(default)s)",
    )


def _add_execution_options(add: Callable[..., object]) -> None:
    add(
        "--max-bad",
        default="0",
        metavar="N",
        help="maximum number of invalid records to skip, or N%%; they "
        "are listed beside the output with file, line and reason (%(default)s)",
    )
    add(
        "--memory",
        type=int,
        default=MEMORY_BYTES // _MEGABYTE,
        metavar="MB",
        help="memory per worker for tokens; use more for terabytes of text (%(default)s)",
    )
    add(
        "--workers",
        type=int,
        metavar="N",
        help="processes (default: one per core); not under mpirun",
    )


def _read_build(args: argparse.Namespace) -> Build:
    """Return the build that the options describe.

    Raises:
        ConfigError: If options are inconsistent, or a file does not exist.
    """
    if args.clusters is not None and args.domain_key is not None:
        raise ConfigError("clusters, domain_key: expected one at most, found both")
    if args.clusters is None and (args.level is not None or args.embedder is not None):
        raise ConfigError("level, embedder: expected clusters with them, found none")
    if args.chat and (args.clusters is not None or args.piece_tokens is not None):
        raise ConfigError(
            "chat: expected neither clusters nor piece_tokens with it, which are for texts, "
            "found one"
        )
    if args.chat_template is not None and not args.chat:
        raise ConfigError("chat_template: expected chat with it, found none")
    tokenizer = load_tokenizer(args.tokenizer, eod=args.eod)
    text_key = args.text_key or ("messages" if args.chat else "text")
    return Build(
        corpus=_read_corpus(args),
        tokenizer=tokenizer,
        output=BuildOutput(args.output, grouped=args.grouped or args.clusters is not None),
        recipe=Recipe(
            Keys(text_key, args.id_key, args.domain_key, args.chat),
            valid_fraction=args.valid_fraction,
            seed=args.seed,
            piece_tokens=args.piece_tokens,
            shard_tokens=args.shard_tokens,
        ),
        classifier=_read_classifier(args),
        chat=ChatEncoder.load(tokenizer, args.tokenizer, args.chat_template)
        if args.chat
        else None,
    )


def _read_execution(args: argparse.Namespace, workers: Workers, *, stages: Stages) -> Execution:
    """Return the execution settings from the options.

    Raises:
        ConfigError: If a number is out of range.
    """
    return Execution(workers, args.memory * _MEGABYTE, MaxBad.parse(args.max_bad), stages)


def _describe_exceptions(built: BuildResult) -> Iterator[str]:
    """Yield a line per exception: domains without validation split, skipped records."""
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
            return 0  # a worker rank
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
