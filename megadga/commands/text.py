"""Commands that learn from text: `megadga data tokenizer`, `cluster` and `histogram`."""

import argparse
import os
from pathlib import Path

from tqdm import tqdm

from megadga.commands.command import Command
from megadga.console import shows_bars
from megadga.prepare.clustering import references
from megadga.prepare.clustering.clusters import Clustering
from megadga.prepare.clustering.embedding import SentenceEmbedder
from megadga.prepare.clustering.references import Smoothing
from megadga.prepare.clustering.training import ClusteringRecipe, train_clusters
from megadga.prepare.pieces import text_cutter
from megadga.prepare.progress import ProgressBars
from megadga.prepare.reading.inputs import describe_skipped, expand_inputs
from megadga.prepare.reading.records import BadRecords, MaxBad
from megadga.prepare.tokenizers.loading import load_tokenizer
from megadga.prepare.training import sample_texts, train_tokenizer

_TOKENIZER_EPILOG = """\
example:
  megadga data tokenizer --input 'text/*.jsonl.gz' --vocab-size 32000 --output tok/web32k

writes tok/web32k.model. The vocabulary holds 256 bytes and 3 control pieces; </s> ends documents.
Every input contributes the same amount of text, at most 100 million characters in total. Files
named validation or test are skipped.
"""
_CLUSTER_EPILOG = """\
example:
  megadga data cluster --input 'text/*.jsonl.gz' --levels 64 4096 \\
      --tokenizer web.model --piece-tokens 256 --output clusters

The embedding is TF-IDF with a truncated SVD, fitted to the input, or a sentence-transformers model
on this machine (--embedder). Give `megadga data build` and `megadga data histogram` the same
--piece-tokens. Files named validation or test are skipped. The result is identical for any number
of workers.
"""
_HISTOGRAM_EPILOG = """\
example:
  megadga data histogram --clusters clusters --level 4096 --smooth 16 --output basis.npz \\
      --input qa='mine/qa.*.jsonl' --input code='mine/code/*.jsonl.gz'

FILE.npz is a basis with one row per set. FILE.json holds the histogram of a single set, for
`mixing: {type: importance, histogram: FILE.json}`.
"""


