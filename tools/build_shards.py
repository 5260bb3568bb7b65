"""Turn text into shards, one domain an input."""

import argparse
import os
from itertools import chain
from pathlib import Path

from tqdm import tqdm

from megadga.errors import MegadgaError
from megadga.prepare.documents import count_input_bytes
from megadga.prepare.inputs import expand_inputs, plan_domains
from megadga.prepare.shards import Recipe, build_shards
from megadga.prepare.tokenizer import load_tokenizer
from megadga.shards.inspection import render_table, summarize

EPILOG = """\
example:
  python tools/build_shards.py --input 'text/*.jsonl.gz' --tokenizer web.model --output shards

Inputs are files (.jsonl, .jsonl.gz, .txt) and folders of files; text/novels.jsonl.gz becomes
shards/novels/. A pair qa.train.jsonl, qa.valid.jsonl becomes the two splits of shards/qa/; of any
other a fraction of the documents, chosen by their text, is held out. Workers change no byte.
"""


def main() -> None:
    """Parse the command line, build, and print a table of what was built."""
    parser = argparse.ArgumentParser(
        description=__doc__, epilog=EPILOG, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--input", nargs="+", required=True, metavar="GLOB", help="files or folders of documents")
    add("--tokenizer", type=Path, required=True, metavar="FILE", help="a .model or tokenizer.json")
    add("--eod", metavar="TOKEN", help="what ends documents (the tokenizer's own, if it has one)")
    add("--output", type=Path, required=True, metavar="FOLDER", help="gets one folder a domain")
    add("--text-key", default="text", metavar="KEY", help="of the JSON objects (%(default)s)")
    add("--valid-fraction", type=float, default=0.05, metavar="F", help="in [0, 1) (%(default)s)")
    add("--seed", type=int, default=0, metavar="N", help="of the shuffle (%(default)s)")
    add("--workers", type=int, default=os.cpu_count(), metavar="N", help="processes (all cores)")
    args = parser.parse_args()
    try:
        recipe = Recipe(args.text_key, args.valid_fraction, args.seed)
        inputs = plan_domains(expand_inputs(args.input))
        tokenizer = load_tokenizer(args.tokenizer, eod=args.eod)
        paths = [path for source in inputs for path in (source.train, source.valid) if path]
        total = sum(map(count_input_bytes, paths))
        with tqdm(total=total, unit="B", unit_scale=True, desc="tokenizing", disable=None) as bar:
            built = build_shards(
                inputs, tokenizer, args.output, recipe, workers=args.workers, progress=bar.update
            )
    except MegadgaError as error:
        parser.exit(2, f"{parser.prog}: {error}\n")
    print(render_table(list(chain.from_iterable(summarize(b.manifest) for b in built))))
    if num_empty := sum(domain.num_empty for domain in built):
        print(f"left out {num_empty:,} documents without text")


if __name__ == "__main__":
    main()
