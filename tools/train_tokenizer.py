"""Train a sentencepiece tokenizer on text files."""

import argparse
import sys
from pathlib import Path

from tqdm import tqdm

from megadga.errors import MegadgaError
from megadga.prepare.reading.inputs import expand_inputs, left_out_lines
from megadga.prepare.training import sample_texts, train_tokenizer
from megadga.terminal import draws_bars

EPILOG = """\
example:
  python tools/train_tokenizer.py --input 'text/*.jsonl.gz' --vocab-size 32000 --output tok/web32k

writes tok/web32k.model. The vocabulary holds 256 bytes and 3 control pieces; </s> ends documents.
Every input contributes the same amount of text, 100 million characters together at most. Files
whose names say validation or test are left out.
"""


def main() -> None:
    """Parse the command line, train, and say what was written."""
    parser = argparse.ArgumentParser(
        description=__doc__, epilog=EPILOG, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--input", nargs="+", required=True, metavar="GLOB",
        help="files (.jsonl, .jsonl.gz, .txt) or folders of files",
    )  # fmt: skip
    parser.add_argument("--vocab-size", type=int, required=True, metavar="N", help="number of ids")
    parser.add_argument(
        "--output", type=Path, required=True, metavar="PREFIX", help="the model is PREFIX.model"
    )
    parser.add_argument(
        "--text-key", default="text", metavar="KEY", help="key of the text in JSON (default: text)"
    )
    args = parser.parse_args()
    try:
        inputs = expand_inputs(args.input)
        left_out = left_out_lines(inputs)
        texts = sample_texts(inputs, text_key=args.text_key)
        reading = tqdm(
            texts, desc="reading", unit=" documents", disable=not draws_bars(sys.stderr)
        )
        tokenizer = train_tokenizer(reading, vocab_size=args.vocab_size, prefix=args.output)
    except MegadgaError as error:
        parser.exit(2, f"{parser.prog}: {error}\n")
    print(*left_out, f"{tokenizer.path}: {tokenizer.identity.vocab_size} ids", sep="\n")


if __name__ == "__main__":
    main()
