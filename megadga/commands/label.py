"""`megadga data label`: what is in domains, in words."""

import argparse
import os
from pathlib import Path

from megadga.commands.command import Command
from megadga.console import parse_whole_number
from megadga.data.folder import read_folders
from megadga.data.inspection import render_labels
from megadga.data.labels import write_labels
from megadga.data.manifest import TokenizerIdentity
from megadga.errors import ConfigError
from megadga.prepare.clustering.clusters import FILE_NAME as CLUSTERING_FILE
from megadga.prepare.labelling.shards import Labelling, default_sample, label_shards
from megadga.prepare.progress import ProgressBars
from megadga.prepare.tokenizers.base import Tokenizer
from megadga.prepare.tokenizers.kept import kept_beside, open_tokenizer
from megadga.prepare.workers import open_processes

_EPILOG = """\
examples:
  megadga data label shards/generic
  megadga data label shards/clustered --clusters clusters

writes SHARDS/labels.json: of each domain the words that tell it from the others, and three
documents. With --clusters, whose clusters the domains must be, these are the ones nearest to the
centroid, and the clusters of the level above are labelled, too: data.groups: parents sums over
them. A sample of each domain is read, with the tokenizer that `megadga data build` keeps beside
the shards. The result is identical for any number of workers.
"""


def _add_options(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add(
        "folder",
        type=Path,
        metavar="SHARDS",
        help="a folder of domains, or of many domains in shared shards",
    )
    add("--clusters", type=Path, metavar="FOLDER", help="output of megadga data cluster")
    add(
        "--embedder",
        type=Path,
        metavar="FOLDER",
        help="new location of the embedding model, unless TF-IDF",
    )
    add(
        "--tokenizer",
        type=Path,
        metavar="FILE",
        help="tokenizer of the shards (default: the copy beside them)",
    )
    add(
        "--sample-tokens",
        type=lambda text: parse_whole_number(text, least=1),
        metavar="N",
        help="tokens to read of each domain (default: 64 million of all, 1,024 to 32,768)",
    )
    add("--workers", type=int, default=os.cpu_count(), metavar="N", help="processes (all cores)")


def _label(args: argparse.Namespace) -> int:
    if args.embedder is not None and args.clusters is None:
        raise ConfigError("--embedder: expected --clusters beside it, found none")
    if (args.folder / CLUSTERING_FILE).exists():
        raise ConfigError(
            f"{args.folder}: expected shards, as clusters are labelled by their documents, found "
            f"a clustering: megadga data label SHARDS --clusters {args.folder}"
        )
    folders = read_folders(args.folder)
    number = sum(len(folder.domains.names) for folder in folders)
    labelling = Labelling(
        folder=args.folder,
        tokenizer=tokenizer_of_shards(args, args.folder, folders[0].manifest.tokenizer),
        sample=args.sample_tokens or default_sample(number),
        clustering=None if args.clusters is None else (args.clusters, args.embedder),
    )
    with ProgressBars() as bars, open_processes(args.workers) as pool:
        labels = label_shards(labelling, pool, stages=bars)
    try:
        path = write_labels(args.folder, labels)
    except OSError as error:
        found = error.strerror
        raise ConfigError(f"{args.folder}: expected to write there, found {found}") from None
    if labels.domains:
        print(render_labels(labels))
    print(f"{path}: {len(labels.domains):,} of {number:,} domains labelled")
    return 0


def tokenizer_of_shards(
    args: argparse.Namespace, folder: Path, identity: TokenizerIdentity
) -> Tokenizer:
    """Return the tokenizer that ``--tokenizer`` names, or the copy that is kept beside shards.

    Args:
        args: With ``tokenizer``.
        folder: Of the shards.
        identity: Of their tokenizer.

    Raises:
        ConfigError: If there is none, or it is another one.
    """
    file: Path | None = args.tokenizer
    if file is None:
        file = kept_beside([folder, folder.absolute().parent], identity.fingerprint)
    if file is None:
        raise ConfigError(
            f"--tokenizer: expected the file that {folder} was built with, as there is no "
            f"copy of it, tokenizer-{identity.fingerprint[:16]}, beside it, found none"
        )
    tokenizer = open_tokenizer(file, eod=identity.eod).ours
    if tokenizer.identity != identity:
        raise ConfigError(f"{file}: expected {identity}, found {tokenizer.identity}")
    return tokenizer


LABEL = Command(
    "Label domains: their most distinctive words, and three documents of each.",
    _add_options,
    _label,
    epilog=_EPILOG,
)
