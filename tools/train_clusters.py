"""Learn an embedding and hierarchical clusters from a sample of documents."""

import os
from pathlib import Path

from megadga.console import run_program, tool_parser
from megadga.errors import MegadgaError
from megadga.prepare.clustering.embedding import SentenceEmbedder
from megadga.prepare.clustering.training import ClusteringRecipe, train_clusters
from megadga.prepare.pieces import text_cutter
from megadga.prepare.pipeline.command import add_reading_options
from megadga.prepare.progress import ProgressBars
from megadga.prepare.reading.inputs import expand_inputs
from megadga.prepare.reading.records import MaxBad
from megadga.prepare.tokenizer import load_tokenizer

EPILOG = """\
example:
  python tools/train_clusters.py --input 'text/*.jsonl.gz' --levels 64 4096 \\
      --tokenizer web.model --piece-tokens 256 --output clusters

The embedding is TF-IDF with a truncated SVD, fitted to the input, or a sentence-transformers model
on this machine (--embedder). Give build_shards.py and histogram.py the same --piece-tokens.
What says validation or test is left out. The result is the same for any number of workers.
"""


def main() -> None:
    """Parse the command line, learn, and say what was written."""
    parser = tool_parser(__doc__, EPILOG)
    add = parser.add_argument
    add("--input", nargs="+", required=True, metavar="GLOB", help="files or folders of documents")
    add("--output", type=Path, required=True, metavar="FOLDER", help="gets the clustering")
    add("--levels", type=int, nargs="+", required=True, metavar="K", help="clusters, coarse first")
    add("--embedder", type=Path, metavar="FOLDER", help="a sentence-transformers model (TF-IDF)")
    add("--tokenizer", type=Path, metavar="MODEL", help="what counts the tokens of pieces")
    add("--piece-tokens", type=int, metavar="N", help="cut documents (they stay whole)")
    add_reading_options(parser)
    add("--seed", type=int, default=0, metavar="N", help="of samples and k-means (%(default)s)")
    add("--workers", type=int, default=os.cpu_count(), metavar="N", help="processes (all cores)")
    args = parser.parse_args()
    try:
        tokenizer = args.tokenizer and load_tokenizer(args.tokenizer)
        cut = text_cutter(tokenizer, args.piece_tokens)
        max_bad = MaxBad.parse(args.max_bad)
        recipe = ClusteringRecipe(tuple(args.levels), cut, args.text_key, args.seed, max_bad)
        embedder = args.embedder and SentenceEmbedder.load(args.embedder)
        with ProgressBars() as bars:
            clustering = train_clusters(
                expand_inputs(args.input), args.output, recipe,
                embedder=embedder, workers=args.workers, stages=bars, report=print,
            )  # fmt: skip
    except MegadgaError as error:
        parser.exit(2, f"{parser.prog}: {error}\n")
    levels = ", ".join(f"{level:,}" for level in clustering.tree.levels)
    print(f"{args.output}: {levels} clusters, fingerprint {clustering.fingerprint[:12]}")


if __name__ == "__main__":
    run_program(main)
