"""`megadga data select`: shards of the documents that are kept by their scores."""

import argparse
from pathlib import Path

from tqdm import tqdm

from megadga.commands.command import Command
from megadga.console import parse_whole_number, shows_bars
from megadga.data.inspection import find_sources, inspect_domain, render_table
from megadga.data.selection import SPLIT, Choice, Kept, Tiers, read_scored, select_documents
from megadga.errors import ConfigError
from megadga.prepare.reading.splits import kept_tokenizer_path
from megadga.prepare.tokenizers.kept import kept_beside

_EPILOG = """\
examples:
  megadga data select shards/generic shards/best --scores perplexity --keep 0.3
  megadga data select shards/generic shards/even --scores density --keep 0.3 --temperature 1
  megadga data select shards/generic shards/tiers --scores pubmedqa --tiers 4

Of each domain a share of its training tokens is kept, or the domain is divided into tiers of
equally many tokens, DOMAIN-tier1 with the highest scores, which are domains to every mixer.
A score is the logarithm of how much a document is wanted: with --temperature T documents are
sampled without replacement in proportion to exp(score / T). The sample is a function of the seed
and the documents' places: it does not depend on the machine, and a document keeps its random
number when others are appended. Validation documents are all kept, of tiers by the first one.
"""


def _add_options(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("shards", type=Path, metavar="SHARDS", help="what `megadga data score` has scored")
    add("output", type=Path, metavar="OUTPUT", help="folder of the new shards")
    add("--scores", required=True, metavar="NAME", help="name of the scores")
    choice = parser.add_mutually_exclusive_group(required=True)
    choice.add_argument(
        "--keep", type=float, metavar="SHARE", help="share of the tokens to keep, in (0, 1]"
    )
    choice.add_argument("--tiers", type=int, metavar="N", help="divide each domain into N")
    add(
        "--part",
        choices=("highest", "middle", "lowest"),
        help="with --keep: the documents of which scores (default: highest)",
    )
    add("--temperature", type=float, metavar="T", help="with --keep: sample, by exp(score / T)")
    add(
        "--seed",
        type=lambda text: parse_whole_number(text, least=0),
        metavar="N",
        help="of the sample (default: 0)",
    )


def _choice(args: argparse.Namespace) -> Choice:
    if args.tiers is not None:
        for option in ("part", "temperature", "seed"):
            if (found := getattr(args, option)) is not None:
                raise ConfigError(f"--{option}: expected --keep beside it, found {found}")
        return Tiers(args.tiers)
    if args.seed is not None and args.temperature is None:
        raise ConfigError(f"--seed: expected --temperature beside it, found {args.seed}")
    return Kept(args.keep, args.part or "highest", args.temperature, args.seed or 0)


def _select(args: argparse.Namespace) -> int:
    choice = _choice(args)
    folders = read_scored(args.shards)
    total = sum(folder.manifest.num_tokens(SPLIT) for folder in folders)
    total = round(total * choice.share) if isinstance(choice, Kept) else total
    with tqdm(
        total=total, unit=" tokens", unit_scale=True, desc="selecting", disable=not shows_bars()
    ) as bar:
        select_documents(args.shards, args.output, args.scores, choice, progress=bar.update)
    _keep_tokenizer(args.shards, args.output, folders[0].manifest.tokenizer.fingerprint)
    found = [line for source in find_sources(args.output) for line in inspect_domain(source)]
    print(render_table(found))
    return 0


def _keep_tokenizer(shards: Path, output: Path, fingerprint: str) -> None:
    """Copy the tokenizer's file that is kept beside shards, if it is."""
    kept = kept_beside([shards.absolute()], fingerprint)
    if kept is not None:
        kept_tokenizer_path(output, fingerprint, kept.suffix).write_bytes(kept.read_bytes())


SELECT = Command(
    "Write shards of the documents that are kept by their scores, or of tiers of them.",
    _add_options,
    _select,
    epilog=_EPILOG,
)
