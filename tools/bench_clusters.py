"""Cluster a corpus whose domains are known, one per input; report purity, time and memory."""

import json
import os
import resource
import tempfile
import time
from dataclasses import asdict
from pathlib import Path

from megadga.console import run_program, tool_parser
from megadga.demo.benchmark import prepare_corpus
from megadga.errors import MegadgaError
from megadga.prepare.clustering import training
from megadga.prepare.clustering.clusters import assign_inputs
from megadga.prepare.pieces import text_cutter
from megadga.prepare.tokenizers.loading import load_tokenizer

EPILOG = "example: python tools/bench_clusters.py --input 'text/*.jsonl.gz'"
LEVELS, PIECE_TOKENS = (64, 4096), 256


def main() -> None:
    """Parse the command line, measure, print the numbers and write them as JSON."""
    parser = tool_parser(__doc__, EPILOG)
    add = parser.add_argument
    add("--input", nargs="+", metavar="GLOB", help="files, one per domain (text of this machine)")
    add("--vocab-size", type=int, default=16_000, metavar="N", help="(%(default)s)")
    add("--seed", type=int, default=0, metavar="N", help="of samples and k-means (%(default)s)")
    add("--workers", type=int, default=os.cpu_count(), metavar="N", help="processes (all cores)")
    add("--output", type=Path, default=Path("build/bench/clusters.json"), metavar="FILE")
    args = parser.parse_args()
    try:
        with tempfile.TemporaryDirectory() as name:
            folder = Path(name)
            paths, model = prepare_corpus(args.input, folder, vocab_size=args.vocab_size)
            cut = text_cutter(load_tokenizer(model), PIECE_TOKENS)
            recipe = training.ClusteringRecipe(LEVELS, cut, seed=args.seed)
            begun = time.perf_counter()
            output = folder / "clusters"
            clustering = training.train_clusters(paths, output, recipe, workers=args.workers)
            learned, classifier = time.perf_counter(), clustering.classifier(LEVELS[-1])
            clusters, labels = assign_inputs(classifier, paths, cut=cut, workers=args.workers)
            assigned = time.perf_counter()
    except MegadgaError as error:
        parser.exit(2, f"{parser.prog}: {error}\n")
    usage = (resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    record = {
        "texts": len(labels), "seed": args.seed, "workers": args.workers,
        "learning_s": learned - begun, "assigning_s": assigned - learned,
        "largest_process_mib": max(process.ru_maxrss for process in usage) / 1024,
        "levels": list(map(asdict, training.summarize_clusters(clusters, labels, levels=LEVELS))),
    }  # fmt: skip
    print(json.dumps(record, indent=2))
    args.output.parent.mkdir(parents=True, exist_ok=True)
    args.output.write_text(json.dumps(record, indent=2) + "\n")


if __name__ == "__main__":
    run_program(main)
