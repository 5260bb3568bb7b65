"""Commands on shards: `megadga data inspect`, `verify`, `leakage`, `merge` and `adopt`."""

import argparse
import json
import os
import sys
from pathlib import Path

from tqdm import tqdm

from megadga.commands.command import Command
from megadga.console import parse_whole_number, shows_bars
from megadga.data.create import (
    SHARD_TOKENS,
    adopt_shards,
    count_token_bytes,
    merge_domains,
    read_merge_sources,
)
from megadga.data.folder import open_split, read_folders
from megadga.data.inspection import (
    find_sources,
    inspect_domain,
    read_document,
    render_table,
    summarize,
)
from megadga.data.verify import find_folders, plan_checks, verify_shard
from megadga.errors import ConfigError
from megadga.prepare.leakage.search import (
    LeakageRule,
    describe_excess,
    plan_search,
    render_leakage,
    write_leakage,
)
from megadga.prepare.tokenizer import load_tokenizer
from megadga.prepare.workers import open_processes

_INSPECT_EPILOG = """\
examples:
  megadga data inspect shards --sequence-length 2048
  megadga data inspect shards/novels --decode 0 --tokenizer web.model

Every shard's header is checked; `megadga data verify` reads all the rest.
"""
_VERIFY_EPILOG = """\
example:
  megadga data verify shards/generic shards/specific

Compared are headers, sizes, the places of sentences and documents, ids with the vocabulary, and
counts and checksums with the manifest. Ends with 1 if anything is wrong, a line per problem.
"""
_LEAKAGE_EPILOG = """\
example:
  megadga data leakage --domains shards/generic --specific shards/specific/qa \\
      --max-overlap 0.01 --tokenizer web.model

Exit code 1 if a domain, all of them together or the set's own training split holds more of a set's
n-grams than --max-overlap; 2 if it could not be found out.
"""
_MERGE_EPILOG = """\
example:
  megadga data merge shards/novels shards/plays --output merged/fiction

Each split holds that of the first domain, then that of the second, and so on: nothing is shuffled.
Checksums are compared on the way. The domains themselves are left as they are.
"""
_ADOPT_EPILOG = """\
example:
  megadga data adopt shards/web --tokenizer tokenizer.json --valid '*_valid_*'

All shards in the folder become the training split, in the natural order of their names (web_2
before web_10), except those that match --valid. The shards are read whole, and left as they are.
"""


