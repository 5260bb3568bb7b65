"""Look for the validation split of specific sets in training domains, n-gram by n-gram."""

from pathlib import Path

from tqdm import tqdm

from megadga.console import run_program, shows_bars, tool_parser
from megadga.data.folder import open_split, read_folders
from megadga.data.inspection import find_sources
from megadga.errors import MegadgaError
from megadga.prepare.leakage import search as leakage
from megadga.prepare.tokenizer import load_tokenizer

EPILOG = """\
example:
  python tools/check_leakage.py --domains shards/generic --specific shards/specific/qa \\
      --max-overlap 0.01 --tokenizer web.model

Exit code 1 if a domain, all of them together or the set's own training split holds more of a set's
n-grams than --max-overlap; 2 if it could not be found out.
"""


def main() -> None:
    """Parse the command line, search, and print a table for each set."""
    parser = tool_parser(__doc__, EPILOG)
    add, usual = parser.add_argument, leakage.LeakageRule()
    add("--domains", type=Path, required=True, metavar="FOLDER", help="one folder per domain")
    add("--specific", type=Path, required=True, metavar="FOLDER", help="a set or a folder of sets")
    add("--n", type=int, default=usual.n, metavar="N", help="tokens in a row (%(default)s)")
    add("--document-share", type=float, default=usual.document_share, metavar="F",
        help="of its n-grams, from which a document counts as leaked (%(default)s)")  # fmt: skip
    add("--max-overlap", type=float, default=usual.max_overlap, metavar="F",
        help="of a set's n-grams, in [0, 1] (%(default)s)")  # fmt: skip
    add("--tokenizer", type=Path, metavar="MODEL", help="show what was found as text")
    add("--json", type=Path, metavar="FILE", help="write all numbers there")
    args = parser.parse_args()
    try:
        rule = leakage.LeakageRule(args.n, args.document_share, args.max_overlap)
        decode = load_tokenizer(args.tokenizer, encodes=False).decode if args.tokenizer else None
        folders = read_folders(args.domains)
        domains = open_split(folders, split="train", sequence_length=1).domains
        searches = [
            leakage.plan_search(source, domains, rule) for source in find_sources(args.specific)
        ]
        total = sum(search.num_tokens for search in searches)
        with tqdm(total=total, unit=" tokens", unit_scale=True, disable=not shows_bars()) as bar:
            found = [search.run(bar.update) for search in searches]
        if args.json:
            leakage.write_leakage(args.json, found)
    except MegadgaError as error:
        parser.exit(2, f"{parser.prog}: {error}\n")
    print("\n\n".join("\n".join(leakage.render_leakage(one, decode=decode)) for one in found))
    complaints = list(filter(None, map(leakage.describe_excess, found)))
    parser.exit(1 if complaints else 0, "".join(f"{parser.prog}: {line}\n" for line in complaints))


if __name__ == "__main__":
    run_program(main)
