"""Show what is in a folder of domains, or in one domain's folder."""

import json
from pathlib import Path

from tqdm import tqdm

from megadga.console import run_program, shows_bars, tool_parser
from megadga.data.inspection import find_sources, inspect_domain, read_document, render_table
from megadga.errors import MegadgaError
from megadga.prepare.tokenizer import load_tokenizer

EPILOG = """\
examples:
  python tools/inspect_shards.py shards --sequence-length 2048
  python tools/inspect_shards.py shards/novels --decode 0 --tokenizer web.model

Every shard's header is checked; tools/verify_shards.py reads all the rest.
"""


def main() -> None:
    """Parse the command line and print what was asked for."""
    parser = tool_parser(__doc__, EPILOG)
    add = parser.add_argument
    add("folder", type=Path, metavar="FOLDER", help="a folder of domains, or one domain's folder")
    add("--sequence-length", type=int, metavar="S", help="count windows of S + 1 tokens")
    add("--decode", type=int, metavar="N", help="print document N of each domain, counted from 0")
    add("--split", default="train", metavar="SPLIT", help="where to find it (%(default)s)")
    add("--tokenizer", type=Path, metavar="FILE", help="what to decode with")
    add("--eod", metavar="TOKEN", help="what ends documents (the tokenizer's own, if it has one)")
    args = parser.parse_args()
    if (args.decode is None) != (args.tokenizer is None):
        parser.error("--decode and --tokenizer: expected both or neither, found one")
    if args.sequence_length is not None and args.sequence_length < 1:
        parser.error(f"--sequence-length: expected at least 1, found {args.sequence_length}")
    try:
        sources = find_sources(args.folder)
        if args.decode is None:
            bar = tqdm(sources, desc="inspecting", unit=" domains", disable=not shows_bars())
            found = [line for source in bar for line in inspect_domain(source)]
            print(render_table(found, sequence_length=args.sequence_length))
            return
        tokenizer, split = load_tokenizer(args.tokenizer, eod=args.eod, encodes=False), args.split
        for source in sources:
            stored = read_document(source, tokenizer.identity, split=split, index=args.decode)
            place = "" if stored.document_id is None else f" {json.dumps(stored.document_id)},"
            print(f"==> {source.name}: {split} document {args.decode},{place}", end=" ")
            print(f"{stored.tokens.size:,} tokens\n{tokenizer.decode(stored.tokens)}")
    except MegadgaError as error:
        parser.exit(2, f"{parser.prog}: {error}\n")


if __name__ == "__main__":
    run_program(main)
