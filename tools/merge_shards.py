"""Make one domain of several, with the same tokenizer."""

from pathlib import Path

from tqdm import tqdm

from megadga.console import run_program, shows_bars, tool_parser
from megadga.data.create import SHARD_TOKENS, merge_domains, read_merge_sources
from megadga.data.inspection import render_table, summarize
from megadga.errors import MegadgaError

EPILOG = """\
example:
  python tools/merge_shards.py shards/novels shards/plays --output merged/fiction

Each split holds that of the first domain, then that of the second, and so on: nothing is shuffled.
Checksums are compared on the way. The domains themselves are left as they are.
"""


def main() -> None:
    """Parse the command line, merge, and print a table of what was written."""
    parser = tool_parser(__doc__, EPILOG)
    add = parser.add_argument
    add("folders", type=Path, nargs="+", metavar="FOLDER", help="of one domain each")
    add("--output", type=Path, required=True, metavar="FOLDER", help="of the new domain")
    add(
        "--shard-tokens", type=int, default=SHARD_TOKENS, metavar="N",
        help="close a shard once it holds so many (%(default)s)",
    )  # fmt: skip
    add("--drop-ids", action="store_true", help="leave out where documents came from")
    args = parser.parse_args()
    try:
        sources = read_merge_sources(args.folders)
        total = sum(source.num_tokens for source in sources)
        with tqdm(
            total=total,
            unit=" tokens",
            unit_scale=True,
            desc="merging",
            disable=not shows_bars(),
        ) as bar:
            manifest = merge_domains(
                sources,
                args.output,
                shard_tokens=args.shard_tokens,
                drop_ids=args.drop_ids,
                progress=bar.update,
            )
    except MegadgaError as error:
        parser.exit(2, f"{parser.prog}: {error}\n")
    print(render_table(summarize(manifest)))


if __name__ == "__main__":
    run_program(main)