def _add_inspect_options(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("folder", type=Path, metavar="FOLDER", help="a folder of domains, or one domain's folder")
    add("--sequence-length", type=_length, metavar="S", help="count windows of S + 1 tokens")
    add("--decode", type=int, metavar="N", help="print document N of each domain, counted from 0")
    add("--split", default="train", metavar="SPLIT", help="where to find it (%(default)s)")
    add("--tokenizer", type=Path, metavar="FILE", help="what to decode with")
    add("--eod", metavar="TOKEN", help="what ends documents (the tokenizer's own, if it has one)")


def _length(text: str) -> int:
    return parse_whole_number(text, least=1)


def _inspect(args: argparse.Namespace) -> int:
    if (args.decode is None) != (args.tokenizer is None):
        raise ConfigError("--decode and --tokenizer: expected both or neither, found one")
    sources = find_sources(args.folder)
    if args.decode is None:
        bar = tqdm(sources, desc="inspecting", unit=" domains", disable=not shows_bars())
        found = [line for source in bar for line in inspect_domain(source)]
        print(render_table(found, sequence_length=args.sequence_length))
        return 0
    tokenizer, split = load_tokenizer(args.tokenizer, eod=args.eod, encodes=False), args.split
    for source in sources:
        stored = read_document(source, tokenizer.identity, split=split, index=args.decode)
        place = "" if stored.document_id is None else f" {json.dumps(stored.document_id)},"
        print(f"==> {source.name}: {split} document {args.decode},{place}", end=" ")
        print(f"{stored.tokens.size:,} tokens\n{tokenizer.decode(stored.tokens)}")
    return 0


def _add_verify_options(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("folders", type=Path, nargs="+", metavar="FOLDER", help="of domains, or of one domain")
    add("--workers", type=int, default=os.cpu_count(), metavar="N", help="processes (all cores)")


def _verify(args: argparse.Namespace) -> int:
    plans = [plan_checks(folder) for path in args.folders for folder in find_folders(path)]
    problems = [line for plan in plans for line in plan.problems]
    for line in problems:
        print(line)
    checks = [check for plan in plans for check in plan.shards]
    total = sum(check.num_bytes for check in checks)
    with (
        open_processes(args.workers) as pool,
        tqdm(
            total=total, unit="B", unit_scale=True, desc="verifying", disable=not shows_bars()
        ) as bar,
    ):
        for report in pool.map_in_order(verify_shard, checks):
            for line in (*report.problems, *report.warnings):
                bar.write(line)
            problems += report.problems
            bar.update(report.num_bytes)
    documents = sum(check.entry.documents for check in checks)
    tokens = sum(check.entry.tokens for check in checks)
    print(
        f"folders: {len(plans):,}, shards: {len(checks):,}, documents: {documents:,}, "
        f"tokens: {tokens:,}, problems: {len(problems):,}"
    )
    return 1 if problems else 0


def _add_leakage_options(parser: argparse.ArgumentParser) -> None:
    add, usual = parser.add_argument, LeakageRule()
    add("--domains", type=Path, required=True, metavar="FOLDER", help="one folder per domain")
    add("--specific", type=Path, required=True, metavar="FOLDER", help="a set or a folder of sets")
    add("--n", type=int, default=usual.n, metavar="N", help="tokens in a row (%(default)s)")
    add("--document-share", type=float, default=usual.document_share, metavar="F",
        help="of its n-grams, from which a document counts as leaked (%(default)s)")  # fmt: skip
    add("--max-overlap", type=float, default=usual.max_overlap, metavar="F",
        help="of a set's n-grams, in [0, 1] (%(default)s)")  # fmt: skip
    add("--tokenizer", type=Path, metavar="MODEL", help="show what was found as text")
    add("--json", type=Path, metavar="FILE", help="write all numbers there")


def _look_for_leakage(args: argparse.Namespace) -> int:
    rule = LeakageRule(args.n, args.document_share, args.max_overlap)
    decode = load_tokenizer(args.tokenizer, encodes=False).decode if args.tokenizer else None
    folders = read_folders(args.domains)
    domains = open_split(folders, split="train", sequence_length=1).domains
    searches = [plan_search(source, domains, rule) for source in find_sources(args.specific)]
    total = sum(search.num_tokens for search in searches)
    with tqdm(total=total, unit=" tokens", unit_scale=True, disable=not shows_bars()) as bar:
        found = [search.run(bar.update) for search in searches]
    if args.json:
        write_leakage(args.json, found)
    print("\n\n".join("\n".join(render_leakage(one, decode=decode)) for one in found))
    complaints = list(filter(None, map(describe_excess, found)))
    for line in complaints:
        print(f"{args.prog}: {line}", file=sys.stderr)
    return 1 if complaints else 0


def _add_merge_options(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("folders", type=Path, nargs="+", metavar="FOLDER", help="of one domain each")
    add("--output", type=Path, required=True, metavar="FOLDER", help="of the new domain")
    add("--shard-tokens", type=int, default=SHARD_TOKENS, metavar="N",
        help="close a shard once it holds so many (%(default)s)")  # fmt: skip
    add("--drop-ids", action="store_true", help="leave out where documents came from")


def _merge(args: argparse.Namespace) -> int:
    sources = read_merge_sources(args.folders)
    total = sum(source.num_tokens for source in sources)
    with tqdm(
        total=total, unit=" tokens", unit_scale=True, desc="merging", disable=not shows_bars()
    ) as bar:
        manifest = merge_domains(
            sources,
            args.output,
            shard_tokens=args.shard_tokens,
            drop_ids=args.drop_ids,
            progress=bar.update,
        )
    print(render_table(summarize(manifest)))
    return 0


def _add_adopt_options(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("folder", type=Path, metavar="FOLDER", help="with .bin and .idx; gets a manifest.json")
    add("--tokenizer", type=Path, required=True, metavar="FILE", help="what wrote the tokens")
    add("--eod", metavar="TOKEN", help="what ends documents (the tokenizer's own, if it has one)")
    add("--valid", metavar="GLOB", help="names, without .idx, of shards to validate on")


def _adopt(args: argparse.Namespace) -> int:
    tokenizer = load_tokenizer(args.tokenizer, eod=args.eod, encodes=False)
    total = count_token_bytes(args.folder)
    with tqdm(
        total=total, unit="B", unit_scale=True, desc="reading", disable=not shows_bars()
    ) as bar:
        adopted = adopt_shards(
            args.folder, tokenizer.identity, valid=args.valid, progress=bar.update
        )
    print(render_table(summarize(adopted.manifest)))
    if adopted.without_eod:
        print(f"documents that do not end in EOD: {adopted.without_eod:,}")
    return 0


INSPECT = Command(
    "Show what is in a folder of domains, or in one domain's folder.",
    _add_inspect_options,
    _inspect,
    epilog=_INSPECT_EPILOG,
)
VERIFY = Command(
    "Read every byte of domains' shards and say exactly what is wrong with them.",
    _add_verify_options,
    _verify,
    epilog=_VERIFY_EPILOG,
)
LEAKAGE = Command(
    "Look for the validation split of specific sets in training domains, n-gram by n-gram.",
    _add_leakage_options,
    _look_for_leakage,
    epilog=_LEAKAGE_EPILOG,
)
MERGE = Command(
    "Make one domain of several, with the same tokenizer.",
    _add_merge_options,
    _merge,
    epilog=_MERGE_EPILOG,
)
ADOPT = Command(
    "Write the manifest of a folder with shards that Megatron has built.",
    _add_adopt_options,
    _adopt,
    epilog=_ADOPT_EPILOG,
)
