"""Train a sentencepiece tokenizer on text files."""

from pathlib import Path

from tqdm import tqdm

from megadga.console import run_program, shows_bars, tool_parser
from megadga.errors import MegadgaError
from megadga.prepare.pipeline.command import add_reading_options
from megadga.prepare.reading.inputs import describe_skipped, expand_inputs
from megadga.prepare.reading.records import BadRecords, MaxBad
from megadga.prepare.training import sample_texts, train_tokenizer

EPILOG = """\
example:
  python tools/train_tokenizer.py --input 'text/*.jsonl.gz' --vocab-size 32000 --output tok/web32k

writes tok/web32k.model. The vocabulary holds 256 bytes and 3 control pieces; </s> ends documents.
Every input contributes the same amount of text, 100 million characters together at most. Files
whose names say validation or test are left out.
"""


def main() -> None:
    """Parse the command line, train, and say what was written."""
    parser = tool_parser(__doc__, EPILOG)
    parser.add_argument(
        "--input", nargs="+", required=True, metavar="GLOB",
        help="files (.jsonl, .jsonl.gz, .txt) or folders of files",
    )  # fmt: skip
    parser.add_argument("--vocab-size", type=int, required=True, metavar="N", help="number of ids")
    parser.add_argument(
        "--output", type=Path, required=True, metavar="PREFIX", help="the model is PREFIX.model"
    )
    add_reading_options(parser)
    args = parser.parse_args()
    try:
        inputs = expand_inputs(args.input, output=Path(f"{args.output}.model"))
        left_out = describe_skipped(inputs)
        bad = BadRecords(MaxBad.parse(args.max_bad))
        texts = sample_texts(inputs, text_key=args.text_key, bad=bad)
        reading = tqdm(texts, desc="reading", unit=" documents", disable=not shows_bars())
        tokenizer = train_tokenizer(reading, vocab_size=args.vocab_size, prefix=args.output)
    except MegadgaError as error:
        parser.exit(2, f"{parser.prog}: {error}\n")
    learnt = f"{tokenizer.path}: {tokenizer.identity.vocab_size} ids"
    print(*left_out, *bad.describe(), learnt, sep="\n")


if __name__ == "__main__":
    run_program(main)
