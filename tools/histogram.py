"""Measure the share of reference sets in each cluster: importance weights, or a basis."""

from pathlib import Path

from megadga.console import run_program, tool_parser
from megadga.errors import MegadgaError
from megadga.prepare.clustering import references
from megadga.prepare.clustering.clusters import Clustering
from megadga.prepare.clustering.references import Smoothing
from megadga.prepare.pieces import text_cutter
from megadga.prepare.pipeline.command import add_reading_options
from megadga.prepare.progress import ProgressBars
from megadga.prepare.reading.records import BadRecords, MaxBad
from megadga.prepare.tokenizer import load_tokenizer

EPILOG = """\
example:
  python tools/histogram.py --clusters clusters --level 4096 --smooth 16 --output basis.npz \\
      --input qa='mine/qa.*.jsonl' --input code='mine/code/*.jsonl.gz'

FILE.npz is a basis of one row per set; FILE.json takes one set and is what the configuration
`mixing: {type: importance, histogram: FILE.json}` reads.
"""


def main() -> None:
    """Parse the command line, measure, write, and say what was found."""
    parser = tool_parser(__doc__, EPILOG)
    add = parser.add_argument
    add("--clusters", type=Path, required=True, metavar="FOLDER", help="of train_clusters.py")
    add("--level", type=int, required=True, metavar="K", help="its number of clusters")
    add("--input", nargs="+", action="extend", required=True, metavar="NAME=GLOB", help="a set")
    add("--output", type=Path, required=True, metavar="FILE", help="ends in .json or .npz")
    add("--embedder", type=Path, metavar="FOLDER", help="where the model is now, if not TF-IDF")
    add("--tokenizer", type=Path, metavar="MODEL", help="what counts the tokens of pieces")
    add("--piece-tokens", type=int, metavar="N", help="cut documents (they stay whole)")
    add("--smooth", type=int, metavar="M", help="clusters that an example counts for (its own)")
    add("--temperature", type=float, default=0.02, metavar="T", help="of --smooth (%(default)s)")
    add_reading_options(parser)
    args = parser.parse_args()
    try:
        sets = references.parse_references(args.input, output=args.output)
        references.check_output(args.output, len(sets))
        cut = text_cutter(args.tokenizer and load_tokenizer(args.tokenizer), args.piece_tokens)
        bad = BadRecords(MaxBad.parse(args.max_bad))
        smoothing = None if args.smooth is None else Smoothing(args.smooth, args.temperature)
        clustering = Clustering.load(args.clusters, embedder_path=args.embedder)
        with ProgressBars() as bars:
            basis = references.measure_references(
                sets, clustering, args.level,
                cut=cut, text_key=args.text_key, bad=bad, smoothing=smoothing, stages=bars,
            )  # fmt: skip
        references.write_shares(args.output, basis)
    except MegadgaError as error:
        parser.exit(2, f"{parser.prog}: {error}\n")
    print("\n".join((*bad.describe(), *references.describe_rows(basis))))


if __name__ == "__main__":
    run_program(main)
