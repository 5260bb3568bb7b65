"""Write the manifest of a folder with shards that Megatron has built."""

from pathlib import Path

from tqdm import tqdm

from megadga.console import run_program, shows_bars, tool_parser
from megadga.data.create import adopt_shards, count_token_bytes
from megadga.data.inspection import render_table, summarize
from megadga.errors import MegadgaError
from megadga.prepare.tokenizer import load_tokenizer

EPILOG = """\
example:
  python tools/adopt_shards.py shards/web --tokenizer tokenizer.json --valid '*_valid_*'

All shards in the folder become the training split, in the natural order of their names (web_2
before web_10), except those that match --valid. The shards are read whole, and left as they are.
"""


def main() -> None:
    """Parse the command line, adopt, and print a table of what was found."""
    parser = tool_parser(__doc__, EPILOG)
    add = parser.add_argument
    add("folder", type=Path, metavar="FOLDER", help="with .bin and .idx; gets a manifest.json")
    add("--tokenizer", type=Path, required=True, metavar="FILE", help="what wrote the tokens")
    add("--eod", metavar="TOKEN", help="what ends documents (the tokenizer's own, if it has one)")
    add("--valid", metavar="GLOB", help="names, without .idx, of shards to validate on")
    args = parser.parse_args()
    try:
        tokenizer = load_tokenizer(args.tokenizer, eod=args.eod, encodes=False)
        total = count_token_bytes(args.folder)
        with tqdm(
            total=total, unit="B", unit_scale=True, desc="reading", disable=not shows_bars()
        ) as bar:
            adopted = adopt_shards(
                args.folder, tokenizer.identity, valid=args.valid, progress=bar.update
            )
    except MegadgaError as error:
        parser.exit(2, f"{parser.prog}: {error}\n")
    print(render_table(summarize(adopted.manifest)))
    if adopted.without_eod:
        print(f"documents that do not end in EOD: {adopted.without_eod:,}")


if __name__ == "__main__":
    run_program(main)