def _add_reading_options(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add(
        "--text-key",
        default="text",
        metavar="KEY",
        help="key of the text in records (%(default)s)",
    )
    add(
        "--max-bad",
        default="0",
        metavar="N",
        help="maximum number of invalid records to skip, or N%%, per pass over the input; records "
        "without text are not counted (%(default)s)",
    )


def _add_piece_options(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add(
        "--tokenizer",
        type=Path,
        metavar="MODEL",
        help="tokenizer that counts the tokens of pieces",
    )
    add(
        "--piece-tokens",
        type=int,
        metavar="N",
        help="cut documents into pieces of N tokens (default: whole documents)",
    )


def _add_tokenizer_options(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("--input", nargs="+", required=True, metavar="GLOB",
        help="files (.jsonl, .jsonl.gz, .txt) or folders of files")  # fmt: skip
    add("--vocab-size", type=int, required=True, metavar="N", help="number of ids")
    add("--output", type=Path, required=True, metavar="PREFIX", help="the model is PREFIX.model")
    _add_reading_options(parser)


def _train_tokenizer(args: argparse.Namespace) -> int:
    inputs = expand_inputs(args.input, output=Path(f"{args.output}.model"))
    skipped = describe_skipped(inputs)
    bad = BadRecords(MaxBad.parse(args.max_bad))
    texts = sample_texts(inputs, text_key=args.text_key, bad=bad)
    reading = tqdm(texts, desc="reading", unit=" documents", disable=not shows_bars())
    tokenizer = train_tokenizer(reading, vocab_size=args.vocab_size, prefix=args.output)
    learnt = f"{tokenizer.path}: {tokenizer.identity.vocab_size} ids"
    print(*skipped, *bad.describe(), learnt, sep="\n")
    return 0


def _add_cluster_options(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("--input", nargs="+", required=True, metavar="GLOB", help="files or folders of documents")
    add("--output", type=Path, required=True, metavar="FOLDER", help="output folder")
    add(
        "--levels",
        type=int,
        nargs="+",
        required=True,
        metavar="K",
        help="numbers of clusters, coarsest first",
    )
    add(
        "--embedder",
        type=Path,
        metavar="FOLDER",
        help="a sentence-transformers model (default: TF-IDF)",
    )
    _add_piece_options(parser)
    _add_reading_options(parser)
    add(
        "--seed",
        type=int,
        default=0,
        metavar="N",
        help="seed of sampling and k-means (%(default)s)",
    )
    add(
        "--workers",
        type=int,
        default=os.cpu_count(),
        metavar="N",
        help="processes (default: all cores)",
    )


def _train_clusters(args: argparse.Namespace) -> int:
    tokenizer = args.tokenizer and load_tokenizer(args.tokenizer)
    cut = text_cutter(tokenizer, args.piece_tokens)
    max_bad = MaxBad.parse(args.max_bad)
    recipe = ClusteringRecipe(tuple(args.levels), cut, args.text_key, args.seed, max_bad)
    embedder = args.embedder and SentenceEmbedder.load(args.embedder)
    with ProgressBars() as bars:
        clustering = train_clusters(
            expand_inputs(args.input), args.output, recipe,
            embedder=embedder, workers=args.workers, stages=bars, report=print,
        )  # fmt: skip
    levels = ", ".join(f"{level:,}" for level in clustering.tree.levels)
    print(f"{args.output}: {levels} clusters, fingerprint {clustering.fingerprint[:12]}")
    return 0


def _add_histogram_options(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add(
        "--clusters",
        type=Path,
        required=True,
        metavar="FOLDER",
        help="output of megadga data cluster",
    )
    add("--level", type=int, required=True, metavar="K", help="number of clusters")
    add(
        "--input",
        nargs="+",
        action="extend",
        required=True,
        metavar="NAME=GLOB",
        help="a set's name and files",
    )
    add("--output", type=Path, required=True, metavar="FILE", help="output, .json or .npz")
    add(
        "--embedder",
        type=Path,
        metavar="FOLDER",
        help="new location of the embedding model, unless TF-IDF",
    )
    _add_piece_options(parser)
    add(
        "--smooth",
        type=int,
        metavar="M",
        help="nearest clusters that an example is spread over (default: 1)",
    )
    add(
        "--temperature",
        type=float,
        default=0.02,
        metavar="T",
        help="temperature of --smooth (%(default)s)",
    )
    _add_reading_options(parser)


def _measure_histogram(args: argparse.Namespace) -> int:
    sets = references.parse_references(args.input, output=args.output)
    references.check_output(args.output, len(sets))
    cut = text_cutter(args.tokenizer and load_tokenizer(args.tokenizer), args.piece_tokens)
    bad = BadRecords(MaxBad.parse(args.max_bad))
    smoothing = None if args.smooth is None else Smoothing(args.smooth, args.temperature)
    clustering = Clustering.load(args.clusters, embedder_path=args.embedder)
    with ProgressBars() as bars:
        basis = references.measure_references(
            sets, clustering, args.level,
            cut=cut, text_key=args.text_key, bad=bad, smoothing=smoothing, stages=bars,
        )  # fmt: skip
    references.write_shares(args.output, basis)
    print("\n".join((*bad.describe(), *references.describe_rows(basis))))
    return 0


TOKENIZER = Command(
    "Train a sentencepiece tokenizer on text files.",
    _add_tokenizer_options,
    _train_tokenizer,
    epilog=_TOKENIZER_EPILOG,
)
CLUSTER = Command(
    "Learn an embedding and hierarchical clusters from a sample of documents.",
    _add_cluster_options,
    _train_clusters,
    epilog=_CLUSTER_EPILOG,
)
HISTOGRAM = Command(
    "Measure the share of reference sets in each cluster: importance weights, or a basis.",
    _add_histogram_options,
    _measure_histogram,
    epilog=_HISTOGRAM_EPILOG,
)
