"""Commands on shards: `megadga data inspect`, `verify`, `leakage`, `merge` and `adopt`."""

import argparse
import json
import os
import sys
from pathlib import Path

from tqdm import tqdm

from megadga.commands.command import Command
from megadga.console import parse_whole_number, shows_bars
from megadga.data.create import SHARD_TOKENS, adopt_shards, count_token_bytes
from megadga.data.folder import open_split, read_folders
from megadga.data.inspection import (
    TRAINED_MARKS,
    find_sources,
    inspect_domain,
    read_document,
    render_labels,
    render_table,
    show_trained,
    summarize,
)
from megadga.data.labels import Labels, read_labels
from megadga.data.manifest import manifest_path
from megadga.data.merge import merge_domains, read_merge_sources
from megadga.data.verify import find_folders, plan_checks, verify_shard
from megadga.errors import ConfigError
from megadga.prepare.leakage.search import (
    LeakageRule,
    describe_excess,
    plan_search,
    render_leakage,
    write_leakage,
)
from megadga.prepare.tokenizers.loading import load_tokenizer
from megadga.prepare.workers import open_processes

_INSPECT_EPILOG = """\
examples:
  megadga data inspect shards --sequence-length 2048
  megadga data inspect shards/novels --decode 0 --tokenizer web.model

Of a dialogue, built with --chat, the trained parts are shown between >>> and <<<.
Labels, by `megadga data label`, are shown where there are some.
Only headers are checked; `megadga data verify` reads the shards completely.
"""
_VERIFY_EPILOG = """\
example:
  megadga data verify shards/generic shards/specific

Checks headers, sizes, sentence and document offsets, that token ids are in the vocabulary, the
spans of trained tokens, scores, and counts and checksums against the manifest. Prints a line per
problem; exit code 1 if there are any.
"""
_LEAKAGE_EPILOG = """\
example:
  megadga data leakage --domains shards/generic --specific shards/specific/qa \\
      --max-overlap 0.01 --tokenizer web.model

Exit code 1 if a domain, all domains together or the set's own training split contains more of a
set's n-grams than --max-overlap; 2 if the search failed.
"""
_MERGE_EPILOG = """\
example:
  megadga data merge shards/novels shards/plays --output merged/fiction

Each split is the concatenation of the domains' splits, in the given order, without shuffling.
Checksums are verified while copying. The input domains are not changed.
"""
_ADOPT_EPILOG = """\
example:
  megadga data adopt shards/web --tokenizer tokenizer.json --valid '*_valid_*'

All shards in the folder become the training split, in the natural order of their names (web_2
before web_10), except those that match --valid. The shards are read completely and not changed.
"""


def _add_inspect_options(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("folder", type=Path, metavar="FOLDER", help="a folder of domains, or one domain's folder")
    add("--sequence-length", type=_length, metavar="S", help="count windows of S + 1 tokens")
    add("--decode", type=int, metavar="N", help="print document N (from 0) of each domain")
    add("--split", default="train", metavar="SPLIT", help="split of that document (%(default)s)")
    add("--tokenizer", type=Path, metavar="FILE", help="tokenizer to decode with")
    add("--eod", metavar="TOKEN", help="token that ends documents (default: the tokenizer's)")


def _length(text: str) -> int:
    return parse_whole_number(text, least=1)


def _inspect(args: argparse.Namespace) -> int:
    if (args.decode is None) != (args.tokenizer is None):
        raise ConfigError("--decode and --tokenizer: expected both or neither, found one")
    sources = find_sources(args.folder)
    if args.decode is None:
        bar = tqdm(sources, desc="inspecting", unit=" domains", disable=not shows_bars())
        found = [line for source in bar for line in inspect_domain(source)]
        own, beside = (read_labels(f) or Labels({}) for f in (args.folder, args.folder / ".."))
        is_one = manifest_path(args.folder).exists()  # of a domain, or of many in shared shards
        of_folders = beside.domains if is_one else own.domains
        print(render_table(found, sequence_length=args.sequence_length, labels=of_folders))
        if is_one and own.domains:
            print(render_labels(own))
        return 0
    tokenizer, split = load_tokenizer(args.tokenizer, eod=args.eod, encodes=False), args.split
    for source in sources:
        stored = read_document(source, tokenizer.identity, split=split, index=args.decode)
        place = "" if stored.document_id is None else f" {json.dumps(stored.document_id)},"
        print(f"==> {source.name}: {split} document {args.decode},{place}", end=" ")
        print(f"{stored.tokens.size:,} tokens", end="")
        if stored.trained is None:
            print(f"\n{tokenizer.decode(stored.tokens)}")
            continue
        text = show_trained(
            stored.tokens,
            stored.trained,
            decode=tokenizer.decode,
            special=tokenizer.special_tokens,
        )
        begin, end = TRAINED_MARKS
        print(f", {stored.trained.sum():,} trained, between {begin} and {end}\n{text}")
    return 0


def _add_verify_options(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add(
        "folders",
        type=Path,
        nargs="+",
        metavar="FOLDER",
        help="folder of domains, or of one domain",
    )
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
    add(
        "--n",
        type=int,
        default=usual.n,
        metavar="N",
        help="length of an n-gram in tokens (%(default)s)",
    )
    add("--document-share", type=float, default=usual.document_share, metavar="F",
        help="share of n-grams from which a document counts as leaked (%(default)s)")  # fmt: skip
    add("--max-overlap", type=float, default=usual.max_overlap, metavar="F",
        help="allowed share of a set's n-grams, in [0, 1] (%(default)s)")  # fmt: skip
    add("--tokenizer", type=Path, metavar="MODEL", help="tokenizer to print matches with")
    add("--json", type=Path, metavar="FILE", help="write all results to a file")


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
    add("folders", type=Path, nargs="+", metavar="FOLDER", help="a domain's folder")
    add("--output", type=Path, required=True, metavar="FOLDER", help="folder of the new domain")
    add("--shard-tokens", type=int, default=SHARD_TOKENS, metavar="N",
        help="approximate tokens per shard (%(default)s)")  # fmt: skip
    add("--drop-ids", action="store_true", help="do not copy document ids")
    add("--drop-scores", action="store_true", help="do not copy the documents' scores")


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
            drop_scores=args.drop_scores,
            progress=bar.update,
        )
    print(render_table(summarize(manifest)))
    return 0


def _add_adopt_options(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add(
        "folder",
        type=Path,
        metavar="FOLDER",
        help="folder of .bin and .idx files; receives a manifest.json",
    )
    add(
        "--tokenizer",
        type=Path,
        required=True,
        metavar="FILE",
        help="tokenizer that produced the tokens",
    )
    add("--eod", metavar="TOKEN", help="token that ends documents (default: the tokenizer's)")
    add("--valid", metavar="GLOB", help="pattern of the names, without .idx, of validation shards")


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
    "Summarize a folder of domains, or one domain's folder.",
    _add_inspect_options,
    _inspect,
    epilog=_INSPECT_EPILOG,
)
VERIFY = Command(
    "Read shards completely and report every inconsistency.",
    _add_verify_options,
    _verify,
    epilog=_VERIFY_EPILOG,
)
LEAKAGE = Command(
    "Search training domains for n-grams of the specific sets' validation splits.",
    _add_leakage_options,
    _look_for_leakage,
    epilog=_LEAKAGE_EPILOG,
)
MERGE = Command(
    "Merge several domains with the same tokenizer into one.",
    _add_merge_options,
    _merge,
    epilog=_MERGE_EPILOG,
)
ADOPT = Command(
    "Write a manifest for shards built by Megatron.",
    _add_adopt_options,
    _adopt,
    epilog=_ADOPT_EPILOG,
)
